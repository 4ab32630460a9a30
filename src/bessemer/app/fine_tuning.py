"""Fine-tuning jobs: ask for one, look at it, pause, resume and cancel it.

A job is a row that says what is wanted, and a run of the train room that does it. `FineTuningDesk`
(`fine_tuning_desk`) carries the one to the other; what a job is now is read from both:

    validating_files -> queued -> running -> succeeded       the result is served under its name
                                  paused                     stopped after a checkpoint; `resume`
                     failed, cancelled                       `error` says why

A job that a person stopped by `bessemer runs RUN --cancel` is paused, too.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import time
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec
import sqlalchemy as sa

from bessemer.app import audit, files, fine_tuned_models, jobs
from bessemer.app.adapters import NamedAdapter, find_served
from bessemer.app.chat import no_such_model
from bessemer.app.fine_tuning_method import Method
from bessemer.app.paging import PageRequest, read_page
from bessemer.app.platform import Platform
from bessemer.app.spending import card_in_force
from bessemer.app.tables import fine_tuning_checkpoints, fine_tuning_jobs
from bessemer.core.database import now_ms
from bessemer.core.errors import Conflict, InvalidInput, NotFound
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal
from bessemer.core.runs import RunFolder
from bessemer.ledger.counts import Counts
from bessemer.models.encoder_config import is_encoder

READ_SCOPE, WRITE_SCOPE = "runs:read", "runs:write"
FINAL = ("succeeded", "failed", "cancelled")
STOP_WAIT_S = 5.0

Status = Literal[
    "validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"
]
Wanted = Literal["run", "pause", "cancel"]

_SUFFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST_PAIRS, _LONGEST_KEY, _LONGEST_VALUE = 16, 64, 512


class Request(NamedTuple):
    """What is asked for. `model` may be fine-tuned already: the job goes on from there."""

    model: str
    training_file: str
    method: Method
    validation_file: str | None = None
    suffix: str | None = None
    seed: int | None = None
    metadata: Mapping[str, str] | None = None


class Fault(msgspec.Struct, frozen=True):
    """Why a job failed. `param` is the field whose file is at fault."""

    code: str
    message: str
    param: str | None = None


class Job(NamedTuple):
    """A job as it is now. `model_name` is what it will be called; times are Unix milliseconds."""

    id: str
    org_id: str
    project_id: str
    owner_id: str
    created_ms: int
    model: str
    method: Method
    seed: int
    training_file: str
    validation_file: str | None
    metadata: Mapping[str, str] | None
    model_name: str
    status: Status
    run_id: str | None
    result_file: str | None
    trained_tokens: int | None
    error: Fault | None
    finished_ms: int | None
    estimated_finish_s: int | None


class JobCheckpoint(NamedTuple):
    """An adapter that was left on the way; `model` is the name to ask it by."""

    id: str
    created_ms: int
    job_id: str
    step: int
    model: str
    metrics: Mapping[str, float]


def create(platform: Platform, principal: Principal, request: Request) -> Job:
    """Ask for a job. Its files are read next; what is wrong in them fails the job, not this.

    Raises:
        NotFound: there is no such file in the project.
        InvalidInput: the model cannot be fine-tuned, training it has no price, or a field makes no
            sense.
    """
    checked = check(platform, principal, request)
    method = checked.method
    job_id = new_id("ftjob-")
    name = fine_tuned_models.name_of(checked.base, principal, request.suffix, job_id)
    row = {
        "id": job_id,
        "org_id": principal.org_id,
        "project_id": principal.project_id,
        "owner_id": principal.owner_id,
        "created_ms": now_ms(),
        "model": request.model,
        "method": msgspec.json.encode(method).decode(),
        "seed": secrets.randbelow(2**31) if request.seed is None else request.seed,
        "training_file": request.training_file,
        "validation_file": request.validation_file,
        "metadata": _metadata_text(request.metadata),
        "fine_tuned_model": name,
        "state": "validating",
        "wanted": "run",
    }
    with platform.db.write() as connection:
        connection.execute(fine_tuning_jobs.insert().values(row))
        shown = ("model", "seed", "training_file", "validation_file", "fine_tuned_model")
        facts = {"method": method.type} | {field: row[field] for field in shown}
        audit.record(connection, principal, "fine_tuning_job.created", job_id, after=facts)
    return get(platform, principal, job_id)


class Checked(NamedTuple):
    """A request that makes sense: its method, and the name of the base below its model."""

    method: Method
    base: str


def check(platform: Platform, principal: Principal, request: Request) -> Checked:
    """See that a job can be asked for. Its files are looked up and not read. Raises as `create`."""
    principal.require(WRITE_SCOPE)
    method = request.method.checked()
    if request.suffix is not None:
        _check_suffix(request.suffix)
    base = _trainable(platform, principal, request.model)
    _check_file(platform, principal, request.training_file, "training_file")
    if request.validation_file is not None:
        _check_file(platform, principal, request.validation_file, "validation_file")
    # Raises where the rate of the model has no price for training: its run could not begin.
    card_in_force(platform).cost_micro(base, Counts(training=1))
    return Checked(method, base)


def get(platform: Platform, principal: Principal, job_id: str) -> Job:
    """Raises NotFound unless the principal's project has this job."""
    principal.require(READ_SCOPE)
    return job_of(platform, _row(platform, principal, job_id))


def list_jobs(
    platform: Platform,
    principal: Principal,
    asked: PageRequest,
    metadata: Mapping[str, str] | None = None,
) -> tuple[list[Job], bool]:
    """A page of the project's jobs, newest first, and whether there are more.

    Args:
        metadata: pairs that a job must have; an empty mapping finds those without any.
    """
    principal.require(READ_SCOPE)
    where = fine_tuning_jobs.c.project_id == principal.project_id
    if metadata is not None:
        where &= _has_metadata(metadata)
    with platform.db.read() as connection:
        rows, has_more = read_page(connection, fine_tuning_jobs, where, asked)
    return [job_of(platform, row) for row in rows], has_more


def cancel(
    platform: Platform, principal: Principal, job_id: str, *, wait_s: float = STOP_WAIT_S
) -> Job:
    """Stop a job for good: at once, or after the step that it is in and a checkpoint.

    Raises:
        InvalidInput: it is over.
    """
    return _steer(platform, principal, job_id, "cancel", wait_s)


def pause(
    platform: Platform, principal: Principal, job_id: str, *, wait_s: float = STOP_WAIT_S
) -> Job:
    """Stop a job after a checkpoint, to go on from it later to the bit.

    Raises:
        InvalidInput: it is over, or its files are still being read.
    """
    return _steer(platform, principal, job_id, "pause", wait_s)


def resume(platform: Platform, principal: Principal, job_id: str) -> Job:
    """Let a paused job go on.

    Raises:
        InvalidInput: it is not paused.
    """
    principal.require(WRITE_SCOPE)
    job = job_of(platform, _row(platform, principal, job_id))
    if job.status != "paused":
        raise InvalidInput(
            f"{job_id} is {job.status}; only a paused job is resumed",
            param="fine_tuning_job_id",
            next_step=f"GET /v1/fine_tuning/jobs/{job_id}/events tells how it went",
        )
    assert job.run_id is not None
    if _want(platform, principal, job, "run"):
        with contextlib.suppress(Conflict):  # somebody else resumed it just now
            jobs.resume(platform, principal, job.run_id)
    return get(platform, principal, job_id)


def list_checkpoints(
    platform: Platform, principal: Principal, job_id: str, asked: PageRequest
) -> tuple[list[JobCheckpoint], bool]:
    """A page of a job's checkpoints, newest first, and whether there are more."""
    principal.require(READ_SCOPE)
    _row(platform, principal, job_id)
    where = fine_tuning_checkpoints.c.job_id == job_id
    with platform.db.read() as connection:
        rows, has_more = read_page(connection, fine_tuning_checkpoints, where, asked)
    return [
        JobCheckpoint(r.id, r.created_ms, r.job_id, r.step, r.model, json.loads(r.metrics))
        for r in rows
    ], has_more


def run_folder(platform: Platform, job: Job) -> RunFolder | None:
    """The run that does the job, once there is one."""
    return None if job.run_id is None else RunFolder(platform.home.runs / job.run_id)


def job_of(platform: Platform, row: sa.Row[Any]) -> Job:
    """What row and run say together."""
    status = _status(platform, row)
    eta_s = _estimated_finish_s(platform, row) if status == "running" else None
    return Job(
        row.id,
        row.org_id,
        row.project_id,
        row.owner_id,
        row.created_ms,
        row.model,
        msgspec.json.decode(row.method, type=Method),
        row.seed,
        row.training_file,
        row.validation_file,
        None if row.metadata is None else json.loads(row.metadata),
        row.fine_tuned_model,
        status,
        row.run_id,
        row.result_file,
        row.trained_tokens,
        None if row.error is None else msgspec.json.decode(row.error, type=Fault),
        ended_ms(platform, row) if status in FINAL else None,
        eta_s,
    )


def _estimated_finish_s(platform: Platform, row: sa.Row[Any]) -> int | None:
    """By the last step; one that was before a pause tells nothing of when it ends."""
    said = RunFolder(platform.home.runs / row.run_id).read()
    last = next((e for e in reversed(said) if e["kind"] in ("step", "state")), {})
    return int(max(last["t"] + last["eta_s"], time.time())) if "eta_s" in last else None


def ended_ms(platform: Platform, row: sa.Row[Any]) -> int:
    """When a job that is over ended; one to be cancelled does so with the last word of its run."""
    asked_ms = int(row.finished_ms or 0)
    if row.state in FINAL:
        return asked_ms
    said = RunFolder(platform.home.runs / row.run_id).read()
    return max(asked_ms, int(said[-1]["t"] * 1000) if said else 0)


def acting_for(row: sa.Row[Any] | Job) -> Principal:
    """Whoever asked for the job, as far as the job needs it."""
    return Principal(row.org_id, row.project_id, row.owner_id, frozenset({"*"}))


def _status(platform: Platform, row: sa.Row[Any]) -> Status:
    if row.state in FINAL:
        return row.state  # type: ignore[no-any-return]
    if row.state == "validating":
        return "validating_files"
    state = jobs.get_run(platform, acting_for(row), row.run_id).state
    if state == "cancelled" or (state == "dead" and row.wanted != "run"):
        return "cancelled" if row.wanted == "cancel" else "paused"
    # A dead run is queued again by the desk; one that is over is until the desk has looked at it.
    return "queued" if state in ("queued", "dead") else "running"


def _steer(
    platform: Platform, principal: Principal, job_id: str, wanted: Wanted, wait_s: float
) -> Job:
    principal.require(WRITE_SCOPE)
    row = _row(platform, principal, job_id)
    job = job_of(platform, row)
    is_ending = row.wanted == "cancel" and job.status not in FINAL
    unready = wanted == "pause" and (is_ending or job.status in ("paused", "validating_files"))
    if job.status in FINAL or unready:
        now = "being cancelled" if is_ending else job.status
        raise InvalidInput(
            f"{job_id} is {now}; it cannot be {_PAST[wanted]}",
            param="fine_tuning_job_id",
            next_step=f"GET /v1/fine_tuning/jobs/{job_id}/events tells how it went",
        )
    _want(platform, principal, job, wanted)
    deadline_s = time.monotonic() + wait_s
    if job.run_id is not None and job.status in ("queued", "running"):
        # One that is over already, or starts for longer: the desk looks at both.
        with contextlib.suppress(Conflict, NotFound):
            jobs.cancel(platform, principal, job.run_id, wait_s=wait_s)
    job = job_of(platform, _row(platform, principal, job_id))
    while job.status in _GOING and time.monotonic() < deadline_s:
        time.sleep(0.05)
        job = job_of(platform, _row(platform, principal, job_id))
    return job


_GOING = ("validating_files", "queued", "running")
_PAST = {"pause": "paused", "cancel": "cancelled", "run": "resumed"}


def _want(platform: Platform, principal: Principal, job: Job, wanted: Wanted) -> bool:
    """Whether the wish counts: a job that is over, or to be cancelled, has no other any more."""
    table = fine_tuning_jobs
    going = (table.c.id == job.id) & table.c.state.in_(("validating", "open"))
    changes = going & (table.c.wanted != "cancel")
    if wanted != "run":  # a run that was stopped by itself is resumed without a new wish
        changes &= table.c.wanted != wanted
    with platform.db.write() as connection:
        wish = {"wanted": wanted} | ({"finished_ms": now_ms()} if wanted == "cancel" else {})
        if not connection.execute(table.update().where(changes).values(wish)).rowcount:
            return False
        if wanted == "cancel":  # where no run was asked for, this is the end already
            unread = going & (table.c.state == "validating") & table.c.run_id.is_(None)
            connection.execute(table.update().where(unread).values(state="cancelled"))
        action = f"fine_tuning_job.{_PAST[wanted]}"
        audit.record(connection, principal, action, job.id, before={"status": job.status})
    return True


def _row(platform: Platform, principal: Principal, job_id: str) -> sa.Row[Any]:
    table = fine_tuning_jobs
    mine = (table.c.id == job_id) & (table.c.project_id == principal.project_id)
    with platform.db.read() as connection:
        row = connection.execute(sa.select(table).where(mine)).first()
    if row is None:
        raise NotFound(
            f"there is no fine-tuning job {job_id[:100]!r}",
            param="fine_tuning_job_id",
            next_step="GET /v1/fine_tuning/jobs",
        )
    return row


def _trainable(platform: Platform, principal: Principal, model: str) -> str:
    """The name of the base that the model is, or is an adapter of."""
    try:
        found = find_served(platform, principal, model)
        rule = principal.models
        if rule is not None and not (rule.allows(model) and rule.allows(found.name)):
            raise no_such_model(model)
    except NotFound as fault:
        raise InvalidInput(
            f"the model {model[:100]!r} cannot be fine-tuned: {fault.message}",
            next_step=fault.next_step,
            param="model",
        ) from None
    if is_encoder(found.path):
        raise InvalidInput(f"{model} is an encoder and writes no answers", param="model")
    base = found.base if isinstance(found, NamedAdapter) else found
    return base.name


def _check_file(platform: Platform, principal: Principal, file_id: str, param: str) -> None:
    try:
        file = files.get(platform, principal, file_id)
    except NotFound as fault:
        raise NotFound(fault.message, next_step=fault.next_step, param=param) from None
    if file.purpose != "fine-tune":
        raise InvalidInput(
            f"{file_id} was uploaded for {file.purpose!r}; this needs 'fine-tune'", param=param
        )


def _check_suffix(suffix: str) -> None:
    if not _SUFFIX.fullmatch(suffix):
        raise InvalidInput(
            f"'suffix' is {suffix[:100]!r}; it takes 1 to 64 letters, digits, dots, hyphens and"
            " underscores, a letter or digit first",
            param="suffix",
        )


def _metadata_text(metadata: Mapping[str, str] | None) -> str | None:
    """Canonical JSON, which `_has_metadata` looks into; None for no pairs."""
    if not metadata:
        return None
    if len(metadata) > _MOST_PAIRS:
        raise InvalidInput(
            f"'metadata' has {len(metadata)} pairs; it takes {_MOST_PAIRS}", param="metadata"
        )
    for key, value in metadata.items():
        if not 1 <= len(key) <= _LONGEST_KEY or len(value) > _LONGEST_VALUE:
            raise InvalidInput(
                f"'metadata' takes keys of 1 to {_LONGEST_KEY} and values of up to"
                f" {_LONGEST_VALUE} characters",
                param="metadata",
            )
    return json.dumps(dict(metadata), sort_keys=True, separators=(",", ":"))


def _has_metadata(wanted: Mapping[str, str]) -> sa.ColumnElement[bool]:
    """Pairs stand in canonical JSON behind `{` or `,`, where no text inside of a string can.

    `replace` tells upper from lower case in every database, as LIKE does not.
    """
    text = fine_tuning_jobs.c.metadata
    if not wanted:
        return text.is_(None)
    found = []
    for key, value in wanted.items():
        pair = json.dumps({key: value}, separators=(",", ":"))[1:-1]
        either = [sa.func.replace(text, before + pair, "") != text for before in "{,"]
        found.append(sa.or_(*either))
    return sa.and_(*found)
