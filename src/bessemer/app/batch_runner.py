"""Inside the server: finds the batches that are not over and works on each until it is.

    runner = BatchRunner(platform, GatewayAnswerer(platform, serving), meter)
    await runner.start()

Everything that a batch is lies in its row, its input and its log of results, so a server that was
killed goes on where the log ends. Of one model's requests so many are under way at a time that
half of an engine's places stay free for others; in its queue a batch waits in a line of its own.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from weakref import WeakValueDictionary

import sqlalchemy as sa

from bessemer.app.answerer import Answerer
from bessemer.app.batch_charges import settle_open
from bessemer.app.batch_results import charges_of
from bessemer.app.batch_work import RESULTS, BatchWork, Slots
from bessemer.app.batches import OPEN, Batch, of_row
from bessemer.app.metering import Meter
from bessemer.app.platform import Platform
from bessemer.app.tables import batches
from bessemer.core.database import now_ms
from bessemer.ledger.counts import Counts

TICK_S = 1.0
# Batches under way at a time; the others wait as they are.
MOST_BATCHES = 64
# After a fault of this machine, such as a full disk.
PAUSE_S = 10.0

_log = logging.getLogger(__name__)


class BatchRunner:
    """`start` it on the server's event loop, once a home; `close` leaves the batches resumable.

    Args:
        meter: who counts and charges every line.
        tick_s: how often it looks for new batches, and each batch writes how far it is.
        clock: Unix milliseconds now.
        pause_s: how long a batch that met a fault of this machine waits before it goes on.
    """

    def __init__(
        self,
        platform: Platform,
        answerer: Answerer,
        meter: Meter,
        *,
        tick_s: float = TICK_S,
        clock: Callable[[], int] = now_ms,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._platform, self._answerer, self._meter = platform, answerer, meter
        self._tick_s, self._clock, self._pause_s = tick_s, clock, pause_s
        self._slots: WeakValueDictionary[str, Slots] = WeakValueDictionary()
        self._checking = asyncio.Lock()
        self._works: dict[str, asyncio.Task[None]] = {}
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await asyncio.to_thread(self._take_over)
        self._loop = asyncio.create_task(self._look_on(), name="batches")

    async def close(self) -> None:
        """Stop asking. What was answered is on disk; the next server goes on."""
        tasks = [task for task in (self._loop, *self._works.values()) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _look_on(self) -> None:
        while True:
            try:
                for batch in await asyncio.to_thread(self._open):
                    if batch.id not in self._works and len(self._works) < MOST_BATCHES:
                        self._works[batch.id] = asyncio.create_task(self._work(batch))
            except Exception:
                # A locked database passes; the others must go on when it has.
                _log.exception("could not look for batches; trying again")
            await asyncio.sleep(self._tick_s)

    async def _work(self, batch: Batch) -> None:
        work = BatchWork(
            self._platform,
            self._answerer,
            self._meter,
            batch,
            slots=self._slots,
            checking=self._checking,
            tick_s=self._tick_s,
            clock=self._clock,
        )
        try:
            await work.run()
        except Exception:
            _log.exception("%s met a fault; it goes on in %g s", batch.id, self._pause_s)
            await asyncio.sleep(self._pause_s)
        finally:
            del self._works[batch.id]

    def _open(self) -> list[Batch]:
        query = sa.select(batches).where(batches.c.status.in_(OPEN)).order_by(batches.c.id)
        with self._platform.db.read() as connection:
            return [of_row(row) for row in connection.execute(query)]

    def _take_over(self) -> None:
        """Charge what a killed server did not any more, and remove what it left of batches that
        are over."""
        going = {batch.id for batch in self._open()}
        charges: dict[str, Counts] = {}
        for folder in self._platform.home.batches.iterdir():
            log = folder / RESULTS
            if folder.name not in going:
                shutil.rmtree(folder, ignore_errors=True)
            elif log.exists():
                charges |= charges_of(log)
        settle_open(self._platform, self._meter, charges)
