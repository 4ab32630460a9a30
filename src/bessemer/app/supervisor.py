"""The supervisor: inside the server, it starts queued runs one at a time and watches them.

Runs are processes of their own and outlive the server. A run that was going when the server died
is found again by its row and its folder (that is adoption: nothing to do but watch) and is never
started twice, because only a `queued` row can be taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import threading
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from bessemer.app import jobs
from bessemer.app.harvest import is_whole
from bessemer.app.platform import Platform
from bessemer.core.runs import RunFolder
from bessemer.core.tables import runs

TICK_S = 1.0
STUCK_S = 30.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunStatus:
    """One run that waits or goes. `adopted`: another process started it.

    `stuck`: its process lives but has not beaten for 30 s.
    """

    run_id: str
    name: str
    state: Literal["queued", "starting", "running", "stuck"]
    adopted: bool
    last_beat_s: float | None


def thread_budget() -> int:
    """Threads for training while the server runs: all cores but one, which keeps serving."""
    # Only Linux can say which cores this process may use.
    may_use = getattr(os, "sched_getaffinity", None)
    cores = len(may_use(0)) if may_use else os.cpu_count() or 1
    return max(1, cores - 1)


class Supervisor:
    """Owns the queue. `start` it on the server's event loop; `close` leaves the runs going.

    Args:
        threads: for a run, whatever its plan says beyond that.
        command: starts a run's process; its folder is appended.
    """

    def __init__(
        self,
        platform: Platform,
        *,
        threads: int | None = None,
        command: jobs.Command = jobs.RUN_COMMAND,
        tick_s: float = TICK_S,
        stuck_s: float = STUCK_S,
    ) -> None:
        self._platform, self._command = platform, command
        self._threads = threads or thread_budget()
        self._tick_s, self._stuck_s = tick_s, stuck_s
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._status: tuple[RunStatus, ...] = ()
        self._one_at_a_time = threading.Lock()
        self._closing = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Adopt what is going, and begin to tick."""
        await self.tick()
        for run in self._status:
            if run.adopted and run.state != "queued":
                _log.info("adopted run %s (%s)", run.run_id, run.name)
        self._loop = asyncio.create_task(self._tick_on(), name="supervisor")

    async def close(self) -> None:
        """Stop watching. Runs go on; the next server adopts them."""
        self._closing.set()
        if self._loop is not None:
            await self._loop

    def status(self) -> list[RunStatus]:
        """The runs that wait or go, oldest first, as of the last tick."""
        return list(self._status)

    async def tick(self) -> None:
        """One round: bury, harvest, start the next. Off the event loop."""
        await asyncio.to_thread(self._round)

    async def _tick_on(self) -> None:
        while not await self._closes_within(self._tick_s):
            try:
                await self.tick()
            except Exception:
                # A full disk or a locked database passes; the queue must go on when it has.
                _log.exception("the supervisor's round failed; trying again")

    async def _closes_within(self, wait_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), wait_s)
        return self._closing.is_set()

    def _round(self) -> None:
        with self._one_at_a_time:
            self._bury_the_mute()
            jobs.harvest(self._platform)
            rows = self._open_rows()
            if rows and all(row.state == "queued" for row in rows):
                self._start_first(rows)
                rows = self._open_rows()
            self._status = tuple(self._look_at(row) for row in rows)

    def _open_rows(self) -> list[sa.Row[Any]]:
        states = ("queued", "starting", "running")
        query = sa.select(runs).where(runs.c.state.in_(states), runs.c.harvested == 0)
        with self._platform.db.read() as connection:
            return list(connection.execute(query.order_by(runs.c.id)))

    def _start_first(self, rows: list[sa.Row[Any]]) -> None:
        """Start the oldest queued run that is whole."""
        folders = (self._folder(row.id) for row in rows)
        first = next(filter(is_whole, folders), None)
        if first is not None:
            self._start(first)

    def _start(self, folder: RunFolder) -> None:
        try:
            child = jobs.start_detached(
                self._platform,
                folder,
                launcher="server",
                threads=self._threads,
                command=self._command,
            )
        except OSError as fault:
            _log.error("cannot start %s: %s", folder.run_id, fault)
            jobs.mark_dead(self._platform, folder.run_id, f"could not be started: {fault}")
            return
        if child is not None:
            self._children[folder.run_id] = child

    def _bury_the_mute(self) -> None:
        """Reap our own children; one that ended without a word gets a note of its last lines."""
        for run_id, child in list(self._children.items()):
            if child.poll() is None:
                continue
            del self._children[run_id]
            folder = self._folder(run_id)
            if folder.state() == "queued":
                note = f"its process ended with status {child.returncode} before it said a word"
                jobs.mark_dead(self._platform, run_id, f"{note}: {_last_lines(folder)}")

    def _look_at(self, row: sa.Row[Any]) -> RunStatus:
        folder = self._folder(row.id)
        beat_s = folder.last_beat_s()
        adopted = row.state != "queued" and row.id not in self._children
        state = row.state
        if state == "running" and beat_s is not None and beat_s > self._stuck_s:
            state = "stuck"
        return RunStatus(row.id, row.name, state, adopted, beat_s)

    def _folder(self, run_id: str) -> RunFolder:
        return RunFolder(self._platform.home.runs / run_id)


def _last_lines(folder: RunFolder, count: int = 5) -> str:
    text = folder.log.read_text(errors="replace")
    # No text in PostgreSQL has U+0000.
    lines = text.replace("\0", "\N{REPLACEMENT CHARACTER}").splitlines()[-count:]
    return "\n".join(lines) or "it wrote nothing"
