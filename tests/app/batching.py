"""A batch without a model: an answerer that repeats what it is asked, and a runner around it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec

from bessemer.app import batches, files
from bessemer.app.answerer import Answered, Posted
from bessemer.app.batch_runner import BatchRunner
from bessemer.app.metering import Meter
from bessemer.app.platform import Platform
from bessemer.core.principal import Principal
from bessemer.core.protocols import Usage
from tests.polling import until_async

CHAT = "/v1/chat/completions"
TICK_S = 0.02


class Echo:
    """Implements `Answerer`: the answer is the body; what it says of itself can be asked for.

    A body may say: `status` of the answer, `busy`: how often it is to be asked again before,
    `hold`: wait until `go`.
    """

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked: list[dict[str, Any]] = []
        self.principals: set[Principal] = set()
        self.clients: set[str] = set()
        self.running = self.most_running = 0
        self._busy: dict[bytes, int] = {}

    async def answer(self, posted: Posted) -> Answered:
        said = json.loads(posted.body)
        self.asked.append(said)
        self.principals.add(posted.principal)
        self.clients.add(posted.client)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(0)
            if said.get("hold"):
                await self.go.wait()
        finally:
            self.running -= 1
        times = self._busy[posted.body] = self._busy.get(posted.body, 0) + 1
        if times <= said.get("busy", 0):
            return Answered(429, b'{"error":{}}', retry_after_s=0.01)
        usage = Usage(prompt_tokens=3, cached_tokens=1, completion_tokens=2)
        status = said.get("status", 200)
        return Answered(status, msgspec.json.encode(said), usage if status == 200 else None)


def line(custom_id: str, url: str = CHAT, **body: Any) -> bytes:
    asked = {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": "m", **body}}
    return json.dumps(asked).encode() + b"\n"


def submit(
    platform: Platform, owner: Principal, lines: Sequence[bytes], **more: Any
) -> batches.Batch:
    file = files.add_bytes(platform, owner, "in.jsonl", "batch", b"".join(lines))
    return batches.create(platform, owner, file.id, CHAT, **more)


@contextlib.asynccontextmanager
async def going(
    platform: Platform,
    answerer: Any,
    clock: Callable[[], int] | None = None,
    meter: Meter | None = None,
) -> AsyncIterator[BatchRunner]:
    more = {} if clock is None else {"clock": clock}
    meter = meter or Meter.of(platform)
    runner = BatchRunner(platform, answerer, meter, tick_s=TICK_S, pause_s=TICK_S, **more)
    await runner.start()
    try:
        yield runner
    finally:
        await runner.close()
        meter.close()


async def reached(
    platform: Platform, batch: batches.Batch, *status: str, wait_s: float = 20.0
) -> batches.Batch:
    """The batch, once it has one of these statuses."""
    owner = Principal(batch.owner.org_id, batch.owner.project_id, "", frozenset({"*"}))

    def now() -> batches.Batch:
        return batches.get(platform, owner, batch.id)

    await until_async(lambda: now().status in status, f"the batch is {status}", wait_s)
    return now()


async def done(platform: Platform, batch: batches.Batch) -> batches.Batch:
    return await reached(platform, batch, "completed", "failed", "expired", "cancelled")


def run(platform: Platform, answerer: Any, batch: batches.Batch) -> batches.Batch:
    """Start a runner and let it go on until the batch is over."""

    async def work() -> batches.Batch:
        async with going(platform, answerer):
            over = await done(platform, batch)
            # Its folder goes after its status is told; a server that ends between leaves it to the
            # next one.
            folder = platform.home.batches / batch.id
            await until_async(lambda: not folder.exists(), f"{folder} is gone")
            return over

    return asyncio.run(work())


def written(platform: Platform, batch: batches.Batch, name: str) -> list[Any]:
    """The lines of the batch's output or error file; none where there is no file."""
    file_id = batch.output_file_id if name == "output" else batch.error_file_id
    if file_id is None:
        return []
    file = files.get(platform, batch.owner, file_id)
    assert file.purpose == "batch_output"
    return [json.loads(raw) for raw in file.path.read_bytes().splitlines()]
