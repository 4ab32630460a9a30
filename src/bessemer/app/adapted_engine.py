"""The engine of a base, with one adapter: what answers when an adapter is asked for.

The worker alone knows which adapters it holds: it may have made room since, or be a new one. So a
request just goes there, and where its adapter is missing, that is loaded and the request sent
again; nothing of it was answered yet.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from bessemer.app.streams import closing
from bessemer.core.errors import AdapterNotLoaded
from bessemer.core.protocols import (
    AdapterEngine,
    EngineInfo,
    GenerateRequest,
    Pooling,
    TokenChunk,
)

# Between loading it and asking again, others may have taken its place; hardly thrice in a row.
TRIES = 3

Answer = TypeVar("Answer")


class AdaptedEngine:
    """Implements `Engine`; `folder` is the adapter, in PEFT's layout."""

    def __init__(self, engine: AdapterEngine, digest: str, folder: Path) -> None:
        self._engine, self._digest, self._folder = engine, digest, folder

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenChunk, None]:
        """See `Engine.generate`, and `AdapterEngine.load_adapter` for its errors."""
        asked = msgspec.structs.replace(request, adapter=self._digest)
        for left in reversed(range(TRIES)):
            try:
                async with closing(self._engine.generate(asked)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except AdapterNotLoaded:
                if not left:
                    raise
            await self._load()

    async def score(self, ids: Sequence[int]) -> list[float]:
        """See `Engine.score`."""
        return await self._asked(lambda: self._engine.score(ids, adapter=self._digest))

    async def embed(
        self, ids: Sequence[int], pooling: Pooling | None = None, client: str = ""
    ) -> list[float]:
        """See `Engine.embed`."""
        return await self._asked(
            lambda: self._engine.embed(ids, pooling, client, adapter=self._digest)
        )

    async def info(self) -> EngineInfo:
        """The base's."""
        return await self._engine.info()

    async def _asked(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        for _ in range(TRIES - 1):
            try:
                return await ask()
            except AdapterNotLoaded:
                await self._load()
        return await ask()

    async def _load(self) -> None:
        await self._engine.load_adapter(self._digest, self._folder)
