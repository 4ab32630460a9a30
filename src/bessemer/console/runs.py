"""The pages of runs: the list, one run, its curve, and the two buttons.

A page is rendered whole at every request, and htmx takes the part that changes out of it, so what
is on the screen is what the run's folder says now.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from bessemer.app import jobs
from bessemer.app.jobs import Run
from bessemer.app.platform import Platform
from bessemer.console.asker import asker
from bessemer.console.copying import Command
from bessemer.console.rendering import page
from bessemer.console.run_view import RunView
from bessemer.console.story import Story, curves
from bessemer.core.errors import InvalidInput

LISTED = 100


class RunPages:
    """The routes of runs over one platform. All are for worker threads."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._stories: dict[str, tuple[int, Story]] = {}

    def index(self, request: Request) -> Response:
        found = jobs.list_runs(self._platform, asker(request), limit=LISTED)
        return page(
            request,
            "runs.html",
            rows=[self.view(run) for run in found],
            limit=LISTED,
            calls=[Command("List the runs", ["runs", "--json"])],
        )

    def show(self, request: Request) -> Response:
        run = self.view(self._get(request))
        asked = request.query_params.get("asked")
        asked = asked if asked in ("cancel", "resume") else None
        return page(request, "run.html", run=run, asked=asked, calls=_calls_of(run))

    def curves(self, request: Request) -> Response:
        """The points told after byte `?offset=`, and the offset to ask from next."""
        text = request.query_params.get("offset", "0")
        if not text.isascii() or not text.isdigit():
            raise InvalidInput(f"offset is a number of bytes, not {text[:40]!r}", param="offset")
        return JSONResponse(curves(self._get(request).folder.events, int(text))._asdict())

    def cancel(self, request: Request) -> Response:
        return self._act(request, jobs.cancel, "cancel")

    def resume(self, request: Request) -> Response:
        return self._act(request, jobs.resume, "resume")

    def _act(self, request: Request, use_case: Callable[..., Run], word: str) -> Response:
        run = use_case(self._platform, asker(request), request.path_params["run_id"])
        return RedirectResponse(f"/runs/{run.id}?asked={word}", status_code=303)

    def _get(self, request: Request) -> Run:
        return jobs.get_run(self._platform, asker(request), request.path_params["run_id"])

    def view(self, run: Run) -> RunView:
        """A run with its story, which is read anew only where it grew."""
        return RunView(run, self._story(run))

    def _story(self, run: Run) -> Story:
        # A list of a hundred runs is asked for every two seconds; only a log that grew is read.
        try:
            size = run.folder.events.stat().st_size
        except FileNotFoundError:
            return Story()
        known = self._stories.get(run.id)
        if known is None or known[0] != size:
            known = self._stories[run.id] = (size, Story.read(run.folder.events))
        return known[1]


def _calls_of(run: RunView) -> list[Command]:
    # Runs are no objects of OpenAI's API; those of fine-tuning jobs are steered on their own pages.
    calls = [
        Command("Look at the run", ["runs", run.run_id, "--json"]),
        Command("Read what it said", ["runs", run.run_id, "--events"]),
    ]
    if run.may_cancel:
        calls.append(Command("Cancel it", ["runs", run.run_id, "--cancel"]))
    return calls
