"""The console as one ASGI app: log in, chat, runs.

`bessemer up` puts it behind the API, which hands over every path that is not its own:

    sessions = Sessions(token_folder(platform.home))
    console = build(platform, serving, sessions)
    app = gateway.asgi.build(serving, keyring, other=console)
    print(login_url("http://127.0.0.1:8000", token_folder(platform.home)))

Nothing here decides anything: pages ask `app` as the person who is logged in (`asker`).
"""

from __future__ import annotations

from collections.abc import Collection
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from bessemer.app.chat import Serving
from bessemer.app.file_survey import Surveys
from bessemer.app.fine_tuning_plans import Plans
from bessemer.app.metering import Meter
from bessemer.app.platform import Platform
from bessemer.app.signing_in import SignedIn, signed_in
from bessemer.console.asker import signed_in_if_any
from bessemer.console.audit import AuditPages
from bessemer.console.chat import ChatPages, as_json
from bessemer.console.evals import EvalPages
from bessemer.console.files import FilePages
from bessemer.console.forms import posted
from bessemer.console.guard import Guard, cookie, wants_json
from bessemer.console.jobs import JobPages
from bessemer.console.navigation import tabs_of
from bessemer.console.projects import ProjectPages
from bessemer.console.rendering import HERE, page
from bessemer.console.runs import RunPages
from bessemer.console.sessions import SESSION_LIFE_S, Session, Sessions
from bessemer.console.usage import UsagePages
from bessemer.core.errors import BessemerError, PermissionDenied


def build(
    platform: Platform,
    serving: Serving,
    sessions: Sessions,
    *,
    hosts: Collection[str] = (),
    meter: Meter | None = None,
    plans: Plans | None = None,
) -> ASGIApp:
    """The console.

    Args:
        sessions: who is logged in; the one-time URL is `sessions.login_url`.
        hosts: names (`host` or `host:port`) besides 127.0.0.1, localhost and ::1 under which a
            browser may reach this server. Any other Host header is refused.
        meter: counts and charges what is asked on the chat page.
        plans: works out what a fine-tuning job will take; a test has its own.
    """
    chat = ChatPages(serving, meter)
    runs = RunPages(platform)
    kept = FilePages(platform, Surveys())
    jobs = JobPages(platform, runs, plans or Plans(platform))
    evals = EvalPages(platform)
    door = Door(sessions)
    routes = [
        Route("/", home),
        Route("/login", door.enter),
        Route("/logout", door.leave, methods=["POST"]),
        Route("/chat", chat.show),
        Route("/console/models", chat.models),
        Route("/console/chat", chat.answer, methods=["POST"]),
        Route("/console/chat/copied", chat.copied, methods=["POST"]),
        Route("/runs", runs.index),
        Route("/runs/{run_id}", runs.show),
        Route("/runs/{run_id}/cancel", runs.cancel, methods=["POST"]),
        Route("/runs/{run_id}/resume", runs.resume, methods=["POST"]),
        Route("/console/runs/{run_id}/curves", runs.curves),
        Route("/files", kept.index),
        Route("/files", kept.upload, methods=["POST"]),
        Route("/files/{file_id}", kept.show),
        Route("/files/{file_id}/content", kept.content),
        Route("/files/{file_id}/delete", kept.delete, methods=["POST"]),
        Route("/fine-tuning", jobs.index),
        Route("/fine-tuning/new", jobs.new),
        Route("/console/fine-tuning/copied", posted(jobs.copied), methods=["POST"]),
        Route("/fine-tuning/plans", posted(jobs.plan), methods=["POST"]),
        Route("/fine-tuning/plans/{plan_id}", jobs.show_plan),
        Route("/fine-tuning/plans/{plan_id}/start", jobs.start, methods=["POST"]),
        Route("/fine-tuning/{job_id}", jobs.show),
        Route("/fine-tuning/{job_id}/cancel", jobs.cancel, methods=["POST"]),
        Route("/fine-tuning/{job_id}/pause", jobs.pause, methods=["POST"]),
        Route("/fine-tuning/{job_id}/resume", jobs.resume, methods=["POST"]),
        Route("/evals", evals.index),
        Route("/evals/{eval_id}", evals.show),
        Route("/evals/{eval_id}/comparison", evals.compare),
        Route("/evals/{eval_id}/runs/{run_id}", evals.show_run),
        Route("/evals/{eval_id}/runs/{run_id}/cancel", evals.cancel, methods=["POST"]),
        *ProjectPages(platform, sessions).routes(),
        *UsagePages(platform, meter).routes(),
        *AuditPages(platform).routes(),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ]
    faults = {
        BessemerError: show_fault,
        HTTPException: show_http_fault,
        Exception: show_crash,
    }

    def who(session: Session) -> SignedIn:
        return signed_in(platform, session.person_id, session.project_id)

    return Guard(Starlette(routes=routes, exception_handlers=faults), sessions, who, hosts)


def home(request: Request) -> Response:
    """The first page that the person may read."""
    who = signed_in_if_any(request)
    tabs = tabs_of(None if who is None else who.principal)
    return RedirectResponse(tabs[0].path if tabs else "/chat", status_code=303)


class Door:
    """Log in and out."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def enter(self, request: Request) -> Response:
        """Exchange the one-time token for a session cookie."""
        if request.method == "HEAD" or "sec-purpose" in request.headers:
            return Response(status_code=503)  # a preview or prefetch must not use it up
        secret = self._sessions.redeem(request.query_params.get("token", ""))
        if secret is None:
            if self._sessions.is_open(request.cookies.get(cookie(request))):
                return home(request)  # the same link again, in a browser that is in already
            return page(request, "login.html", status=401)
        answer = page(request, "welcome.html")
        answer.set_cookie(
            cookie(request),
            secret,
            max_age=SESSION_LIFE_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    def leave(self, request: Request) -> Response:
        self._sessions.close(request.cookies.get(cookie(request)))
        answer = page(request, "login.html")
        answer.delete_cookie(cookie(request), httponly=True, samesite="strict")
        return answer


async def show_fault(request: Request, fault: Exception) -> Response:
    """An error of the platform, as a page for people and as JSON for scripts."""
    assert isinstance(fault, BessemerError)
    if wants_json(request):
        return JSONResponse({"error": as_json(fault)}, status_code=fault.status)
    if isinstance(fault, PermissionDenied):
        # Its own next step is for keys; here it is the person's roles.
        fault.next_step = "an owner gives roles: bessemer people role --help"
    return page(
        request,
        "error.html",
        status=fault.status,
        message=fault.message,
        next_step=fault.next_step,
    )


async def show_http_fault(request: Request, fault: Exception) -> Response:
    """An address or a method that is not there."""
    assert isinstance(fault, HTTPException)
    what, detail = HTTPStatus(fault.status_code).phrase, fault.detail
    told = what.lower() if detail == what else f"{what.lower()}: {detail}"
    missing = BessemerError(f"{request.method} {request.url.path}: {told}")
    missing.status = fault.status_code
    answer = await show_fault(request, missing)
    answer.headers.update(fault.headers or {})
    return answer


async def show_crash(request: Request, _fault: Exception) -> Response:
    """A fault of ours. The traceback goes to the server's log, never into a page."""
    crash = BessemerError(
        "something inside Bessemer went wrong",
        next_step="look at the end of the output of `bessemer up`, and report it",
    )
    return await show_fault(request, crash)
