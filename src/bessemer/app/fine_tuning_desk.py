"""Carries fine-tuning jobs on: reads their files, submits their runs, brings in what they make.

One of them lives in the server. It holds nothing: each round looks at the rows that are not over
and at their runs, and takes the next step that is missing, so that a server that was killed in the
middle of one goes on where the next begins. A run whose process died is queued again, from its
last checkpoint, `MOST_ATTEMPTS` times in all.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from bessemer.app import adapters, files, jobs, names
from bessemer.app.adapters import NamedAdapter, find_served
from bessemer.app.chat import no_such_model
from bessemer.app.fine_tuning import Fault, acting_for, ended_ms
from bessemer.app.fine_tuning_events import train_metrics, valid_metrics
from bessemer.app.fine_tuning_files import FileFault, import_files, measure
from bessemer.app.fine_tuning_method import Method
from bessemer.app.fine_tuning_recipe import Start, settle
from bessemer.app.jobs import Run
from bessemer.app.machine import usable_cores
from bessemer.app.models import NamedModel
from bessemer.app.platform import Platform
from bessemer.app.tables import files as files_table
from bessemer.app.tables import fine_tuning_checkpoints, fine_tuning_jobs
from bessemer.app.training import submit_train
from bessemer.core.database import now_ms
from bessemer.core.errors import BessemerError, Conflict, DatabaseUnavailable, NotFound
from bessemer.core.events import Event
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal
from bessemer.core.tables import runs
from bessemer.models.config import ModelConfig

TICK_S = 0.5
MOST_ATTEMPTS = 3

_log = logging.getLogger(__name__)


class FineTuningDesk:
    """`start` it on the server's event loop; `close` leaves the runs going."""

    def __init__(self, platform: Platform, *, tick_s: float = TICK_S) -> None:
        self._platform, self._tick_s = platform, tick_s
        self._closing = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._loop = asyncio.create_task(self._tick_on(), name="fine-tuning")

    async def close(self) -> None:
        self._closing.set()
        if self._loop is not None:
            await self._loop

    def round(self) -> None:
        """Take the next step of every job that is not over. Blocks while files are read."""
        table = fine_tuning_jobs
        going = sa.select(table).where(table.c.state.in_(("validating", "open")))
        with self._platform.db.read() as connection:
            rows = connection.execute(going.order_by(table.c.id)).all()
        for row in rows:
            try:
                take = _validate if row.state == "validating" else _follow
                take(self._platform, row)
            except Exception:
                # A full disk or a locked database passes; the next round tries again.
                _log.exception("fine-tuning job %s: trying again", row.id)

    async def _tick_on(self) -> None:
        while not self._closing.is_set():
            try:
                await asyncio.to_thread(self.round)
            except Exception:
                _log.exception("the fine-tuning desk's round failed; trying again")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._tick_s)


class _Base(NamedTuple):
    """The model that a run starts from, and the adapter that it goes on with."""

    model: NamedModel
    adapter: NamedAdapter | None


def _validate(platform: Platform, row: sa.Row[Any]) -> None:
    """Read the files and submit the run; or say what is wrong with them."""
    if row.wanted == "cancel" and not _has_run(platform, row.run_id):
        _end(platform, row, "cancelled")
        return
    try:
        _submit(platform, row)
    except FileFault as fault:
        code = f"invalid_{fault.param}"
        _end(platform, row, "failed", Fault(code, fault.message, fault.param))
    except (OSError, DatabaseUnavailable, sa.exc.SQLAlchemyError):
        raise
    except BessemerError as fault:
        _end(platform, row, "failed", Fault(fault.code, fault.message, fault.param))
    except Exception as fault:
        _log.exception("the files of fine-tuning job %s", row.id)
        what = f"{type(fault).__name__}: {fault}"
        _end(platform, row, "failed", Fault("internal_error", what))


def _submit(platform: Platform, row: sa.Row[Any]) -> None:
    principal = acting_for(row)
    method = msgspec.json.decode(row.method, type=Method)
    # 1. The files, checked line by line and stored.
    train = _file(platform, principal, row.training_file, "training_file")
    validation = row.validation_file and _file(
        platform, principal, row.validation_file, "validation_file"
    )
    dataset = import_files(platform, principal, row.id, method.type, train, validation)
    # 2. The base, and how long its rows have to be.
    base = _base_of(platform, row)
    context_length = ModelConfig.from_folder(base.model.path).context_length
    measured = measure(
        dataset.path, method, base.model.path, context_length, train=train, validation=validation
    )
    # 3. The recipe.
    adapter = None if base.adapter is None else str(base.adapter.path)
    start = Start(base.model.name, context_length, adapter)
    settled = settle(method, start, dataset.name, measured, seed=row.seed)
    # 4. The run, under an id that is known before there is one: it is never submitted twice.
    run_id = row.run_id or new_id("run")
    if not _change(platform, row, run_id=run_id):
        return
    submit_train(
        platform,
        principal,
        settled.recipe,
        threads=usable_cores(),
        name=row.fine_tuned_model,
        run_id=run_id,
    )
    _change(platform, row, state="open", method=msgspec.json.encode(settled.method).decode())


def _file(platform: Platform, principal: Principal, file_id: str, param: str) -> Path:
    try:
        return files.get(platform, principal, file_id).path
    except NotFound:
        message = f"{file_id} was deleted or expired before it was read"
        raise FileFault(message, param=param) from None


def _base_of(platform: Platform, row: sa.Row[Any]) -> _Base:
    try:
        found = find_served(platform, acting_for(row), row.model)
    except NotFound:
        raise no_such_model(row.model) from None
    if isinstance(found, NamedAdapter):
        return _Base(found.base, found)
    return _Base(found, None)


def _follow(platform: Platform, row: sa.Row[Any]) -> None:
    """Look at the job's run, and do what it asks for."""
    run = jobs.get_run(platform, acting_for(row), row.run_id)
    events = run.folder.read()
    _bring_in_checkpoints(platform, row, run, events)
    match run.state:
        case "queued" | "running" if row.wanted != "run":
            with contextlib.suppress(Conflict):
                jobs.cancel(platform, acting_for(row), run.id, wait_s=0.1)
        case "dead":
            _revive(platform, row, run)
        case "cancelled" if row.wanted == "cancel":
            _end(platform, row, "cancelled", finished_ms=ended_ms(platform, row))
        case "failed":
            said = _last_error(events) or run.note or "the run failed without a word"
            _end(platform, row, "failed", Fault("run_failed", said))
        case "succeeded" if _is_harvested(platform, run):
            _finish(platform, row, run, events)


def _revive(platform: Platform, row: sa.Row[Any], run: Run) -> None:
    if row.wanted == "cancel":
        _end(platform, row, "cancelled", finished_ms=ended_ms(platform, row))
    elif row.wanted == "run" and run.attempts < MOST_ATTEMPTS:
        with contextlib.suppress(Conflict):
            jobs.resume(platform, acting_for(row), run.id)
    elif row.wanted == "run":
        message = f"its process died {run.attempts} times: {run.note}"
        _end(platform, row, "failed", Fault("run_died", message))


def _finish(platform: Platform, row: sa.Row[Any], run: Run, events: list[Event]) -> None:
    if run.note is not None:  # what it made could not be stored
        _end(platform, row, "failed", Fault("not_stored", run.note))
        return
    table = _results(events, row.validation_file is not None)
    file_id = _results_file(platform, row, table)
    tokens = sum(_last_of_each_step(events, "step", "tokens"))
    _end(platform, row, "succeeded", result_file=file_id, trained_tokens=tokens)


def _bring_in_checkpoints(
    platform: Platform, row: sa.Row[Any], run: Run, events: list[Event]
) -> None:
    table = fine_tuning_checkpoints
    there = sa.select(table.c.step).where(table.c.job_id == row.id)
    with platform.db.read() as connection:
        known = set(connection.execute(there).scalars())
    for step in sorted({e["step"] for e in events if e["kind"] == "snapshot"} - known):
        _bring_in(platform, row, run, step, events)


def _bring_in(
    platform: Platform, row: sa.Row[Any], run: Run, step: int, events: list[Event]
) -> None:
    """Store a snapshot, and bind its name in the transaction that writes its row."""
    base = run.folder.plan()["model"]
    model = f"{row.fine_tuned_model}:ckpt-step-{step}"
    artifact = adapters.store(
        platform,
        run.folder.snapshots / f"step-{step:08d}",
        base["digest"],
        name=model,
        licence=platform.artifacts.get(base["digest"]).licence,
        provenance={"run_id": run.id, "step": step},
    )
    principal = acting_for(row)
    metrics = _at_step(events, step, row.validation_file is not None)
    values = {
        "id": new_id("ftckpt"),
        "org_id": row.org_id,
        "project_id": row.project_id,
        "owner_id": row.owner_id,
        "created_ms": now_ms(),
        "job_id": row.id,
        "step": step,
        "model": model,
        "metrics": json.dumps(metrics),
    }
    with platform.db.write() as connection:
        names.insert_name(connection, principal, "adapter", model, artifact.digest, run.id)
        connection.execute(fine_tuning_checkpoints.insert().values(values))


def _at_step(events: list[Event], step: int, validated: bool) -> dict[str, float]:
    found: dict[str, float] = {"step": step}
    for event in events:
        if event.get("step") == step and event["kind"] == "step":
            found |= train_metrics(event)
        if event.get("step") == step and event["kind"] == "validation" and validated:
            found |= valid_metrics(event)
    return found


def _results(events: list[Event], validated: bool) -> str:
    """A CSV with a line for each step; of a step that was taken again, what it said last."""
    lines: dict[int, dict[str, float]] = {}
    for event in events:
        if event["kind"] == "step":
            lines.setdefault(event["step"], {}).update(train_metrics(event))
        elif event["kind"] == "validation" and validated:
            lines.setdefault(event["step"], {}).update(valid_metrics(event))
    columns = list(dict.fromkeys(["step", "train_loss", *(k for v in lines.values() for k in v)]))
    written = io.StringIO()
    table = csv.DictWriter(written, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(lines[step] for step in sorted(lines))
    return written.getvalue()


def _last_error(events: list[Event]) -> str | None:
    for event in reversed(events):
        if event["kind"] == "state" and "error" in event:
            return str(event["error"]["message"])
    return None


def _last_of_each_step(events: list[Event], kind: str, field: str) -> list[int]:
    return list({e["step"]: int(e[field]) for e in events if e["kind"] == kind}.values())


def _results_file(platform: Platform, row: sa.Row[Any], table: str) -> str:
    """The file's id; one that a killed server has written already is that file."""
    filename = f"{row.id}-results.csv"
    written = sa.select(files_table.c.id).where(
        files_table.c.project_id == row.project_id,
        files_table.c.purpose == "fine-tune-results",
        files_table.c.filename == filename,
    )
    with platform.db.read() as connection:
        found = connection.execute(written).scalar()
    if found is not None:
        return str(found)
    data = table.encode()
    return files.add_bytes(platform, acting_for(row), filename, "fine-tune-results", data).id


def _has_run(platform: Platform, run_id: str | None) -> bool:
    if run_id is None:
        return False
    with platform.db.read() as connection:
        return (
            connection.execute(sa.select(runs.c.id).where(runs.c.id == run_id)).first() is not None
        )


def _is_harvested(platform: Platform, run: Run) -> bool:
    with platform.db.read() as connection:
        query = sa.select(runs.c.harvested).where(runs.c.id == run.id)
        return bool(connection.execute(query).scalar())


def _end(
    platform: Platform, row: sa.Row[Any], state: str, fault: Fault | None = None, **more: Any
) -> None:
    error = None if fault is None else msgspec.json.encode(fault).decode()
    _change(platform, row, **{"state": state, "error": error, "finished_ms": now_ms(), **more})


def _change(platform: Platform, row: sa.Row[Any], **values: Any) -> bool:
    """Change the row unless it has moved on since it was read."""
    table = fine_tuning_jobs
    same = (table.c.id == row.id) & (table.c.state == row.state)
    with platform.db.write() as connection:
        return connection.execute(table.update().where(same).values(**values)).rowcount == 1
