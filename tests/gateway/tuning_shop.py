"""A platform on which fine-tuning jobs can be tried, on runs that only tell what a run tells."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bessemer.app import audit, files, names
from bessemer.app.fine_tuning_desk import FineTuningDesk
from bessemer.app.paging import PageRequest
from bessemer.app.platform import Platform
from bessemer.app.supervisor import Supervisor
from bessemer.core.home import Home
from bessemer.core.principal import ModelRule, Principal
from bessemer.core.runs import RunFolder
from bessemer.gateway.asgi import build
from bessemer.gateway.exchange import ASGIApp
from bessemer.gateway.resources import resource_routes
from tests.fakes import FakeServing
from tests.gateway.calling import FakeKeyRing, call
from tests.gateway.tuning_run import COMMAND
from tests.polling import until
from tests.tiny import world

JOBS = "/v1/fine_tuning/jobs"
ME = Principal("org", "p1", "u1", frozenset({"*"}))
RICH_KEY = "sk-bsm-test-rich-other"
DENIED_KEY = "sk-bsm-test-denied"


class RichRing(FakeKeyRing):
    """With a key that may do everything in another project, and one that may not ask `tiny`."""

    def __init__(self) -> None:
        super().__init__()
        self._principals[RICH_KEY] = Principal("org", "p2", "u2", frozenset({"*"}))
        rule = ModelRule("deny_list", frozenset({"tiny"}))
        self._principals[DENIED_KEY] = replace(ME, models=rule)


class Shop(NamedTuple):
    """A platform with the model `tiny`, its application, and what works in the background."""

    platform: Platform
    app: ASGIApp
    desk: FineTuningDesk
    supervisor: Supervisor

    def upload(self, lines: list[Any], purpose: Any = "fine-tune") -> str:
        data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        return files.add_bytes(self.platform, ME, "lines.jsonl", purpose, data).id

    def create(self, lines: list[Any], **fields: Any) -> Any:
        body = {"model": "tiny", "training_file": self.upload(lines), **fields}
        answer = call(self.app, JOBS, body)
        assert answer.status == 200, answer.body
        return answer.json()

    def get(self, job: Any) -> Any:
        return call(self.app, f"{JOBS}/{job['id']}", method="GET").json()

    def post(self, job: Any, verb: str) -> Any:
        return call(self.app, f"{JOBS}/{job['id']}/{verb}")

    def work(self) -> None:
        """A round of everything in the background."""
        self.desk.round()
        asyncio.run(self.supervisor.tick())

    def until(self, job: Any, *statuses: str) -> Any:
        def there() -> bool:
            self.work()
            return self.get(job)["status"] in statuses

        until(there, f"the job is {statuses}", 60)
        return self.get(job)

    def mark(self, name: str) -> Path:
        """See `tuning_run`."""
        path = self.platform.home.root / name
        path.touch()
        return path

    def trail(self, target: str) -> list[tuple[str, Any]]:
        """What was done to it, oldest first, and what it was before."""
        reader = Principal("org", "p1", "u9", frozenset({"org:read"}))
        wanted = audit.Filter(targets=[target])
        found, _ = audit.list_events(self.platform, reader, PageRequest(100, "asc"), wanted)
        # A job's lines are a dataset that is named like the job.
        return [(e.action, e.before) for e in found if e.action != "dataset.named"]

    def run_of(self, _job: Any) -> RunFolder:
        """The newest run."""
        return RunFolder(max(self.platform.home.runs.iterdir()))


@contextlib.contextmanager
def shop_in(home: Path, model: Path) -> Iterator[Shop]:
    """A shop in a new home, with this folder as `tiny`. Its runs end with it."""
    with Platform.open(Home(home)) as platform:
        folder = platform.artifacts.workspace()
        shutil.copytree(model, folder, dirs_exist_ok=True)
        stored = platform.artifacts.put(folder, kind="model", name="tiny")
        names.bind(platform, ME, "model", "tiny", stored.digest)
        app = build(FakeServing({}), RichRing(), routes=resource_routes(platform))
        desk = FineTuningDesk(platform, tick_s=0.05)
        yield Shop(platform, app, desk, Supervisor(platform, command=COMMAND, tick_s=0.05))
        for run in platform.home.runs.iterdir():
            if process := RunFolder(run).process():
                process.send(signal.SIGKILL)


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.write_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture
def shop(tmp_path: Path, tiny_folder: Path) -> Iterator[Shop]:
    with shop_in(tmp_path / "home", tiny_folder) as found:
        yield found
