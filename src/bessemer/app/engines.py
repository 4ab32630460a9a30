"""The pool of engine workers: one process per model in use, started when it is first asked for."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

from bessemer.app.engine_process import EngineProcess, WorkerCommand
from bessemer.app.models import NamedModel
from bessemer.app.platform import Platform
from bessemer.core.engine_client import EngineClient
from bessemer.core.errors import EngineUnavailable

LOADING_WAIT_S = 60.0
# A model that failed to load is tried again by the first request after this long.
FAILED_REST_S = 30.0


def worker_command(
    model: NamedModel,
    socket: Path,
    threads: int,
    guesses: str | Path = "ngram",
    deterministic: bool = False,
) -> list[str]:
    """The native engine's command line; `guesses` is `off`, `ngram` or a draft model's folder."""
    return [
        *(sys.executable, "-P", "-m", "bessemer.inference.worker"),
        *("--model", str(model.path), "--digest", model.digest),
        *("--socket", str(socket), "--threads", str(threads), "--guesses", str(guesses)),
        *(("--deterministic",) if deterministic else ()),
    ]


class EnginePool:
    """Engines by model digest. Lives on one event loop.

    Args:
        threads: for each worker.
        command: makes a worker's command line; tests give one of a tiny fake worker.
        wait_s: how long a request waits for a model that is loading.
    """

    def __init__(
        self,
        platform: Platform,
        threads: int,
        *,
        command: WorkerCommand = worker_command,
        wait_s: float = LOADING_WAIT_S,
    ) -> None:
        self._platform, self._threads = platform, threads
        self._command, self._wait_s = command, wait_s
        self._processes: dict[str, EngineProcess] = {}
        self._closed = False

    async def engine(self, model: NamedModel) -> EngineClient:
        """The engine of this model; starts it, or waits for it, where that is needed.

        Raises:
            EngineLoading: it is not ready after `wait_s`.
            EngineUnavailable: it cannot be loaded; the worker's last lines say why.
        """
        return await self.load(model).client(self._wait_s)

    def load(self, model: NamedModel) -> EngineProcess:
        """Begin to load a model without waiting for it."""
        if self._closed:
            raise EngineUnavailable("the server is shutting down")
        process = self._processes.get(model.digest)
        if process is None:
            process = self._new_process(model)
            self._processes[model.digest] = process
        if process.state == "stopped" or _has_rested(process):
            process.start()
        return process

    def set_threads(self, threads: int) -> None:
        """How many cores each engine may use from now on."""
        if threads != self._threads:
            self._threads = threads
            for process in self._processes.values():
                process.set_threads(threads)

    def status(self) -> list[dict[str, Any]]:
        """For each model that was asked for: name, digest, state, error."""
        return [
            {
                "name": process.model.name,
                "digest": process.model.digest,
                "state": process.state,
                "error": process.error,
            }
            for process in self._processes.values()
        ]

    async def close(self) -> None:
        """End all workers and wait until they are gone. No engine can be had afterwards."""
        self._closed = True
        await asyncio.gather(*(process.close() for process in self._processes.values()))

    def _new_process(self, model: NamedModel) -> EngineProcess:
        socket_dir = self._platform.home.socket_dir()
        return EngineProcess(model, socket_dir, self._threads, self._command)


def _has_rested(process: EngineProcess) -> bool:
    return process.state == "failed" and time.monotonic() - process.failed_at_s > FAILED_REST_S
