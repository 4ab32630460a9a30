"""Calls an ASGI application without a network, and a real server in a thread with one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bessemer.app.metering import Meter
from bessemer.core.errors import Unauthenticated
from bessemer.core.principal import Principal
from bessemer.gateway.asgi import build
from bessemer.gateway.exchange import ASGIApp, ASGIMessage
from bessemer.gateway.server import Server, bind, url_of
from tests.fakes import FakeResponder, FakeServing
from tests.leaks import LEAKS

KEY = "sk-bsm-test-everything"
CHAT_KEY = "sk-bsm-test-only-chat"
OTHER_KEY = "sk-bsm-test-other-project"
MESSAGES = [{"role": "user", "content": "Hi"}]


class FakeKeyRing:
    """Three keys: everything, only chat, and another project's."""

    def __init__(self) -> None:
        self._principals = {
            KEY: Principal("org", "p1", "u1", frozenset({"*"})),
            CHAT_KEY: Principal("org", "p1", "u1", frozenset({"chat"})),
            OTHER_KEY: Principal("org", "p2", "u2", frozenset({"chat", "models:read"})),
        }

    def authenticate(self, secret: str) -> Principal:
        if secret not in self._principals:
            raise Unauthenticated("this API key is not valid here")
        return self._principals[secret]

    def refresh(self) -> None:
        pass


def app_of(
    responder: FakeResponder | FakeServing,
    other: ASGIApp | None = None,
    meter: Meter | None = None,
) -> ASGIApp:
    """The gateway over a serving, or over one responder by the name `tiny`."""
    serving = (
        FakeServing({"tiny": responder}) if isinstance(responder, FakeResponder) else responder
    )
    return build(serving, FakeKeyRing(), meter=meter, other=other)


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error, after checking that it has OpenAI's shape and no more."""
        found = self.json()
        assert set(found) == {"error"}, found
        assert set(found["error"]) == {"message", "type", "param", "code"}, found
        assert isinstance(found["error"]["message"], str)
        return dict(found["error"])

    def events(self) -> list[Any]:
        """Server-sent events, decoded; `[DONE]` stays a string."""
        lines = self.body.decode().split("\n\n")
        assert lines.pop() == ""
        assert all(line.startswith("data: ") for line in lines), lines
        data = [line.removeprefix("data: ") for line in lines]
        return [item if item == "[DONE]" else json.loads(item) for item in data]


def call(
    app: ASGIApp,
    path: str,
    body: object = None,
    *,
    method: str = "POST",
    key: str | None = KEY,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request. `path` may have a query; `body` is JSON, or bytes as they are, or a list of
    bytes sent in chunks.
    """
    return asyncio.run(acall(app, path, body, method=method, key=key, headers=headers))


async def acall(
    app: ASGIApp,
    path: str,
    body: object = None,
    *,
    method: str = "POST",
    key: str | None = KEY,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """`call` within an event loop."""
    sent: list[ASGIMessage] = []
    chunks = iter(_chunks(body))

    async def receive() -> ASGIMessage:
        for chunk, more in chunks:
            return {"type": "http.request", "body": chunk, "more_body": more}
        await asyncio.Event().wait()  # a client that stays
        raise AssertionError("unreachable")

    async def send(message: ASGIMessage) -> None:
        sent.append(message)

    auth = {} if key is None else {"authorization": f"Bearer {key}"}
    named = {**auth, **(headers or {})}
    scope = {
        "type": "http",
        "method": method,
        "path": path.partition("?")[0],
        "query_string": path.partition("?")[2].encode(),
        "headers": [(k.encode(), v.encode("latin-1")) for k, v in named.items()],
    }
    await app(scope, receive, send)
    assert [m["type"] for m in sent] == ["http.response.start"] + ["http.response.body"] * (
        len(sent) - 1
    )
    assert [m.get("more_body", False) for m in sent[1:]] == [True] * (len(sent) - 2) + [False]
    answered = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    answer = Answer(sent[0]["status"], answered, b"".join(m.get("body", b"") for m in sent[1:]))
    if answer.status >= 400:
        LEAKS.look(f"the error of {method} {path}", answer.body)
    return answer


def chat(app: ASGIApp, **fields: object) -> Answer:
    """A chat request; `fields` are added to, or replace, a minimal body."""
    return call(app, "/v1/chat/completions", {"model": "tiny", "messages": MESSAGES, **fields})


def complete(app: ASGIApp, **fields: object) -> Answer:
    return call(app, "/v1/completions", {"model": "tiny", "prompt": "Hi", **fields})


def _chunks(body: object) -> Sequence[tuple[bytes, bool]]:
    if isinstance(body, list) and body and isinstance(body[0], bytes):
        return [(chunk, i + 1 < len(body)) for i, chunk in enumerate(body)]
    if body is None:
        return [(b"", False)]
    return [(body if isinstance(body, bytes) else json.dumps(body).encode(), False)]


@dataclass
class Running:
    """A server in a thread of this process. What lives on its loop is changed by `do`."""

    url: str
    port: int
    server: Server
    thread: threading.Thread
    loop: asyncio.AbstractEventLoop

    def do(self, action: Callable[[], object]) -> None:
        self.loop.call_soon_threadsafe(action)

    def stop(self) -> None:
        self.server.stop()
        self.thread.join(20)
        assert not self.thread.is_alive(), "the server did not stop"


@contextlib.contextmanager
def running(app: ASGIApp, **options: Any) -> Iterator[Running]:
    """Serve `app` on a free port of 127.0.0.1; stopped at the end."""
    sock = bind("127.0.0.1", 0)
    loops: queue.Queue[asyncio.AbstractEventLoop] = queue.Queue()
    server = Server(
        app, sock, started=lambda _url: loops.put(asyncio.get_running_loop()), **options
    )
    thread = threading.Thread(target=server.run)
    url, port = url_of(sock), sock.getsockname()[1]
    thread.start()
    found = Running(url, port, server, thread, loops.get(timeout=20))
    try:
        yield found
    finally:
        found.stop()
