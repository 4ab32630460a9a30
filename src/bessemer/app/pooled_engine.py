"""One model's engine as callers see it: loaded when it is asked, and kept while it answers.

Between two requests its worker may be put to sleep, or die and be started again; who holds this
object need not know.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec

from bessemer.app.deadline import within
from bessemer.app.engine_memory import Need
from bessemer.app.engine_process import EngineProcess
from bessemer.app.streams import closing
from bessemer.core.engine_client import EngineClient
from bessemer.core.protocols import EngineInfo, GenerateRequest, Pooling, TokenChunk

Lease = Callable[["PooledEngine"], AbstractAsyncContextManager[EngineClient]]

# A model that failed to load is tried again by the first request after this long.
FAILED_REST_S = 30.0


class PooledEngine:
    """Implements `core.protocols.AdapterEngine`.

    Attributes:
        under_way: requests that it is working on, or loading for.
        waiting: requests at the pool's door, and `admission` what lets them in.
        used_at_s: when the last one ended, by the monotonic clock.
        leaving: it shall finish these and then make room; new requests wait at the pool's door.
    """

    def __init__(self, process: EngineProcess, reckoned: Need, lease: Lease) -> None:
        self.process = process
        self.under_way = self.waiting = 0
        self.admission: asyncio.Task[None] | None = None
        self.used_at_s = time.monotonic()
        self.leaving = False
        self._reckoned, self._lease = reckoned, lease

    @property
    def seated(self) -> bool:
        """Whether it holds memory."""
        return self.process.state in ("loading", "ready")

    @property
    def idle(self) -> bool:
        """Whether it may be put to sleep: nobody is answered, and nobody was just let in."""
        return self.seated and not self.under_way and (self.leaving or not self.waiting)

    @property
    def must_wait_at_the_door(self) -> bool:
        """Whether it has to be let in before it can answer; a recent failure is one at once."""
        process = self.process
        if process.state == "failed":
            return time.monotonic() - process.failed_at_s > FAILED_REST_S
        return self.leaving or not self.seated

    @property
    def need(self) -> Need:
        """As measured, once it has run."""
        process, kv = self.process.ready_bytes, self._reckoned.kv
        if not process:
            return self._reckoned
        return Need(max(process, self.process.memory_bytes - kv), kv)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenChunk, None]:
        """See `Engine.generate`; waiting for the model is a part of the request's own time."""
        began_s = time.monotonic()
        async with contextlib.AsyncExitStack() as stack:
            async with within(request.deadline_s, "before the model was ready"):
                client = await stack.enter_async_context(self._lease(self))
            if request.deadline_s is not None:
                left_s = max(0.0, request.deadline_s - (time.monotonic() - began_s))
                request = msgspec.structs.replace(request, deadline_s=left_s)
            async with closing(client.generate(request)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def score(self, ids: Sequence[int], *, adapter: str | None = None) -> list[float]:
        """See `Engine.score`."""
        async with self._lease(self) as client:
            return await client.score(ids, adapter=adapter)

    async def embed(
        self,
        ids: Sequence[int],
        pooling: Pooling | None = None,
        client: str = "",
        *,
        adapter: str | None = None,
    ) -> list[float]:
        """See `Engine.embed`."""
        async with self._lease(self) as engine:
            return await engine.embed(ids, pooling, client, adapter=adapter)

    async def load_adapter(self, digest: str, folder: Path) -> None:
        """See `AdapterEngine.load_adapter`."""
        async with self._lease(self) as client:
            await client.load_adapter(digest, folder)

    async def unload_adapter(self, digest: str) -> None:
        """See `AdapterEngine.unload_adapter`."""
        async with self._lease(self) as client:
            await client.unload_adapter(digest)

    async def info(self) -> EngineInfo:
        """See `Engine.info`."""
        async with self._lease(self) as client:
            return await client.info()
