"""The pool of engine workers: one process per model in use, all of them within one memory budget.

A model is loaded when it is first asked for. If it does not fit beside those that are loaded, the
one that was used the longest time ago and answers nobody is put to sleep; while all are answering,
the newcomer waits at the door, and after `PATIENCE_S` the one that has sat the longest finishes
what it has and gives its place up, so that no load of requests keeps another model out forever.
The door lets in one model at a time, first come, first served, with all requests that wait for it,
and it stays until it has answered them: models that compete take turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

from bessemer.app.chat import EngineFigures
from bessemer.app.engine_memory import KV_BYTES, kv_limit, reckon
from bessemer.app.engine_process import EngineProcess, WorkerCommand
from bessemer.app.engine_runtime import need_engine
from bessemer.app.models import NamedModel
from bessemer.app.platform import Platform
from bessemer.app.pooled_engine import PooledEngine
from bessemer.core.engine_client import EngineClient
from bessemer.core.errors import EngineLoading, EngineUnavailable, ModelTooLarge
from bessemer.core.memory import gb

LOADING_WAIT_S = 60.0
PATIENCE_S = 5.0
_LOOK_S = 0.2  # how often who waits for room looks whether a failure has made some

_log = logging.getLogger(__name__)


def worker_command(
    model: NamedModel,
    socket: Path,
    threads: int,
    guesses: str | Path = "ngram",
    deterministic: bool = False,
    kv_bytes: int = KV_BYTES,
    device: str = "cpu",
) -> list[str]:
    """The native engine's command line; `guesses` is `off`, `ngram` or a draft model's folder."""
    return [
        *(sys.executable, "-P", "-m", "bessemer.inference.worker"),
        *("--model", str(model.path), "--digest", model.digest),
        *("--socket", str(socket), "--threads", str(threads), "--guesses", str(guesses)),
        *(("--device", device) if device != "cpu" else ()),
        *(("--deterministic",) if deterministic else ()),
        *(("--kv-bytes", str(kv_bytes)) if kv_bytes != KV_BYTES else ()),
    ]


class EnginePool:
    """Engines by model digest. Lives on one event loop.

    Args:
        threads: for each worker.
        command: makes a worker's command line; tests give one of a tiny fake worker.
        wait_s: how long a request waits for a model that is loading, or for room.
        memory_bytes: for all engines together; None for no limit.
        sleep_after_s: a model that answered nobody for so long is put to sleep; None for never.
        patience_s: how long a model waits before one that is answering has to leave.
        draft: the model that guesses ahead in each engine, by the command line; for its memory.
    """

    def __init__(
        self,
        platform: Platform,
        threads: int,
        *,
        command: WorkerCommand | None = None,
        wait_s: float = LOADING_WAIT_S,
        memory_bytes: int | None = None,
        sleep_after_s: float | None = None,
        patience_s: float = PATIENCE_S,
        draft: NamedModel | None = None,
    ) -> None:
        self._platform, self._threads = platform, threads
        self._kv_bytes = kv_limit(memory_bytes)
        self._command = command or partial(worker_command, kv_bytes=self._kv_bytes)
        self._wait_s, self._patience_s = wait_s, patience_s
        self.memory_bytes, self._sleep_after_s = memory_bytes, sleep_after_s
        self._draft = draft
        self._engines: dict[str, PooledEngine] = {}
        self._door = asyncio.Lock()
        self._closed = False

    def engine(self, model: NamedModel) -> PooledEngine:
        """The engine of this model. What it is asked waits until it is loaded.

        Raises:
            Missing: what computes it is not installed.

        Each of its methods raises, besides its own:
            EngineLoading: it is not ready after `wait_s`, or there was no room.
            ModelTooLarge: there never will be.
            EngineUnavailable: it cannot be loaded; the worker's last lines say why.
        """
        if model.digest not in self._engines:
            need_engine(model)
            socket_dir = self._platform.home.socket_dir()
            process = EngineProcess(model, socket_dir, self._threads, self._command)
            reckoned = reckon(model, self._kv_bytes, self._draft)
            self._engines[model.digest] = PooledEngine(process, reckoned, self._lease)
        return self._engines[model.digest]

    def load(self, model: NamedModel) -> None:
        """Begin to load a model, without waiting, if it fits beside those that are loaded.

        Raises:
            ModelTooLarge: it never will.
        """
        engine = self.engine(model)
        self._check_size(engine)
        if engine.seated:
            return
        if self._has_room(engine):
            engine.process.start()
        else:
            _log.warning(
                "%s is not loaded: it needs %s, and %s of %s are taken; the first request will"
                " put another model to sleep", model.name, engine.need, gb(self.held_bytes),
                gb(self.memory_bytes or 0),
            )  # fmt: skip

    @property
    def held_bytes(self) -> int:
        """What the engines that are loaded need, by measure or reckoning."""
        return sum(engine.need.total for engine in self._engines.values() if engine.seated)

    def set_threads(self, threads: int) -> None:
        """How many cores each engine may use from now on."""
        if threads != self._threads:
            self._threads = threads
            for engine in self._engines.values():
                engine.process.set_threads(threads)

    def status(self) -> list[dict[str, Any]]:
        """For each model that was asked for: name, digest, state, error."""
        return [
            {
                "name": engine.process.model.name,
                "digest": digest,
                "state": engine.process.state,
                "error": engine.process.error,
            }
            for digest, engine in self._engines.items()
        ]

    async def figures(self) -> list[EngineFigures]:
        """Of each model that was asked for, with what its worker says now."""
        engines = list(self._engines.values())
        infos = await asyncio.gather(*(engine.process.measure() for engine in engines))
        return [
            EngineFigures(one.process.model.name, one.process.state, one.need.total, info)
            for one, info in zip(engines, infos, strict=True)
        ]

    async def rest(self) -> None:
        """Put to sleep what has been idle for `sleep_after_s`; to be called now and then."""
        if self._sleep_after_s is None or self._door.locked():
            return
        async with self._door:
            for engine in self._idle():
                if time.monotonic() - engine.used_at_s > self._sleep_after_s:
                    await engine.process.sleep()

    async def close(self) -> None:
        """End all workers and wait until they are gone. No engine can be had afterwards."""
        self._closed = True
        await asyncio.gather(*(engine.process.close() for engine in self._engines.values()))

    @contextlib.asynccontextmanager
    async def _lease(self, engine: PooledEngine) -> AsyncIterator[EngineClient]:
        """The worker of `engine`, which stays until the end of the block."""
        until_s = time.monotonic() + self._wait_s
        if self._closed:
            raise EngineUnavailable("the server is shutting down")
        if engine.must_wait_at_the_door:
            await self._let_in(engine)
        engine.under_way += 1  # at once: nobody may find it idle in between
        try:
            yield await engine.process.client(max(0.0, until_s - time.monotonic()))
        finally:
            engine.under_way -= 1
            engine.used_at_s = time.monotonic()

    async def _let_in(self, engine: PooledEngine) -> None:
        """Wait until `engine` is let in; all that wait for it are let in together."""
        engine.waiting += 1
        task = engine.admission
        if task is None:
            task = engine.admission = asyncio.create_task(self._admit(engine))
        try:
            async with asyncio.timeout(self._wait_s):
                await asyncio.shield(task)
        except TimeoutError:
            raise self._no_room_for(engine) from None
        finally:
            engine.waiting -= 1
            if not engine.waiting:
                task.cancel()  # nobody wants it any more, if it is not done
            if engine.admission is task and (task.done() or not engine.waiting):
                engine.admission = None

    async def _admit(self, engine: PooledEngine) -> None:
        async with self._door:
            if self._closed:
                raise EngineUnavailable("the server is shutting down")
            if engine.must_wait_at_the_door:
                await self._make_room(engine)
                engine.process.start()
                engine.used_at_s = time.monotonic()

    async def _make_room(self, engine: PooledEngine) -> None:
        self._check_size(engine)
        since_s = time.monotonic()
        try:
            while not self._has_room(engine):
                if idle := self._idle():
                    await min(idle, key=_last_used).process.sleep()
                    continue
                if time.monotonic() - since_s > self._patience_s:
                    self._longest_seated().leaving = True
                await asyncio.sleep(_LOOK_S)
        finally:
            for other in self._engines.values():
                other.leaving = False

    def _has_room(self, engine: PooledEngine) -> bool:
        budget = self.memory_bytes
        return budget is None or self.held_bytes + engine.need.total <= budget

    def _no_room_for(self, engine: PooledEngine) -> EngineLoading:
        return EngineLoading(
            f"{engine.process.model.name} needs {engine.need}; {gb(self.held_bytes)} of"
            f" {gb(self.memory_bytes or 0)} are held by models that answer others, for"
            f" {self._wait_s:.0f} s now",
            next_step="send the request again in a moment, or give models more: bessemer up"
            " --memory 16GB",
        )

    def _check_size(self, engine: PooledEngine) -> None:
        if self.memory_bytes is not None and engine.need.total > self.memory_bytes:
            raise ModelTooLarge(
                f"{engine.process.model.name} needs {engine.need}; all models together may have"
                f" {gb(self.memory_bytes)}",
                next_step="serve a smaller model, or give models more: bessemer up --memory 16GB",
                need_bytes=engine.need.total,
                memory_bytes=self.memory_bytes,
            )

    def _idle(self) -> list[PooledEngine]:
        return [one for one in self._engines.values() if one.idle]

    def _longest_seated(self) -> PooledEngine:
        seated = [one for one in self._engines.values() if one.seated]
        return min(seated, key=lambda one: one.process.started_at_s)


def _last_used(engine: PooledEngine) -> float:
    return engine.used_at_s
