"""The console on a free port of 127.0.0.1, in a thread, over a home of its own."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from bessemer.app.platform import Platform
from bessemer.console.pages import build
from bessemer.console.sessions import Sessions, login_url, token_folder
from bessemer.core.home import Home
from tests.console.fakes import FakeServing


class Site:
    """A running console. `url` is its root; `login_url()` is good once."""

    def __init__(
        self, platform: Platform, serving: FakeServing, url: str, server: uvicorn.Server
    ) -> None:
        self.platform = platform
        self.serving = serving
        self.url = url
        self._server = server

    def login_url(self) -> str:
        return login_url(self.url, token_folder(self.platform.home))

    def stop(self) -> None:
        """End the server, whatever it is answering."""
        self._server.should_exit = True
        self._server.force_exit = True


@contextlib.contextmanager
def running_site(folder: Path, *models: str) -> Iterator[Site]:
    """Serve until the end of the block."""
    with Platform.open(Home(folder)) as platform, _listener() as listener:
        serving = FakeServing(*models)
        app = build(platform, serving, Sessions(token_folder(platform.home)))
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            yield Site(platform, serving, url, server)
        finally:
            server.should_exit = True
            thread.join(timeout=20)
            assert not thread.is_alive(), "the server did not stop"


@contextlib.contextmanager
def _listener() -> Iterator[socket.socket]:
    # Bound and listening before the server starts, so that no request can come too early.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener
