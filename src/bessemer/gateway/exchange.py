"""One HTTP request and its answer, over bare ASGI: a body with a limit, JSON, server-sent events.

This is the hot path's whole framework. It knows nothing of models, and every answer that it
sends carries the request's id.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, MutableMapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bessemer.core.errors import BessemerError, InvalidInput, PayloadTooLarge
from bessemer.core.ids import new_id
from bessemer.gateway.failures import (
    Header,
    RequestTimeout,
    UnsupportedEncoding,
    error_body,
    error_headers,
)

Scope = MutableMapping[str, Any]
ASGIMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[ASGIMessage]]
Send = Callable[[ASGIMessage], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY_BYTES = 10 * 1024 * 1024
# A client that sends nothing for so long, in the middle of a body, will not go on.
SILENCE_S = 60.0
_CHUNK_BYTES = 1 << 18

_JSON: Header = (b"content-type", b"application/json")
_TEXT: Header = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
_EVENTS: list[Header] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Proxies that buffer would turn a stream into one late answer.
    (b"x-accel-buffering", b"no"),
]


class Exchange:
    """One request. `send_json` answers whole; `open_events`, `send_event`, `end` answer bit by bit.

    Every send waits while the client's connection is full, so a slow client slows its own
    answer down and nothing piles up here.
    """

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, silence_s: float = SILENCE_S
    ) -> None:
        self._silence_s = silence_s
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self._raw_path: bytes | None = scope.get("raw_path")
        self.query: bytes = scope.get("query_string", b"")
        self.route = "unknown"  # as `/metrics` counts it; what callers make up is no label
        self.request_id = new_id("req")
        self._headers: Sequence[Header] = scope["headers"]
        self._receive, self._send = receive, send
        self.status: int | None = None  # once an answer has begun
        self._streaming = False
        self._started = False
        self._more: list[Header] = []

    @property
    def sent_path(self) -> str:
        """The path with its percent signs, where the server gives it."""
        if self._raw_path is None:
            return quote(self.path)
        return self._raw_path.decode("latin-1").partition("?")[0]

    def add_headers(self, headers: Sequence[Header]) -> None:
        """Headers of the answer that is still to come."""
        self._more += headers

    def header(self, name: bytes) -> str | None:
        """A request header by its lower-case name."""
        found = next((value for key, value in self._headers if key == name), None)
        return None if found is None else found.decode("latin-1")

    async def read_json(self) -> bytes:
        """The body, to be decoded by who knows its shape.

        Raises:
            InvalidInput: its content type says that it is no JSON.
            PayloadTooLarge: more than 10 MiB, announced or not.
        """
        kind = (self.header(b"content-type") or "application/json").split(";")[0].strip().lower()
        if kind != "application/json":
            raise InvalidInput(
                f"The body's Content-Type is {kind[:100]!r}; this needs 'application/json'.",
                next_step="send the header Content-Type: application/json",
            )
        announced = self.header(b"content-length")
        if announced is not None and announced.isdigit():
            _check_size(int(announced))
        return await self._read_body()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, of any size: whoever reads it holds the limit.

        Raises:
            RequestTimeout: nothing came for a minute.
            UnsupportedEncoding: it is packed.
        """
        packed = self.header(b"content-encoding")
        if packed and packed.strip().lower() != "identity":
            raise UnsupportedEncoding(
                f"The body's Content-Encoding is {packed[:100]!r}; bodies are taken as they are.",
                next_step="send the body unpacked, without the header Content-Encoding",
            )
        more = True
        while more:
            message = await self._next_message()
            if message["type"] == "http.disconnect":
                raise ClientGone
            yield message.get("body", b"")
            more = message.get("more_body", False)

    async def _next_message(self) -> ASGIMessage:
        try:
            async with asyncio.timeout(self._silence_s):
                return await self._receive()
        except TimeoutError:
            raise RequestTimeout(
                f"Nothing came for {self._silence_s:g} s, and the body is not whole. Nothing was"
                " done.",
                next_step="send the request again",
            ) from None

    async def _read_body(self) -> bytes:
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            _check_size(len(body))
        return bytes(body)

    async def send_json(self, status: int, body: bytes, headers: Sequence[Header] = ()) -> None:
        length = (b"content-length", b"%d" % len(body))
        await self._start(status, [_JSON, length, *headers])
        await self._send({"type": "http.response.body", "body": body})

    async def send_text(self, body: bytes) -> None:
        """Plain text, in the version that Prometheus reads."""
        await self._start(200, [_TEXT, (b"content-length", b"%d" % len(body))])
        await self._send({"type": "http.response.body", "body": body})

    async def send_file(self, path: Path, filename: str) -> None:
        """A file's bytes, read in a thread. One that is deleted meanwhile is sent to its end."""
        file = await asyncio.to_thread(path.open, "rb")
        with file:
            size = os.fstat(file.fileno()).st_size
            named = f"attachment; filename*=UTF-8''{quote(filename, safe='')}"
            headers = [
                (b"content-type", b"application/octet-stream"),
                (b"content-length", b"%d" % size),
                (b"content-disposition", named.encode()),
            ]
            await self._start(200, headers)
            while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        await self._send({"type": "http.response.body", "body": b""})

    async def open_events(self, headers: Sequence[Header] = ()) -> None:
        """Begin a stream of server-sent events."""
        self._streaming = True
        await self._start(200, [*_EVENTS, *headers])

    async def send_event(self, data: bytes, name: str | None = None) -> None:
        """One event; `data` has no line breaks, as JSON by `msgspec` never has."""
        body = b"data: " + data + b"\n\n"
        if name is not None:
            body = b"event: " + name.encode() + b"\n" + body
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self) -> None:
        self._streaming = False
        await self._send({"type": "http.response.body", "body": b""})

    async def fail(self, error: BessemerError) -> None:
        """Say what went wrong: as the answer, or as the last event of one that has begun."""
        if self._streaming:
            await self.send_event(error_body(error))
            await self.end()
        elif not self._started:
            await self.send_json(error.status, error_body(error), error_headers(error))

    async def while_connected(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`, but stop it the moment the client goes away. Call it with the body read.

        Raises:
            ClientGone: it went away; `work` was cancelled and has ended.
        """
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(self._disconnected())
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientGone
            task.result()
        finally:
            await _stop(task)
            await _stop(gone)

    async def _disconnected(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _start(self, status: int, headers: list[Header]) -> None:
        self._started = True
        self.status = status
        named = [*headers, *self._more, (b"x-request-id", self.request_id.encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": named})


class ClientGone(Exception):
    """The client closed the connection; nobody is left to answer."""


def _check_size(size_bytes: int) -> None:
    if size_bytes > MAX_BODY_BYTES:
        raise PayloadTooLarge(
            f"The body has {size_bytes:,} bytes or more; the limit is {MAX_BODY_BYTES:,}.",
            next_step="send less at a time",
        )


async def _stop(task: asyncio.Future[None]) -> None:
    """Cancel and wait until its last `finally` has run. Its own errors were read, or are moot."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
