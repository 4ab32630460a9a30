"""A gateway that works on batches over fake models, as `cli/serving.py` puts it together.

    python -m tests.gateway.batch_house HOME

runs one of its own, which prints its URL: the server that the drill kills.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
from openai.types import Batch

from bessemer.app.batch_runner import BatchRunner
from bessemer.app.embeddings import Embedded, EmbedRequest
from bessemer.app.keys import KeyRing
from bessemer.app.metering import Meter
from bessemer.app.permitted_serving import PermittedServing
from bessemer.app.platform import Platform
from bessemer.app.stored_completions import Keeper
from bessemer.core.database import now_ms
from bessemer.core.home import Home
from bessemer.core.protocols import ChatRequest, Delta
from bessemer.gateway.answerer import GatewayAnswerer
from bessemer.gateway.asgi import build
from bessemer.gateway.exchange import ASGIApp
from bessemer.gateway.resources import resource_routes
from bessemer.gateway.server import Server, bind, url_of
from tests.fakes import FakeResponder, FakeServing
from tests.gateway.calling import KEY, FakeKeyRing, running
from tests.metered import charge
from tests.polling import until

CHAT = "/v1/chat/completions"
OVER = ("completed", "failed", "expired", "cancelled")


class TwoNumbers:
    """Implements `Embedder`; each text has as many tokens as words."""

    async def embed(self, request: EmbedRequest) -> Embedded:
        count = sum(len(str(text).split()) for text in request.inputs)
        if request.tally is not None:
            await request.tally.expect("vectors", count, 0)
        return Embedded([[0.6, 0.8] for _ in request.inputs], count)


def fakes(**more: FakeResponder) -> FakeServing:
    """Model `tiny`, the embedder `vectors`, and `more`."""
    return FakeServing({"tiny": FakeResponder(), **more}, embedders={"vectors": TwoNumbers()})


@dataclass
class House:
    client: openai.OpenAI

    def submit(self, lines: Sequence[bytes], endpoint: str = CHAT, **more: Any) -> Batch:
        """A batch of these lines."""
        file = self.client.files.create(file=("in.jsonl", b"".join(lines)), purpose="batch")
        return self.client.batches.create(
            input_file_id=file.id,
            endpoint=endpoint,  # type: ignore[arg-type]
            completion_window="24h",
            **more,
        )

    def reached(self, batch: Batch, *status: str) -> Batch:
        """The batch, once it has one of these statuses."""
        until(
            lambda: self.client.batches.retrieve(batch.id).status in status,
            f"{batch.id} is one of {status}",
        )
        return self.client.batches.retrieve(batch.id)

    def run(self, lines: Sequence[bytes], endpoint: str = CHAT) -> Batch:
        return self.reached(self.submit(lines, endpoint), *OVER)

    def read(self, file_id: str | None) -> list[Any]:
        """The lines of a file; none where there is no file."""
        if file_id is None:
            return []
        return [json.loads(raw) for raw in self.client.files.content(file_id).content.splitlines()]


def line(custom_id: str, url: str = CHAT, **body: Any) -> bytes:
    asked = {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
    return json.dumps(asked).encode() + b"\n"


def chat_line(custom_id: str, **body: Any) -> bytes:
    messages = [{"role": "user", "content": "Hi"}]
    return line(custom_id, **{"model": "tiny", "messages": messages, **body})


def assemble(
    platform: Platform,
    serving: FakeServing,
    meter: Meter,
    clock: Callable[[], int] = now_ms,
    keys: KeyRing | None = None,
) -> tuple[ASGIApp, BatchRunner]:
    """The gateway, and what works on batches beside it."""
    permitted, keeper = PermittedServing(serving, keys), Keeper(platform)
    routes = resource_routes(platform, serving=permitted, meter=meter)
    app = build(permitted, FakeKeyRing(), meter=meter, routes=routes, keeper=keeper)
    answerer = GatewayAnswerer(platform, permitted, keeper)
    return app, BatchRunner(platform, answerer, meter, tick_s=0.02, clock=clock)


@contextlib.asynccontextmanager
async def working(runner: BatchRunner) -> AsyncIterator[None]:
    await runner.start()
    try:
        yield
    finally:
        await runner.close()


@contextlib.contextmanager
def house(
    platform: Platform,
    serving: FakeServing | None = None,
    clock: Callable[[], int] = now_ms,
    keys: KeyRing | None = None,
) -> Iterator[House]:
    """A server in a thread; everything is on disk after it. `keys` bind the work on batches."""
    meter = Meter.of(platform)
    app, runner = assemble(platform, serving or fakes(), meter, clock, keys)
    try:
        with running(app, lifespan=working(runner)) as server:
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
            yield House(client)
    finally:
        meter.close()


class Unhurried(FakeResponder):
    """About a millisecond a token, so that lines are under way at any moment."""

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        async for delta in super().respond(request):
            await asyncio.sleep(0.001)
            yield delta


def main() -> None:
    with Platform.open(Home(Path(sys.argv[1]))) as platform:
        charge(platform)
        meter = Meter.of(platform)
        app, runner = assemble(platform, fakes(tiny=Unhurried(["word "] * 4)), meter)
        sock = bind("127.0.0.1", 0)
        url = url_of(sock)
        started = lambda _: print(url, flush=True)  # noqa: E731
        Server(app, sock, lifespan=working(runner), started=started).run()


if __name__ == "__main__":
    main()
