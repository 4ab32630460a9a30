"""A run is a folder; whatever started it may go away.

    recipe.toml     resolved, with every derived value and digest
    plan.json       what the run was told: kind, inputs as paths and digests, threads
    events.jsonl    what it says about itself
    process.json    pid and start time of the process that runs it now
    heartbeat       written while it lives, with the memory it has
    checkpoints/    to continue from
    snapshots/      adapters of the way, where the recipe asks for them
    output/         what it made; final when the run succeeded

Who owns a run, and its name, is a row in the database; what happened to it is only here.
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bessemer.core.events import Event, EventLog, read_events
from bessemer.core.memory import Memory, measure
from bessemer.core.processes import ProcessId

State = Literal["queued", "running", "succeeded", "failed", "cancelled", "dead"]
FINAL: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})

HEARTBEAT_S = 2.0
# A run that was asked to stop and can go on: EX_TEMPFAIL, which schedulers requeue on.
EXIT_STOPPED = 75


class StopRequested(BaseException):
    """Raised in the main thread of a run's process when it is asked to stop (SIGTERM).

    Not an Exception, so that no handler takes it for a fault. A loop may catch it to write a
    checkpoint, and then lets it pass.
    """


@dataclass(frozen=True)
class RunFolder:
    """One run on disk."""

    path: Path

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.toml"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def snapshots(self) -> Path:
        return self.path / "snapshots"

    @property
    def output(self) -> Path:
        return self.path / "output"

    @property
    def log(self) -> Path:
        """Standard output and error of the run's process."""
        return self.path / "process.log"

    @property
    def _heartbeat(self) -> Path:
        return self.path / "heartbeat"

    @classmethod
    def create(cls, path: Path, recipe_toml: str, plan: dict[str, Any]) -> RunFolder:
        """Make the folder; its last file is `plan.json`, so a folder without one is not a run."""
        run = cls(path)
        run.checkpoints.mkdir(parents=True, mode=0o700)
        run.recipe.write_text(recipe_toml)
        write_atomically(path / "plan.json", json.dumps(plan, indent=1).encode())
        return run

    def plan(self) -> dict[str, Any]:
        plan: dict[str, Any] = json.loads((self.path / "plan.json").read_text())
        return plan

    def open_log(self) -> EventLog:
        return EventLog(self.events)

    def read(self, offset: int = 0) -> list[Event]:
        return read_events(self.events, offset).events

    def claim(self) -> None:
        """Write that the current process runs this run now."""
        facts = ProcessId.current()._asdict() | {"claimed": time.time()}
        write_atomically(self.path / "process.json", json.dumps(facts).encode())

    def process(self) -> ProcessId | None:
        try:
            facts = json.loads((self.path / "process.json").read_text())
            return ProcessId(int(facts["pid"]), float(facts["started"]))
        except (OSError, ValueError, KeyError):
            return None

    def beat(self) -> None:
        """Say "still here" and with how much memory: what is left if the kernel kills.

        The modification time of `heartbeat` is the beat.
        """
        new = self.path / ".heartbeat.tmp"
        new.write_text(json.dumps(measure()._asdict()))
        new.replace(self._heartbeat)  # not brought to the disk: it matters while the machine runs

    def last_memory(self) -> Memory | None:
        """What the last beat said."""
        try:
            return Memory(**json.loads(self._heartbeat.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def last_beat_s(self) -> float | None:
        """Seconds since the last beat, or None before the first."""
        try:
            return time.time() - self._heartbeat.stat().st_mtime
        except OSError:
            return None

    def state(self) -> State:
        """What the run is, by its own words and by whether its process lives.

        `dead`: it was running and its process is gone without a last word; it can be resumed.
        """
        state = self._last_words()
        if state == "running":
            process = self.process()
            if process is None or not process.alive():
                # It may have spoken and gone between the two looks.
                state = self._last_words()
                return "dead" if state == "running" else state
        return state

    def _last_words(self) -> State:
        state: State = "queued"
        for event in self.read():
            if event["kind"] == "state" and event.get("state") in (*FINAL, "running", "queued"):
                state = event["state"]
        return state

    def last(self, kind: str) -> Event | None:
        """The newest event of this kind."""
        return next((e for e in reversed(self.read()) if e["kind"] == kind), None)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: a reader, or a power cut, meets the old or the new, whole."""
    writer = f"{os.getpid()}-{threading.get_ident()}"
    temporary = path.with_name(f".{path.name}.{writer}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames within `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
