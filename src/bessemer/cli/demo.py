"""`bessemer demo`: first light, step by step; every step is real and prints its figure.

It is the other verbs in a row: doctor, pull, data, eval, train, eval, up, and one chat through
the official `openai` client.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bessemer.cli.output import duration, short, size
from bessemer.core.errors import BessemerError, HomeLocked, Missing

if TYPE_CHECKING:
    from bessemer.app.datasets import NamedDataset
    from bessemer.app.models import NamedModel
    from bessemer.app.platform import Platform
    from bessemer.core.runs import RunFolder

QUESTION = "What does the Python function os.path.join do?"
STEPS = 8


@click.command()
@click.option(
    "--recipe",
    type=click.Path(path_type=Path),
    default="recipes/teach.toml",
    show_default=True,
    help="What is taught, and how.",
)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Time to teach for.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8000, show_default=True, help="Port to listen on; 0 takes a free one."
)
@click.option("--check", is_flag=True, help="Stop after the chat, with exit status 0.")
def command(recipe: Path, minutes: float | None, host: str, port: int, check: bool) -> int:
    """From nothing to a taught, measured and served model, in minutes.

    Pulls a small instruct model, teaches it this Python's own documentation, says with an
    interval whether it got better, and serves both models until Ctrl-C.
    """
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        if platform.home.is_locked():
            raise HomeLocked(
                f"a server runs on {platform.home.root}, and the demo starts its own",
                next_step="stop it, or set BESSEMER_HOME to another folder",
            )
        with platform.home.lock():
            return _Demo(platform, recipe, minutes).run(host, port, check)


class _Demo:
    def __init__(self, platform: Platform, recipe: Path, minutes: float | None) -> None:
        from bessemer.app.machine import usable_cores

        self._platform, self._recipe = platform, recipe
        self._overrides = [f"minutes={minutes}"] if minutes else []
        self._principal = platform.local_principal()
        self._threads = usable_cores()
        self._started = time.monotonic()
        self._number = 0
        self._told: set[str] = set()  # the second evaluation repeats what the first one found

    def run(self, host: str, port: int, check: bool) -> int:
        """The story, top to bottom."""
        self._doctor()
        base = self._pull()
        data = self._data()
        before = self._evaluate("measuring the base model", base, None, data, None)
        taught = self._teach()
        self._evaluate("measuring again, base and taught", base, taught, data, before)
        return self._serve([base, taught], host, port, check)

    def _doctor(self) -> None:
        from bessemer.app.machine import examine

        done = self._step("doctor")
        machine = examine(self._platform.home)
        speed = max(machine.bf16_gflops or 0, machine.fp32_gflops or 0)
        done(
            f"{machine.cores} cores, {size(machine.memory_available_bytes)} of memory,"
            f" {machine.faster} at {speed:.0f} GFLOP/s, GPU: {machine.accelerator or 'none'}"
        )
        for verdict in machine.verdicts():
            if not verdict.works and verdict.what != "use a GPU":
                click.secho(f"    may not work: {verdict.what}: {verdict.why}", fg="yellow")

    def _pull(self) -> NamedModel:
        from bessemer.app.catalog import DEFAULT_MODEL
        from bessemer.app.pull import pull

        done = self._step(f"pulling {DEFAULT_MODEL}")
        model = pull(self._platform, self._principal, DEFAULT_MODEL, say=_aside)
        licence = model.artifact.licence
        done(f"{short(model.digest)}, {size(model.artifact.size_bytes)}, {licence}, hashes hold")
        return model

    def _data(self) -> NamedDataset:
        from bessemer.app.datasets import build_python_docs, describe

        done = self._step("building the dataset python-docs")
        data = build_python_docs(self._platform, self._principal)
        info = describe(data)
        counts = info["counts"]
        done(
            f"{info['chats']:,} chats from {info['symbols']:,} symbols"
            f" ({counts['train']:,} train, {counts['validation']:,} validation,"
            f" {counts['test']:,} test), no symbol in two splits"
        )
        return data

    def _evaluate(
        self,
        what: str,
        base: NamedModel,
        taught: NamedModel | None,
        data: NamedDataset,
        reuse: RunFolder | None,
    ) -> RunFolder:
        from bessemer.app.evaluations import read_report, submit_eval

        done = self._step(what)
        run = submit_eval(
            self._platform,
            self._principal,
            base,
            taught,
            data,
            threads=self._threads,
            reuse=reuse,
        )
        self._follow(run)
        report = read_report(run)
        done(f"{report.settings['items']} held-out questions")
        for sentence in report.sentences:
            if sentence not in self._told:
                click.echo(f"    {sentence}")
        self._told.update(report.sentences)
        return run

    def _teach(self) -> NamedModel:
        from bessemer.app.models import find_model
        from bessemer.app.training import load_recipe, submit_train

        recipe = load_recipe(self._recipe, self._overrides)
        done = self._step(f"teaching by {self._recipe} ({recipe.minutes:g} minutes)")
        run = submit_train(self._platform, self._principal, recipe, threads=self._threads)
        self._follow(run)
        taught = find_model(self._platform, self._principal, run.plan()["name"])
        step = run.last("step") or {}
        done(
            f"{step.get('step')} steps, loss {step.get('loss', float('nan')):.2f},"
            f" {step.get('tokens_s', 0):,.0f} tokens/s -> {taught.name} {short(taught.digest)}"
        )
        if sample := run.last("sample"):
            click.echo(f"    it now says: {str(sample.get('text', '')).strip()[:200]!r}")
        return taught

    def _follow(self, run: RunFolder) -> None:
        from bessemer.app import jobs
        from bessemer.cli.following import follow

        jobs.start_detached(self._platform, run)
        try:
            follow(run)
        except KeyboardInterrupt:
            # Here nobody is left to use what the run would make.
            jobs.cancel(self._platform, self._principal, run.run_id)
            raise
        jobs.harvest(self._platform)

    def _serve(self, served: list[NamedModel], host: str, port: int, check: bool) -> int:
        from bessemer.app.keys import create_key
        from bessemer.cli.serving import Service

        done = self._step("starting gateway, engines and console")
        key = create_key(self._platform, self._principal, "demo")
        outcome: list[BaseException] = []

        def chat(url: str, login: str) -> None:
            try:
                done(f"{url} answers")
                self._chat(f"{url}/v1", key.secret, served[-1].name)
                _farewell(url, login, key.secret, served[-1].name, self._elapsed())
            except BaseException as fault:
                outcome.append(fault)
            if check or outcome:
                service.stop()

        def started(url: str, login: str) -> None:
            threading.Thread(target=chat, args=(url, login), name="demo chat").start()

        service = Service(
            self._platform,
            host=host,
            port=port,
            threads=self._threads,
            preload=served,
            started=started,
        )
        service.run()
        if outcome:
            raise outcome[0]
        click.echo(f"stopped; bessemer up serves both models again. {self._elapsed()}")
        return 0

    def _chat(self, base_url: str, secret: str, model: str) -> None:
        """One chat through the client that people have already."""
        try:
            from openai import APIError, OpenAI
        except ModuleNotFoundError:
            raise Missing(
                "the demo chats through the official client, which is not installed",
                next_step="pip install openai",
            ) from None
        done = self._step("one chat through the official openai client")
        begun = time.monotonic()
        try:
            # The first request waits until the engine has loaded.
            with OpenAI(base_url=base_url, api_key=secret, timeout=180) as client:
                answer = client.chat.completions.create(
                    model=model,
                    messages=[{"role": "user", "content": QUESTION}],
                    temperature=0,
                    max_tokens=96,
                )
        except APIError as fault:
            raise BessemerError(f"the chat failed: {fault}") from fault
        spent_s = time.monotonic() - begun
        usage = answer.usage
        assert usage is not None
        done(
            f"{usage.prompt_tokens} + {usage.completion_tokens} tokens"
            f" in {spent_s:.1f} s, loading included"
        )
        click.echo(f"    you: {QUESTION}\n    {model}: {answer.choices[0].message.content}")

    def _step(self, what: str) -> Callable[[str], None]:
        """Say what begins; the function it returns says what came of it."""
        self._number += 1
        begun = time.monotonic()
        click.echo(f"{click.style(f'[{self._number}/{STEPS}]', bold=True)} {what}")

        def done(figure: str) -> None:
            took = f"{time.monotonic() - begun:.1f} s"
            click.echo(f"    {click.style('done', fg='green')}  {figure}  ({took})")

        return done

    def _elapsed(self) -> str:
        return f"The demo took {duration(time.monotonic() - self._started)}."


def _aside(text: str) -> None:
    click.echo(f"    {text}", err=True)


def _farewell(url: str, login: str, secret: str, model: str, elapsed: str) -> None:
    message: dict[str, Any] = {"role": "user", "content": QUESTION}
    import json

    body = json.dumps({"model": model, "messages": [message]})
    click.echo(
        f"\n{elapsed} Both models are being served.\n\n"
        f"  browser  {login}\n"
        f"           (good once, for 15 minutes; bessemer login prints another)\n"
        f"  API      {url}/v1\n"
        f"  key      {secret}\n"
        f"           (shown this once, stored as a hash)\n"
        f"  curl     curl {url}/v1/chat/completions -H 'Authorization: Bearer {secret}'"
        f" -H 'Content-Type: application/json' -d '{body}'\n\n"
        f"Ctrl-C stops the server."
    )
