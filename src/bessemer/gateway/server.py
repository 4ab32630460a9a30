"""Runs an application on a port: uvicorn, with a port that is ours before anything else starts.

serve(app, "127.0.0.1", 8000, started=lambda url: print(url))
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager

import uvicorn

from bessemer.core.errors import InvalidInput, PortInUse
from bessemer.gateway.connection import HttpConnection
from bessemer.gateway.exchange import ASGIApp

DEFAULT_PORT = 8000
# Answers that are being given may end by themselves for this long; then they are told to stop.
GRACE_S = 2
LAST_WORDS_S = 1.5
MAX_PORT = 65535
_BACKLOG = 1024


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Who connects early waits for the server.

    Raises:
        PortInUse: somebody else listens there.
        InvalidInput: the address is not one of this machine's, or the port not allowed.
    """
    if not 0 <= port <= MAX_PORT:
        raise InvalidInput(f"{port} is not a port; ports are 0 (any that is free) to {MAX_PORT}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return _bound(family, address)
    except OSError as fault:
        if fault.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"port {port} on {host} is in use by another program",
                next_step=f"stop it, or choose another port: --port {port + 1}",
                port=port,
            ) from fault
        raise InvalidInput(
            f"cannot listen on {host} port {port}: {fault}",
            next_step="choose another address or port: --host 127.0.0.1 --port 8000",
        ) from fault


def url_of(sock: socket.socket) -> str:
    """`http://127.0.0.1:8000`, for a browser on this machine."""
    host, port = sock.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    return f"http://{f'[{shown}]' if ':' in shown and shown[0] != '[' else shown}:{port}"


class Server(uvicorn.Server):
    """One application on one socket. `run()` blocks; `stop()` may be called from any thread.

    Args:
        app: the ASGI application; its lifespan is not used, `lifespan` is.
        sock: from `bind`.
        lifespan: entered before the first request and left after the last one, on the server's
            event loop; its errors come out of `run`.
        started: called with the URL once requests are answered.
        grace_s: whole seconds that open answers get to end by themselves.
    """

    def __init__(
        self,
        app: ASGIApp,
        sock: socket.socket,
        *,
        lifespan: AbstractAsyncContextManager[object] | None = None,
        started: Callable[[str], None] | None = None,
        grace_s: int = GRACE_S,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=HttpConnection,
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                backlog=_BACKLOG,
                timeout_graceful_shutdown=grace_s,
            )
        )
        self._sock = sock
        self._lifespan = lifespan or contextlib.nullcontext()
        self._when_started = started

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until `stop`, SIGINT or SIGTERM; a second SIGINT does not wait for anybody."""
        assert sockets is None, "the socket was given to the constructor"
        with contextlib.closing(self._sock):
            super().run([self._sock])

    def stop(self) -> None:
        self.should_exit = True

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        async with self._lifespan:
            await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._when_started is not None:
            self._when_started(url_of(self._sock))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        # uvicorn cancels what is left and leaves; the last words still have to be written.
        if self.server_state.tasks:
            await asyncio.wait(set(self.server_state.tasks), timeout=LAST_WORDS_S)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a signal that asked us to stop is not raised again afterwards: who
        called `run` still has things to put in order."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(
    app: ASGIApp,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    *,
    lifespan: AbstractAsyncContextManager[object] | None = None,
    started: Callable[[str], None] | None = None,
    grace_s: int = GRACE_S,
) -> None:
    """Serve `app` until SIGINT or SIGTERM, and return. See `Server` for the arguments.

    Raises:
        PortInUse, InvalidInput: as `bind`, before anything else is started.
    """
    Server(app, bind(host, port), lifespan=lifespan, started=started, grace_s=grace_s).run()


def _bound(family: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A port that waits out its last connection is free; one that is listened on is not.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        # Without this a second server could bind the same port until one of the two listens.
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock
