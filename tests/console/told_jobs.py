"""Fine-tuning jobs whose story a test tells: real rows, and a run without a process that works."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bessemer.app import files, fine_tuning, names
from bessemer.app.fine_tuning import Job, Request
from bessemer.app.fine_tuning_method import Method
from bessemer.app.platform import Platform
from bessemer.app.tables import fine_tuning_checkpoints, fine_tuning_jobs
from bessemer.core.database import now_ms
from bessemer.core.ids import new_id
from tests.console.told_runs import ToldRun, train_run

CHAT = {
    "messages": [
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "4"},
    ]
}


def a_model(platform: Platform, name: str = "tiny") -> str:
    """A stored model, of which nobody here reads more than the name."""
    folder = platform.artifacts.workspace()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    stored = platform.artifacts.put(folder, kind="model", name=name)
    names.bind(platform, platform.local_principal(), "model", name, stored.digest)
    return name


def a_file(platform: Platform, *lines: Any, name: str = "chats.jsonl") -> str:
    data = "".join(json.dumps(line) + "\n" for line in lines or (CHAT,)).encode()
    return files.add_bytes(platform, platform.local_principal(), name, "fine-tune", data).id


class ToldJob:
    """A job that was asked for; `begin` gives it a run that tells what a test says."""

    def __init__(self, platform: Platform, **asked: Any) -> None:
        self._platform = platform
        a_model(platform)
        wanted: dict[str, Any] = {"model": "tiny", "method": Method(type="supervised"), **asked}
        wanted.setdefault("training_file", a_file(platform))
        made = fine_tuning.create(platform, platform.local_principal(), Request(**wanted))
        self.id, self.name = made.id, made.model_name
        self.path = f"/fine-tuning/{self.id}"

    @property
    def now(self) -> Job:
        return fine_tuning.get(self._platform, self._platform.local_principal(), self.id)

    def begin(self, steps: int = 49) -> ToldRun:
        run = train_run(self._platform, self.name, steps=steps)
        self.change(state="open", run_id=run.id)
        return run

    def change(self, **values: Any) -> None:
        table = fine_tuning_jobs
        with self._platform.db.write() as connection:
            connection.execute(table.update().where(table.c.id == self.id).values(**values))

    def end(self, state: str, error: dict[str, Any] | None = None, **values: Any) -> None:
        told = None if error is None else json.dumps(error)
        self.change(state=state, error=told, finished_ms=now_ms(), **values)

    def keep(self, step: int, **metrics: float) -> None:
        """A checkpoint."""
        me = self._platform.local_principal()
        values = {
            "id": new_id("ftckpt"),
            "org_id": me.org_id,
            "project_id": me.project_id,
            "owner_id": me.owner_id,
            "created_ms": now_ms(),
            "job_id": self.id,
            "step": step,
            "model": f"{self.name}:ckpt-step-{step}",
            "metrics": json.dumps({"step": step, **metrics}),
        }
        with self._platform.db.write() as connection:
            connection.execute(fine_tuning_checkpoints.insert().values(values))


def planning_command(folder: Path, told: dict[str, Any]) -> tuple[str, ...]:
    """A process in place of the train room's, which says what it measured."""
    script = folder / "planning.py"
    script.write_text(
        "import json, sys, time\n"
        f"told = {{'t': time.time(), 'kind': 'measured', **{told!r}}}\n"
        "with open(sys.argv[1] + '/events.jsonl', 'a') as log:\n"
        "    log.write(json.dumps(told) + '\\n')\n"
    )
    return (sys.executable, str(script))
