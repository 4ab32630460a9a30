"""Jobs: ask for a run, start it, look at it, stop it, go on with it, and bring in what it made.

The row says who asked for what and who may start it; the folder says what happened. A row goes
`queued` -> `starting` in one transaction, so that of all the processes that would start a run,
one does. From then on the run's own process speaks, and `harvest` copies its last word into the
row. `dead` is not the end: a dead, failed or cancelled run can be resumed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import sqlalchemy as sa

from bessemer.app import audit, run_metering
from bessemer.app.harvest import Harvested, current_state, harvest, is_whole
from bessemer.app.names import check_name
from bessemer.app.platform import Platform
from bessemer.core.database import now_ms
from bessemer.core.errors import BessemerError, Conflict, NotFound
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal
from bessemer.core.runs import RunFolder, State, write_atomically
from bessemer.core.tables import runs

__all__ = [
    "RUN_COMMAND",
    "Command",
    "Harvested",
    "Run",
    "cancel",
    "get_run",
    "harvest",
    "list_runs",
    "mark_dead",
    "resume",
    "spawn",
    "start_detached",
    "submit",
]

Command = Sequence[str]

RUN_COMMAND: Command = (sys.executable, "-P", "-m", "bessemer.app.run_process")

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Run:
    """A run as a person sees it. `state` is the folder's word where it has one."""

    id: str
    kind: str
    name: str
    state: State
    created_ms: int
    owner_id: str
    attempts: int
    note: str | None
    folder: RunFolder


def submit(
    platform: Platform,
    principal: Principal,
    kind: str,
    name: str,
    recipe_toml: str,
    plan: dict[str, Any],
    *,
    run_id: str | None = None,
) -> RunFolder:
    """Queue a run. A server starts it when its turn comes; without one, `start_detached` does.

    `kind` and `name` become part of the plan.

    Args:
        run_id: known before, so that who was killed while it submitted can do so again; what is
            there already is not made twice.
    """
    principal.require("runs:write")
    again = run_id is not None
    run_id = run_id or new_id("run")
    folder = RunFolder(platform.home.runs / run_id)
    if again and is_whole(folder):
        return folder
    row = {
        "id": run_id,
        "org_id": principal.org_id,
        "project_id": principal.project_id,
        "owner_id": principal.owner_id,
        "created_ms": now_ms(),
        "kind": kind,
        "name": check_name(name),
        "state": "queued",
        "launcher": "none",
    }
    with platform.db.write() as connection:
        known = sa.select(runs.c.id).where(runs.c.id == run_id)
        if not again or connection.execute(known).first() is None:
            connection.execute(runs.insert().values(row))
            facts = {"kind": kind, "name": name}
            audit.record(connection, principal, "run.submitted", run_id, after=facts)
    # The row comes first: a folder always has an owner. A row without a plan is never started.
    plan = {**plan, "kind": kind, "name": name}
    shutil.rmtree(folder.path, ignore_errors=True)  # half of one, of a process that was killed
    return RunFolder.create(folder.path, recipe_toml, plan)


def start_detached(
    platform: Platform,
    run: RunFolder,
    *,
    launcher: str = "cli",
    threads: int | None = None,
    command: Command = RUN_COMMAND,
) -> subprocess.Popen[bytes] | None:
    """Start a queued run in a session of its own, where it outlives whoever started it.

    Args:
        threads: lowers the plan's thread count to this many, when the cores are shared. A run
            that goes on from a checkpoint keeps what it began with, to go on to the bit.

    Returns:
        The process, or None when somebody else started or cancelled the run first, or when it may
        not be paid for; then the run has failed, with the reason.
    """
    if not is_whole(run):
        raise Conflict(f"{run.run_id} has no plan; it was never completely written")
    with run.log.open("ab") as log:
        os.utime(run.log)  # `harvest` measures from here how long the start takes
        if not _take(platform, run.run_id, launcher):
            return None
        try:
            run_metering.reserve(platform, run)
        except BessemerError as refusal:
            error = {"message": refusal.message, "next_step": refusal.next_step}
            _write_state(run, "failed", error=error)
            return None
        return spawn(run, log, _limit_threads(run, threads), command)


def spawn(
    run: RunFolder, log: BinaryIO, threads: int, command: Command = RUN_COMMAND
) -> subprocess.Popen[bytes]:
    """The process of a run, in a session of its own."""
    return subprocess.Popen(
        [*command, str(run.path)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=run.path,
        env={**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads))},
        start_new_session=True,
    )


def list_runs(
    platform: Platform, principal: Principal, *, kind: str | None = None, limit: int = 100
) -> list[Run]:
    """The project's runs, newest first."""
    principal.require("runs:read")
    query = sa.select(runs).where(runs.c.project_id == principal.project_id)
    if kind is not None:
        query = query.where(runs.c.kind == kind)
    with platform.db.read() as connection:
        rows = connection.execute(query.order_by(runs.c.id.desc()).limit(limit)).all()
    return [_run(platform, row) for row in rows]


def get_run(platform: Platform, principal: Principal, run_id: str) -> Run:
    """Raises NotFound unless the principal's project has this run."""
    principal.require("runs:read")
    mine = (runs.c.id == run_id) & (runs.c.project_id == principal.project_id)
    with platform.db.read() as connection:
        row = connection.execute(sa.select(runs).where(mine)).first()
    if row is None:
        raise NotFound(f"there is no run {run_id!r}", next_step="bessemer runs")
    return _run(platform, row)


def cancel(platform: Platform, principal: Principal, run_id: str, *, wait_s: float = 10.0) -> Run:
    """Ask a run to stop: at once when queued, after a checkpoint when running.

    Returns before a running one has stopped; its state changes when it has.

    Raises:
        Conflict: the run is over already, or is starting and did not speak for `wait_s`.
    """
    principal.require("runs:write")
    run = get_run(platform, principal, run_id)
    if _cancel_queued(platform, principal, run):
        _write_state(run.folder, "cancelled")
        return get_run(platform, principal, run_id)
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        run = get_run(platform, principal, run_id)
        if run.state not in ("queued", "running"):
            raise Conflict(f"{run_id} is {run.state} already")
        process = run.folder.process()
        if run.state == "running" and process is not None and process.send(signal.SIGTERM):
            with platform.db.write() as connection:
                _record(connection, principal, "run.cancelled", run)
            return run
        time.sleep(0.05)
    raise Conflict(f"{run_id} is still starting", next_step="try again in a moment")


def resume(platform: Platform, principal: Principal, run_id: str) -> Run:
    """Queue a dead, failed or cancelled run again.

    It goes on from its newest whole checkpoint, or from the beginning if it has none.

    Raises:
        Conflict: it is queued, running, or succeeded.
    """
    principal.require("runs:write")
    run = get_run(platform, principal, run_id)
    if run.state not in ("dead", "failed", "cancelled"):
        raise Conflict(f"{run_id} is {run.state}; only a dead, failed or cancelled run goes on")
    with platform.db.write() as connection:
        again = (
            runs.update()
            .where(runs.c.id == run_id, runs.c.attempts == run.attempts)
            .where(runs.c.state != "queued")
            .values(state="queued", harvested=0, note=None)
        )
        taken = connection.execute(again).rowcount == 1
        if taken:
            # Within the transaction, so that whoever may start it finds this word written.
            _write_state(run.folder, "queued")
            _record(connection, principal, "run.resumed", run)
    if not taken:
        raise Conflict(f"{run_id} was resumed by someone else just now")
    return get_run(platform, principal, run_id)


def mark_dead(platform: Platform, run_id: str, note: str) -> None:
    """Say that a run that was starting or running is gone, and how one knows."""
    active = runs.c.state.in_(("starting", "running"))
    with platform.db.write() as connection:
        connection.execute(
            runs.update().where(runs.c.id == run_id, active).values(state="dead", note=note)
        )
    run_metering.settle(platform, RunFolder(platform.home.runs / run_id))


def _run(platform: Platform, row: sa.Row[Any]) -> Run:
    folder = RunFolder(platform.home.runs / row.id)
    state = row.state if row.harvested else current_state(row.state, folder)
    return Run(
        row.id,
        row.kind,
        row.name,
        state,
        row.created_ms,
        row.owner_id,
        row.attempts,
        row.note,
        folder,
    )


def _take(platform: Platform, run_id: str, launcher: str) -> bool:
    queued = runs.update().where(runs.c.id == run_id, runs.c.state == "queued")
    taken = queued.values(state="starting", launcher=launcher, attempts=runs.c.attempts + 1)
    with platform.db.write() as connection:
        return connection.execute(taken).rowcount == 1


def _cancel_queued(platform: Platform, principal: Principal, run: Run) -> bool:
    change = runs.update().where(runs.c.id == run.id, runs.c.state == "queued")
    with platform.db.write() as connection:
        taken = connection.execute(change.values(state="cancelled", harvested=1)).rowcount == 1
        if taken:
            _record(connection, principal, "run.cancelled", run)
    return taken


def _record(connection: sa.Connection, principal: Principal, action: str, run: Run) -> None:
    audit.record(connection, principal, action, run.id, before={"state": run.state})


def _write_state(run: RunFolder, state: State, **facts: Any) -> None:
    # Only while no process runs this run: a log has one writer.
    log = run.open_log()
    try:
        log.write("state", state=state, **facts)
        log.sync()
    finally:
        log.close()


def _limit_threads(run: RunFolder, threads: int | None) -> int:
    plan = run.plan()
    planned = int(plan.get("threads") or os.cpu_count() or 1)
    goes_on = any(run.checkpoints.iterdir())
    count = planned if threads is None or goes_on else min(planned, threads)
    if count != plan.get("threads"):
        write_atomically(
            run.path / "plan.json", json.dumps({**plan, "threads": count}, indent=1).encode()
        )
    return count
