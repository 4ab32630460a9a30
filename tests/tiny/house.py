"""A home and the processes on it, as a person has them: verbs, a server, engines, runs.

Nothing here looks inside: a server is known by what it prints and answers, its children by the
operating system. `clear` ends whatever a test left running on this home, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import openai
import psutil

from bessemer.core.runs import RunFolder
from tests.cli.calling import PROGRAM, Said, program
from tests.polling import until
from tests.postgres import homes

START_WAIT_S = 60.0
LOAD_WAIT_S = 120.0
STOP_WAIT_S = 30.0
ENGINE, RUN = "bessemer.inference.worker", "bessemer.app.run_process"


class House:
    """One home folder. `key` is an API key's secret."""

    def __init__(self, root: Path, key: str = "") -> None:
        self.root, self.key = root, key

    def copied_to(self, root: Path) -> House:
        """Another home with the same in it, its rows too; nobody may have this one open."""
        shutil.copytree(self.root, root)
        homes.copy_database(self.root, root)
        return House(root, self.key)

    def say(self, *words: str) -> Said:
        """Run a verb to its end."""
        return program(*words, home=self.root)

    def done(self, *words: str) -> Said:
        """Run a verb that must succeed."""
        said = self.say(*words)
        assert said.status == 0, said.err
        return said

    @contextlib.contextmanager
    def up(self, *options: str) -> Iterator[Server]:
        """A server that answers; stopped by SIGTERM at the end if it still runs."""
        server = Server(self, options)
        try:
            server.wait_started()
            yield server
        finally:
            server.stop()

    def run(self, run_id: str) -> RunFolder:
        return RunFolder(self.root / "runs" / run_id)

    def processes(self) -> list[psutil.Process]:
        """Engines and runs of this home that live, by their command lines."""
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if any(str(self.root) in word for word in process.info["cmdline"] or [])
            and process.status() != psutil.STATUS_ZOMBIE
        ]

    def clear(self) -> None:
        """Kill the runs that are still going."""
        for folder in (self.root / "runs").glob("run_*"):
            process = RunFolder(folder).process()
            if process is not None:
                process.send(signal.SIGKILL)


class Health(NamedTuple):
    """The first answer of `/healthz`: seconds since the process began, its CPU time, the body."""

    wall_s: float
    cpu_s: float
    body: dict[str, Any]


class Server:
    """`bessemer up --port 0` in a process of its own, with one thread for each engine."""

    def __init__(self, house: House, options: tuple[str, ...]) -> None:
        self.house = house
        self._log = house.root.with_name(f"up-{time.time_ns()}.log")
        self._began_s = time.monotonic()
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*PROGRAM, "up", "--port", "0", "--threads", "1", *options],
                env={**os.environ, "BESSEMER_HOME": str(house.root)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.url = ""
        self.first_health: Health

    def wait_started(self) -> None:
        until(self._says_where, f"up says its address; it said {self.output()}", START_WAIT_S)
        body = self.health()
        wall_s = time.monotonic() - self._began_s
        times = psutil.Process(self.process.pid).cpu_times()
        self.first_health = Health(wall_s, times.user + times.system, body)

    def _says_where(self) -> bool:
        assert self.process.poll() is None, self.output()
        lines = [line.split() for line in self.output().splitlines()]
        api = [words[1] for words in lines if words[:1] == ["API"]]
        self.url = api[0] if api else ""
        return bool(api)

    def output(self) -> str:
        return self._log.read_text()

    def health(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url.removesuffix('/v1')}/healthz", timeout=30) as reply:
            body: dict[str, Any] = json.load(reply)
        return body

    def state(self, model: str) -> str | None:
        """What `/healthz` says of a model."""
        return next((m["state"] for m in self.health()["models"] if m["id"] == model), None)

    def wait_ready(self, *models: str) -> None:
        for model in models:
            ready = partial(self._is_ready, model)
            until(ready, f"{model} is ready", LOAD_WAIT_S)

    def _is_ready(self, model: str) -> bool:
        return self.state(model) == "ready"

    def client(self) -> openai.OpenAI:
        """The official client; it does not try again by itself, so that a test sees each error."""
        return openai.OpenAI(
            base_url=self.url, api_key=self.house.key, max_retries=0, timeout=LOAD_WAIT_S
        )

    def engine(self, model: str) -> psutil.Process:
        """The worker of a model; there is one."""
        digest = next(
            m["digest"] for m in self.house.done("models", "--json").json if m["name"] == model
        )
        (worker,) = [child for child in self.engines() if digest in child.cmdline()]
        return worker

    def engines(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if ENGINE in child.cmdline()]

    def kill(self) -> None:
        """As the kernel does when memory runs out: no last word."""
        self.process.kill()
        self.process.wait(STOP_WAIT_S)

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_WAIT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        assert self.process.returncode is not None
        return self.process.returncode
