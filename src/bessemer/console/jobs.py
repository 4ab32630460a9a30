"""The pages of fine-tuning jobs: the list, the form, the plan before the start, and one job.

A job is a run, so its page shows that run's progress and curve; what it is asked to do goes to the
job, not to the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from bessemer.app import files, fine_tuning
from bessemer.app import jobs as run_jobs
from bessemer.app.fine_tuning import FINAL, Job
from bessemer.app.fine_tuning_events import list_events
from bessemer.app.fine_tuning_method import Method
from bessemer.app.fine_tuning_plans import STAGES, Plans
from bessemer.app.paging import PageRequest
from bessemer.app.platform import Platform
from bessemer.console.asker import asker
from bessemer.console.copying import ApiCall
from bessemer.console.forms import Form
from bessemer.console.job_copied import calls_of_form, copied, creating
from bessemer.console.job_form import (
    FIELDS,
    GRADER,
    Choices,
    choices,
    request_of,
    values_of,
)
from bessemer.console.rendering import page
from bessemer.console.run_view import RunView, Shown
from bessemer.console.runs import RunPages
from bessemer.console.wording import duration, figure, setting
from bessemer.core.errors import BessemerError, NotFound
from bessemer.core.principal import Principal

LISTED = 50
EVENTS = 60
CHECKPOINTS = 20
_JOBS = "/v1/fine_tuning/jobs"
_JOB = _JOBS + "/{fine_tuning_job_id}"


class JobView:
    """A job as the templates read it: the row, and its run once it has one."""

    def __init__(self, job: Job, run: RunView | None) -> None:
        self.job, self.run = job, run
        self.created_s = job.created_ms / 1000
        self.is_live = job.status not in FINAL
        self.may_pause = job.status in ("queued", "running")
        self.may_resume = job.status == "paused"

    @property
    def progress_text(self) -> str:
        """`23 of 49 steps · 1 min 2 s left`."""
        match self.job.status:
            case "validating_files":
                return "its files are being checked"
            case "queued":
                return "waiting for its turn: one training runs at a time"
            case "succeeded" | "failed" | "cancelled" if self.job.finished_ms is not None:
                verb = {
                    "succeeded": "took",
                    "failed": "failed after",
                    "cancelled": "cancelled after",
                }
                return f"{verb[self.job.status]} {_duration(self.job)}"
        return self.run.progress_text if self.run else ""

    @property
    def news(self) -> str:
        """The one thing to know of it in a list."""
        if self.job.error:
            return self.job.error.message.replace(self.job.training_file, "the training file")
        if self.run is None:
            return ""
        loss = self.run.story.step.get("loss")
        if self.is_held_out or loss is None:
            return self.run.news
        return f"training loss {figure(loss)}"

    @property
    def is_held_out(self) -> bool:
        """Whether what is measured between steps is no line that is learned as well."""
        return self.job.validation_file is not None

    @property
    def figures(self) -> list[Shown]:
        """Those of the run; nothing is called validation that was not held out."""
        found = self.run.figures if self.run else []
        return [one for one in found if self.is_held_out or not one.name.startswith("Validation")]

    @property
    def settings(self) -> list[tuple[str, str]]:
        """The method's numbers; "auto" until the files were read."""
        kind = ("method", self.job.method.type)
        return [kind, *_numbers(self.job.method), ("seed", str(self.job.seed))]


class JobPages:
    """The routes of fine-tuning jobs over one platform. All are for worker threads.

    Args:
        runs: whose stories of runs are shared.
    """

    def __init__(self, platform: Platform, runs: RunPages, plans: Plans) -> None:
        self._platform, self._runs, self._plans = platform, runs, plans

    def index(self, request: Request) -> Response:
        me, after = asker(request), request.query_params.get("after")
        asked = PageRequest(limit=LISTED, after=after)
        found, has_more = fine_tuning.list_jobs(self._platform, me, asked)
        rows = [self._view(me, job) for job in found]
        calls = [ApiCall("List the jobs", "GET", _JOBS, python="fine_tuning.jobs.list")]
        return page(
            request, "jobs.html", calls=calls, rows=rows, has_more=has_more, is_first=after is None
        )

    def new(self, request: Request) -> Response:
        """The form, filled in by the address or by an earlier plan."""
        me = asker(request)
        me.require(fine_tuning.WRITE_SCOPE)
        values = {name: request.query_params.get(name, "") for name in FIELDS}
        if earlier := request.query_params.get("plan"):
            values |= values_of(self._plans.get(me, earlier).request)
        return self._form(request, values)

    def copied(self, request: Request, form: Form) -> Response:
        """What is filled in by now, as calls from elsewhere."""
        asker(request).require(fine_tuning.WRITE_SCOPE)
        return page(request, "copied.html", **copied(form))

    def plan(self, request: Request, form: Form) -> Response:
        """Begin to plan what was filled in; a mistake comes back with the form."""
        me = asker(request)
        me.require(fine_tuning.WRITE_SCOPE)
        try:
            plan_id = self._plans.ask(me, request_of(form))
        except BessemerError as fault:
            if fault.status not in (400, 404):
                raise
            return self._form(request, {name: form.text(name) for name in FIELDS}, fault)
        return RedirectResponse(f"/fine-tuning/plans/{plan_id}", status_code=303)

    def show_plan(self, request: Request) -> Response:
        me = asker(request)
        planned = self._plans.get(me, request.path_params["plan_id"])
        return page(
            request,
            "job_plan.html",
            planned=planned,
            wanted=planned.request,
            numbers=[] if planned.plan is None else _numbers(planned.plan.method),
            done=STAGES.index(planned.stage),
            spent_s=time.time() - planned.began_s,
            file=self._file(me, planned.request.training_file),
            calls=[creating(planned.request)],
        )

    def start(self, request: Request) -> Response:
        job_id = self._plans.start(asker(request), request.path_params["plan_id"])
        return RedirectResponse(f"/fine-tuning/{job_id}", status_code=303)

    def show(self, request: Request) -> Response:
        me, job_id = asker(request), request.path_params["job_id"]
        job = fine_tuning.get(self._platform, me, job_id)
        events, more_events = list_events(self._platform, me, job_id, PageRequest(limit=EVENTS))
        kept, more_kept = fine_tuning.list_checkpoints(
            self._platform, me, job_id, PageRequest(limit=CHECKPOINTS)
        )
        return page(
            request,
            "job.html",
            view=self._view(me, job),
            job=job,
            asked=request.query_params.get("asked"),
            events=events,
            more_events=more_events,
            checkpoints=kept,
            more_checkpoints=more_kept,
            file=self._file(me, job.training_file),
            calls=_calls_of(job),
        )

    def cancel(self, request: Request) -> Response:
        return self._steer(request, fine_tuning.cancel, "cancel")

    def pause(self, request: Request) -> Response:
        return self._steer(request, fine_tuning.pause, "pause")

    def resume(self, request: Request) -> Response:
        return self._steer(request, fine_tuning.resume, "resume")

    def _steer(self, request: Request, use_case: Callable[..., Job], word: str) -> Response:
        # A page answers at once, and shows what comes of it by itself.
        patience: dict[str, Any] = {} if word == "resume" else {"wait_s": 0.5}
        job = use_case(self._platform, asker(request), request.path_params["job_id"], **patience)
        return RedirectResponse(f"/fine-tuning/{job.id}?asked={word}", status_code=303)

    def _form(
        self, request: Request, values: dict[str, str], fault: BessemerError | None = None
    ) -> Response:
        shown = {**dict.fromkeys(FIELDS, ""), **values}
        shown["grader"] = shown["grader"] or GRADER
        chosen = {shown[name] for name in ("training_file", "validation_file")} - {""}
        found = choices(self._platform, asker(request), chosen)
        fault = fault or _missing(shown, found)
        return page(
            request,
            "job_new.html",
            status=fault.status if fault else 200,
            values=shown,
            choices=found,
            fault=fault,
            calls=[] if fault else calls_of_form(shown, found),
        )

    def _view(self, me: Principal, job: Job) -> JobView:
        if job.run_id is None or job.status == "validating_files":
            return JobView(job, None)
        try:
            return JobView(job, self._runs.view(run_jobs.get_run(self._platform, me, job.run_id)))
        except NotFound:  # its id is known a moment before it is there
            return JobView(job, None)

    def _file(self, me: Principal, file_id: str) -> files.File | None:
        """The training file, unless it is gone by now."""
        try:
            return files.get(self._platform, me, file_id)
        except BessemerError:
            return None


def _missing(shown: dict[str, str], found: Choices) -> NotFound | None:
    """What the form is asked for and cannot hold; a browser shows another one in its place."""
    ids = [file.id for file in found.files]
    for name, known in (("model", found.models), ("training_file", ids), ("validation_file", ids)):
        if known and shown[name] and shown[name] not in known:
            what = name.replace("_", " ")
            return NotFound(f"there is no {what} {shown[name][:100]!r}; choose another", param=name)
    return None


def _numbers(method: Method) -> list[tuple[str, str]]:
    numbers = method.section.hyperparameters
    told = [(name, getattr(numbers, name)) for name in numbers.__struct_fields__]
    return [
        (name.removeprefix("n_").replace("_", " "), setting(value))
        for name, value in told
        if value != "default"
    ]


def _duration(job: Job) -> str:
    assert job.finished_ms is not None
    return duration((job.finished_ms - job.created_ms) / 1000)


def _calls_of(job: Job) -> list[ApiCall]:
    ids, client = [job.id], "fine_tuning.jobs"
    calls = [
        ApiCall("Look at the job", "GET", _JOB, ids, python=f"{client}.retrieve"),
        ApiCall("Read its events", "GET", f"{_JOB}/events", ids, python=f"{client}.list_events"),
        ApiCall(
            "List its checkpoints", "GET", f"{_JOB}/checkpoints", ids,
            python=f"{client}.checkpoints.list",
        ),
    ]  # fmt: skip
    if job.status not in FINAL:
        calls += [
            ApiCall(f"{word.capitalize()} it", "POST", f"{_JOB}/{word}", ids,
                    python=f"{client}.{word}")
            for word in ("pause", "resume", "cancel")
        ]  # fmt: skip
    return calls
