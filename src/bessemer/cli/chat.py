"""`bessemer chat`: talk to a model in the terminal."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import click

from bessemer.cli.output import json_option, print_json


@click.command()
@click.argument("model", default="smollm2-135m-instruct")
@click.option("--message", "-m", help="Ask this one thing and print the answer.")
@click.option("--system", help="A system message to begin with.")
@click.option(
    "--temperature",
    type=click.FloatRange(0, 2),
    default=0.7,
    show_default=True,
    help="0: always the likeliest token.",
)
@click.option("--max-tokens", type=click.IntRange(1), help="The longest answer, in tokens.")
@click.option(
    "--seed",
    type=click.IntRange(-(2**63), 2**63 - 1),
    help="The same seed and words give the same answer.",
)
@click.option("--threads", type=click.IntRange(1), help="Cores to use; by default all.")
@json_option
def command(
    model: str,
    message: str | None,
    system: str | None,
    temperature: float,
    max_tokens: int | None,
    seed: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Talk to a model in the terminal.

    MODEL is a model's or an adapter's name or digest, or a model folder. It is loaded for this
    talk; no server is needed. An empty line or Ctrl-D ends it.

    \b
    Examples:
      bessemer chat
      bessemer chat smollm2-135m-instruct --message "What is the capital of France?"
    """
    from bessemer.app.adapters import find_served_local
    from bessemer.app.machine import usable_cores
    from bessemer.app.platform import Platform
    from bessemer.core.protocols import Sampling

    if as_json and message is None:
        raise click.UsageError("--json needs a --message")
    with Platform.open() as platform:
        named = find_served_local(platform, platform.local_principal(), model)
        talk = _Talk(
            Sampling(temperature=temperature, seed=seed), max_tokens, system, quiet=as_json
        )
        asyncio.run(talk.run(platform, named, threads or usable_cores(), message))
    if as_json:
        print_json(talk.facts)


class _Talk:
    def __init__(
        self, sampling: Any, max_tokens: int | None, system: str | None, *, quiet: bool
    ) -> None:
        self._sampling, self._max_tokens, self._quiet = sampling, max_tokens, quiet
        self._messages = [{"role": "system", "content": system}] if system else []
        self.facts: dict[str, Any] = {}

    async def run(self, platform: Any, model: Any, threads: int, message: str | None) -> None:
        from bessemer.app.engines import EnginePool
        from bessemer.app.pool_serving import responder_for

        pool = EnginePool(platform, threads)
        try:
            responder = await responder_for(pool, model)
            if message is not None:
                await self._answer(responder, message)
                return
            click.echo(f"{model.name}; an empty line ends it", err=True)
            while words := await asyncio.to_thread(_listen):
                await self._answer(responder, words)
        finally:
            await pool.close()

    async def _answer(self, responder: Any, words: str) -> None:
        from bessemer.core.ids import new_id
        from bessemer.core.protocols import ChatRequest

        self._messages.append({"role": "user", "content": words})
        request = ChatRequest(
            request_id=new_id("chat"),
            messages=self._messages,
            max_tokens=self._max_tokens,
            sampling=self._sampling,
        )
        said = []
        async for delta in responder.respond(request):
            said.append(delta.text)
            if not self._quiet:
                click.echo(delta.text, nl=False)
            if delta.usage is not None:
                self.facts = {
                    "message": "".join(said),
                    "finish_reason": delta.finish_reason,
                    "prompt_tokens": delta.usage.prompt_tokens,
                    "completion_tokens": delta.usage.completion_tokens,
                }
        if not self._quiet:
            click.echo()
        self._messages.append({"role": "assistant", "content": "".join(said)})


def _listen() -> str:
    click.echo(click.style("> ", bold=True), nl=False, err=True)
    return sys.stdin.readline().strip()
