"""The gate before every page: Host, Origin, session; and the headers after it.

Host must be a name of this machine or a configured one, which defeats DNS rebinding. Origin, where
a browser sends one with a change, must be the page's own, which with the SameSite=Strict cookie
covers cross-site forgery. Who the session is of, with the rights of their roles, goes along with
the request (`asker`). A plain ASGI wrapper, so that a stream still ends when its reader goes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bessemer.app.signing_in import SignedIn
from bessemer.console.asker import remember
from bessemer.console.rendering import page
from bessemer.console.sessions import Session, Sessions
from bessemer.core.errors import Unauthenticated

LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

HEADERS = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'; object-src 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # Not "no-referrer": under it a form's POST carries `Origin: null`.
    "referrer-policy": "same-origin",
}


class Guard:
    """Lets a request through to `app`, or answers it with what to do instead.

    Args:
        who: the person of a session; raises Unauthenticated where its person is gone. Called in
            a worker thread.
        hosts: `host` or `host:port` names besides the local ones under which the server is known.
    """

    def __init__(
        self,
        app: ASGIApp,
        sessions: Sessions,
        who: Callable[[Session], SignedIn],
        hosts: Collection[str] = (),
    ) -> None:
        self._app = app
        self._sessions = sessions
        self._who = who
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            answer = self._refusal(request) or await self._unknown(request) or self._app
            await answer(scope, receive, _with_headers(scope, send))
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "").lower()
        if not self._known(host):
            return _refuse(request, 421, f"this server is not called {host or '(no Host)'}")
        origin = request.headers.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc.lower() != host
        if foreign and request.method not in SAFE_METHODS:
            return _refuse(request, 403, f"a page of {origin} may not change anything here")
        return None

    async def _unknown(self, request: Request) -> Response | None:
        """Ask for a login, unless somebody is logged in or the path needs nobody."""
        if is_open_path(request):
            return None
        session = self._sessions.find(request.cookies.get(cookie(request)))
        if session is not None:
            try:
                remember(request, await run_in_threadpool(self._who, session))
                return None
            except Unauthenticated:
                self._sessions.close(request.cookies.get(cookie(request)))
        if wants_json(request):
            return _refuse(request, 401, "this session has ended")
        return page(request, "login.html", status=401)

    def _known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        return host in self._hosts or name in LOCAL_HOSTS or name in self._hosts


def cookie(request: Request) -> str:
    """The session's cookie name. Browsers share cookies between ports, so the port is in it."""
    return f"bessemer_{request.url.port or 'session'}"


def is_open_path(request: Request) -> bool:
    """What may be read without a session: the login itself, and files that hold no data."""
    path = request.url.path
    return path == "/login" or path.startswith("/static/")


def wants_json(request: Request) -> bool:
    """Whether a script asks, not a person."""
    return request.url.path.startswith("/console/")


def _refuse(request: Request, status: int, message: str) -> Response:
    next_step = "open the address that `bessemer login` prints in the terminal"
    if wants_json(request):
        fault = {"code": "refused", "message": message, "next_step": next_step}
        return JSONResponse({"error": fault}, status_code=status)
    return page(request, "error.html", status=status, message=message, next_step=next_step)


def _with_headers(scope: Scope, send: Send) -> Send:
    # Files of `static` are checked by ETag at each use; pages are never kept.
    keep = "no-cache" if scope["path"].startswith("/static/") else "no-store"

    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            headers.update({**HEADERS, "cache-control": keep})
        await send(message)

    return wrapped
