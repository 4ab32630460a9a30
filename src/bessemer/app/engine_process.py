"""One model's engine worker, kept alive: started, watched, and started again when it dies.

A worker that dies while it serves is restarted with back-off for as long as anybody wants it. One
that dies three times in a row while loading has a fault that another try will not mend: it is
`failed`, with the last lines it wrote as the reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Literal

from bessemer.app.models import NamedModel
from bessemer.core.engine_client import EngineClient
from bessemer.core.errors import EngineLoading, EngineUnavailable
from bessemer.core.protocols import EngineInfo

EngineState = Literal["loading", "ready", "failed", "stopped", "sleeping"]

# The command line of a worker, from the model, the socket it shall serve at, and its threads.
WorkerCommand = Callable[[NamedModel, Path, int], list[str]]

FIRST_BACK_OFF_S = 0.5
LONGEST_BACK_OFF_S = 30.0
# A worker that served this long has earned a quick restart again.
CALM_S = 60.0
MAX_LOADING_DEATHS = 3
ENDING_S = 5.0
INFO_WAIT_S = 2.0

_TAIL_BYTES = 4096
_TAIL_LINES = 8

_log = logging.getLogger(__name__)
_numbers = itertools.count(1)


class EngineProcess:
    """The worker of one model. Lives on one event loop; `start` it, and `close` it at the end.

    Attributes:
        ready_bytes: memory that the last worker had when it was ready; 0 before the first.
        memory_bytes: the most it was seen to have since then.
    """

    def __init__(
        self, model: NamedModel, socket_dir: Path, threads: int, command: WorkerCommand
    ) -> None:
        self.model = model
        self.state: EngineState = "stopped"
        self.error: str | None = None
        self.failed_at_s = 0.0
        self.started_at_s = 0.0
        self.ready_bytes = self.memory_bytes = 0
        self._socket_dir, self._threads, self._command = socket_dir, threads, command
        self._client: EngineClient | None = None
        self._tail = bytearray()
        self._news = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to load, without waiting. Does nothing while it loads or serves."""
        if self.state not in ("loading", "ready"):
            self._tell("loading")
            self.started_at_s = time.monotonic()
            # One that is being ended still has the memory that this one needs.
            keeping = self._keep(after=self._keeper)
            self._keeper = asyncio.create_task(keeping, name=f"engine {self.model.name}")

    async def client(self, wait_s: float) -> EngineClient:
        """The engine, once it is ready.

        Raises:
            EngineLoading: it is not after `wait_s`.
            EngineUnavailable: it failed for good, or was closed.
        """
        try:
            async with asyncio.timeout(wait_s):
                while self._client is None or not self._client.alive:
                    if self.state in ("failed", "stopped", "sleeping"):
                        raise EngineUnavailable(self.error or f"{self.model.name} was stopped")
                    await self._news.wait()
                return self._client
        except TimeoutError:
            raise EngineLoading(
                f"{self.model.name} is still loading after {wait_s:.0f} s",
                next_step="send the request again in a moment",
            ) from None

    def set_threads(self, threads: int) -> None:
        """Share the cores anew; a worker that runs keeps what it is doing."""
        self._threads = threads
        if self._client is not None:
            self._client.set_threads(threads)

    async def measure(self) -> EngineInfo | None:
        """What the worker says of itself now; None unless it is ready."""
        if self._client is None or not self._client.alive:
            return None
        try:
            async with asyncio.timeout(INFO_WAIT_S):
                info = await self._client.info()
        except (EngineUnavailable, TimeoutError):
            return None
        self.memory_bytes = max(self.memory_bytes, info.memory_bytes)
        return info

    async def sleep(self) -> None:
        """End the worker and wait until its memory is free; `start` brings it back."""
        self._tell("sleeping")
        await self._end_keeper()

    async def close(self) -> None:
        """End the worker and wait until it is gone."""
        await self._end_keeper()
        self._tell("stopped")

    async def _end_keeper(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])

    async def _keep(self, after: asyncio.Task[None] | None) -> None:
        if after is not None:
            await asyncio.wait([after])
        deaths, back_off_s = 0, FIRST_BACK_OFF_S
        while True:
            try:
                async with self._serving() as client:
                    client.set_threads(self._threads)  # it may have changed during the load
                    self.ready_bytes = self.memory_bytes = (await client.info()).memory_bytes
                    self._tell("ready", client=client)
                    deaths, since_s = 0, time.monotonic()
                    await client.gone()
                    self._tell("loading", error="the engine died; it is being restarted")
            except EngineUnavailable as fault:
                deaths += 1
                _log.warning("%s", fault)
                if deaths >= MAX_LOADING_DEATHS:
                    self.failed_at_s = time.monotonic()
                    self._tell("failed", error=f"{fault.message} (tried {deaths} times)")
                    return
            else:
                said = self._last_lines()
                _log.warning("the engine of %s died; restarting it. %s", self.model.name, said)
                if time.monotonic() - since_s > CALM_S:
                    back_off_s = FIRST_BACK_OFF_S
            await asyncio.sleep(back_off_s)
            back_off_s = min(2 * back_off_s, LONGEST_BACK_OFF_S)

    @contextlib.asynccontextmanager
    async def _serving(self) -> AsyncIterator[EngineClient]:
        """A worker that serves; whatever happens inside, it is gone afterwards."""
        socket = self._socket_dir / f"engine-{os.getpid()}-{next(_numbers)}.sock"
        process = await self._spawn(socket)
        assert process.stdout is not None and process.stderr is not None
        self._tail = bytearray()
        reading = [asyncio.create_task(_keep_tail(process.stderr, self._tail))]
        try:
            if not await _says_ready(process.stdout):
                # Its end is near; what it writes on the way out says why.
                await _end(process)
                await asyncio.wait(reading)
                raise EngineUnavailable(self._obituary(process.returncode))
            reading.append(asyncio.create_task(_keep_tail(process.stdout, bytearray())))
            client = await EngineClient.connect(socket)
            try:
                yield client
            finally:
                await client.close()
        finally:
            await _end(process)
            await asyncio.wait(reading)
            socket.unlink(missing_ok=True)

    async def _spawn(self, socket: Path) -> asyncio.subprocess.Process:
        arguments = self._command(self.model, socket, self._threads)
        try:
            return await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, "OMP_NUM_THREADS": str(self._threads)},
                # Ctrl-C in the terminal is the server's to act on; the worker follows its stdin.
                start_new_session=True,
            )
        except OSError as fault:
            raise EngineUnavailable(f"cannot start {arguments[0]}: {fault.strerror}") from fault

    def _last_lines(self) -> str:
        lines = self._tail.decode(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join(lines) or "it wrote nothing"

    def _obituary(self, status: int | None) -> str:
        said = self._last_lines()
        return f"the engine of {self.model.name} ended while loading, status {status}: {said}"

    def _tell(
        self, state: EngineState, *, client: EngineClient | None = None, error: str | None = None
    ) -> None:
        self.state, self._client, self.error = state, client, error
        self._news.set()
        self._news = asyncio.Event()


async def _says_ready(stdout: asyncio.StreamReader) -> bool:
    while True:
        try:
            line = await stdout.readline()
        except ValueError:  # a line beyond the reader's limit is not ours
            continue
        if not line or line.strip() == b"ready":
            return bool(line)


async def _keep_tail(stream: asyncio.StreamReader, tail: bytearray) -> None:
    """Read to the end, so that the pipe never fills, and keep the last bytes."""
    while chunk := await stream.read(_TAIL_BYTES):
        tail += chunk
        del tail[:-_TAIL_BYTES]


async def _end(process: asyncio.subprocess.Process) -> None:
    """End of input asks the worker to go; one that stays is killed."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), ENDING_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
