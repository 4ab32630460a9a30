"""An `Engine` in another process, behind a Unix socket.

Requests are frames `{"op", "id", ...}`; the worker answers with one frame per engine step that
carries the news of every request: `[[id, "chunk" | "result" | "error", body], ...]`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bessemer.core.errors import BessemerError, Busy, EngineDied, EngineUnavailable, by_code
from bessemer.core.frames import encode_frame, read_frame
from bessemer.core.protocols import EngineInfo, GenerateRequest, Pooling, TokenChunk

_GONE = object()

_log = logging.getLogger(__name__)


class EngineClient:
    """Speaks to one worker over one connection; every call raises EngineDied once it dies.

    Use `connect`, and `close` when done.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._inboxes: dict[int, asyncio.Queue[Any]] = {}
        self._numbers = itertools.count(1)
        self._closed = False
        self._listener = asyncio.create_task(self._listen())

    @classmethod
    async def connect(cls, socket_path: Path) -> EngineClient:
        """Raises EngineUnavailable when nobody listens there."""
        try:
            reader, writer = await asyncio.open_unix_connection(str(socket_path))
        except OSError as fault:
            raise EngineUnavailable(f"no engine at {socket_path}: {fault.strerror}") from fault
        return cls(reader, writer)

    @property
    def alive(self) -> bool:
        # The transport may be closed already while the listener has yet to notice.
        return not self._closed and not self._writer.is_closing()

    async def gone(self) -> None:
        """Wait until the worker, or the connection to it, is no more."""
        await asyncio.wait([self._listener])

    async def close(self) -> None:
        self._listener.cancel()
        self._hang_up()
        with contextlib.suppress(asyncio.CancelledError):
            await self._listener
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        """See `Engine.generate`. Closing the iterator early cancels the request in the worker."""
        number, inbox = self._open("generate", request=msgspec.to_builtins(request))
        finished = False
        try:
            while not finished:
                chunk = msgspec.convert(await self._next(inbox), TokenChunk)
                finished = chunk.finish_reason is not None
                yield chunk
        except BessemerError:
            finished = True
            raise
        finally:
            del self._inboxes[number]
            if not finished and self.alive:
                self._writer.write(encode_frame({"op": "cancel", "id": number}))

    async def score(self, ids: Sequence[int], *, adapter: str | None = None) -> list[float]:
        """See `Engine.score`."""
        scores = await self._ask("score", ids=list(ids), adapter=adapter)
        return msgspec.convert(scores, list[float])

    async def embed(
        self,
        ids: Sequence[int],
        pooling: Pooling | None = None,
        client: str = "",
        *,
        adapter: str | None = None,
    ) -> list[float]:
        """See `Engine.embed`."""
        asked = {"ids": list(ids), "pooling": pooling, "client": client, "adapter": adapter}
        return msgspec.convert(await self._ask("embed", **asked), list[float])

    async def load_adapter(self, digest: str, folder: Path) -> None:
        """See `AdapterEngine.load_adapter`; the worker reads the folder itself."""
        await self._ask("load_adapter", digest=digest, folder=str(folder))

    async def unload_adapter(self, digest: str) -> None:
        """See `AdapterEngine.unload_adapter`."""
        await self._ask("unload_adapter", digest=digest)

    async def info(self) -> EngineInfo:
        """See `Engine.info`."""
        return msgspec.convert(await self._ask("info"), EngineInfo)

    def set_threads(self, threads: int) -> None:
        """Give the worker this many cores from its next step on; nothing is lost by it."""
        if self.alive:
            self._writer.write(encode_frame({"op": "threads", "id": 0, "threads": threads}))

    async def _ask(self, op: str, **body: Any) -> Any:
        number, inbox = self._open(op, **body)
        try:
            return await self._next(inbox)
        except asyncio.CancelledError:
            if self.alive:
                self._writer.write(encode_frame({"op": "cancel", "id": number}))
            raise
        finally:
            del self._inboxes[number]

    def _open(self, op: str, **body: Any) -> tuple[int, asyncio.Queue[Any]]:
        if not self.alive:
            raise _died()
        number, inbox = next(self._numbers), asyncio.Queue[Any]()
        self._inboxes[number] = inbox
        self._writer.write(encode_frame({"op": op, "id": number, **body}))
        return number, inbox

    async def _next(self, inbox: asyncio.Queue[Any]) -> Any:
        news = await inbox.get()
        if news is _GONE:
            raise _died()
        kind, body = news
        if kind == "error":
            fault = _rebuild(body)
            if isinstance(fault, EngineDied):  # a worker whose engine broke says so, and goes
                self._hang_up()
            raise fault
        return body

    async def _listen(self) -> None:
        try:
            while (frame := await read_frame(self._reader)) is not None:
                for number, kind, body in frame:
                    # A cancelled request's last words have no reader any more.
                    if number in self._inboxes:
                        self._inboxes[number].put_nowait((kind, body))
        except (ValueError, TypeError, msgspec.DecodeError):
            _log.exception("the engine sent a frame that is none; hanging up")
        finally:
            self._hang_up()
            self._writer.close()

    def _hang_up(self) -> None:
        self._closed = True
        for inbox in self._inboxes.values():
            inbox.put_nowait(_GONE)


def _died() -> EngineDied:
    return EngineDied(
        "the engine stopped while it worked on this; it is being restarted",
        next_step="send the request again",
    )


def describe_error(error: BessemerError) -> dict[str, Any]:
    """An error as a frame's body; `_rebuild` on the other side makes it again."""
    facts: dict[str, Any] = {"code": error.code, "message": error.message, "facts": error.facts}
    facts |= {"next_step": error.next_step, "param": error.param}
    if isinstance(error, Busy):
        facts["facts"] = {**error.facts, "retry_after_s": error.retry_after_s}
    return facts


def _rebuild(body: dict[str, Any]) -> BessemerError:
    cls = by_code(body["code"])
    facts = dict(body["facts"])
    return cls(body["message"], next_step=body["next_step"], param=body.get("param"), **facts)
