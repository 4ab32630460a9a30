"""HTTP/1.1 on one connection: uvicorn's, and what that leaves to whoever runs it.

What is no HTTP is refused in the API's own shape, an offer of another protocol is left where it is,
and a client that does not finish its request's head is let go.
"""

from __future__ import annotations

import asyncio
from typing import cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bessemer.core.errors import BessemerError, InvalidInput
from bessemer.core.ids import new_id
from bessemer.gateway.exchange import SILENCE_S
from bessemer.gateway.failures import RequestTimeout, error_body

_REASONS = {400: b"Bad Request", 408: b"Request Timeout"}


class HttpConnection(HttpToolsProtocol):
    """See the module. The hot path pays a look at `scope` for each packet, and no timer."""

    # From the connection, or a head's first byte, to the head's last one.
    head_s = SILENCE_S

    _patience: asyncio.TimerHandle | None = None
    _timed: object = None  # the scope that `_patience` is for

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        while data:
            try:
                self.parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as stopped:
                if self.parser.get_method() == b"CONNECT":
                    self.send_400_response("A tunnel was asked for.")
                    break
                data = self._without_offer() + data[stopped.args[0] :]
            except httptools.HttpParserError:
                self.send_400_response("Invalid HTTP request received.")
                break
        if self._in_head() and self._timed is not self.scope:
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(InvalidInput(f"{msg} No request could be read from these bytes."))

    def _without_offer(self) -> bytes:
        """The head that was read, again, for a parser that is not told of another protocol.

        Java's client and `curl --http2` offer HTTP/2 with every request. The parser takes that for
        the end of HTTP, and would leave the body lying.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version()
        lines = [method + b" " + self.url + b" HTTP/" + version.encode()]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        return b"\r\n".join([*lines, b"", b""])

    def _wait_for_head(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._timed = self.scope
        self._patience = self.loop.call_later(self.head_s, self._give_up, self.scope)

    def _in_head(self) -> bool:
        # The method is the first thing that uvicorn notes when a head is whole.
        return self.scope is not None and "method" not in self.scope

    def _give_up(self, timed: object) -> None:
        if self.scope is not timed or self.transport.is_closing():
            return
        if self.scope is None:
            self.transport.close()  # it never said a word
        elif self._in_head():
            if self.cycle is not None and not self.cycle.response_complete:
                self._wait_for_head()  # the answer before it is still given
                return
            self._refuse(
                RequestTimeout(
                    f"The request's head was not whole after {self.head_s:g} s. Nothing was done.",
                    next_step="send the request again",
                )
            )

    def _refuse(self, error: BessemerError) -> None:
        body = error_body(error)
        head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\n"
        head += b"content-length: %d\r\nx-request-id: %s\r\nconnection: close\r\n\r\n"
        named = (error.status, _REASONS[error.status], len(body), new_id("req").encode())
        self.transport.write(head % named + body)
        self.transport.close()
