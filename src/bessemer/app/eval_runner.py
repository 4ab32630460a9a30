"""Does the runs of evals, inside the server: a few at a time, and after a restart where it was.

Each output is on disk before it counts, and an item with an output is never asked again
(`eval_runs.record`). What models did for an item is charged when it has one, so it is not charged
again with the item. A run that was going when the server died is simply still open, so the next
server takes it up like a new one.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from bessemer.app import eval_definitions, eval_runs, eval_sources
from bessemer.app.chat import Serving
from bessemer.app.deferred_meter import DeferredMeter
from bessemer.app.eval_grading import Judge
from bessemer.app.eval_runs import EvalRun, Fault, NewOutput
from bessemer.app.eval_sources import Line
from bessemer.app.judging import partners_of
from bessemer.app.metering import Meter
from bessemer.app.platform import Platform
from bessemer.core.errors import BessemerError, DatabaseUnavailable

TICK_S = 0.5
RUNS_AT_ONCE = 4
# In all: the engine's own queue is fair between keys, but its cache is not endless.
ITEMS_AT_ONCE = 16
ITEMS_OF_A_RUN = 8
GRADERS = 2

_log = logging.getLogger(__name__)


class EvalRunner:
    """Owns the open runs. `start` it on the server's event loop; `close` leaves them open.

    Args:
        serving: what answers and judges.
        meter: who counts and charges it.
        tick_s: how often to look for new runs, and for canceled ones.
    """

    def __init__(
        self,
        platform: Platform,
        serving: Serving,
        *,
        meter: Meter | None = None,
        tick_s: float = TICK_S,
    ) -> None:
        self._platform, self._serving, self._tick_s = platform, serving, tick_s
        self._meter = meter
        self._going: dict[str, asyncio.Task[None]] = {}
        self._writing: set[asyncio.Future[bool]] = set()
        self._places = asyncio.Semaphore(ITEMS_AT_ONCE)
        # Not the loop's own threads: code that is judged may take a minute.
        self._graders = ThreadPoolExecutor(GRADERS, thread_name_prefix="eval-grader")
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._loop = asyncio.create_task(self._rounds())

    async def close(self) -> None:
        """Stop where it is; items that are under way are asked again by the next server."""
        tasks = [*self._going.values(), *([self._loop] if self._loop else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*self._writing, return_exceptions=True)
        self._going.clear()
        self._graders.shutdown(wait=False, cancel_futures=True)

    async def _rounds(self) -> None:
        while True:
            try:
                await self._round()
            except Exception:
                # A locked database passes; the runs must go on when it has.
                _log.exception("the round of the evals failed; trying again")
            await asyncio.sleep(self._tick_s)

    async def _round(self) -> None:
        still = await asyncio.to_thread(eval_runs.open_runs, self._platform)
        for run_id, task in list(self._going.items()):
            if task.done():
                del self._going[run_id]
            elif run_id not in still:  # canceled or deleted
                task.cancel()
        waiting = [run_id for run_id in still if run_id not in self._going]
        for run_id in waiting[: RUNS_AT_ONCE - len(self._going)]:
            self._going[run_id] = asyncio.create_task(self._do(run_id))

    async def _do(self, run_id: str) -> None:
        """A run from where it is to its end."""
        try:
            error = await self._try(run_id)
            state: eval_runs.State = "failed" if error else "completed"
            await asyncio.to_thread(eval_runs.finish, self._platform, run_id, state, error)
        except DatabaseUnavailable as fault:
            # It stays open, and a later round goes on with what has no output.
            _log.warning("the eval run %s goes on later: %s", run_id, fault)

    async def _try(self, run_id: str) -> Fault | None:
        """What ended it before its last item, if anything did; a run that is over stays so."""
        try:
            begun = await asyncio.to_thread(eval_runs.begin, self._platform, run_id)
            if begun is not None:
                await self._judge_all(*begun)
        except DatabaseUnavailable:
            raise
        except BessemerError as fault:
            return Fault(fault.code, fault.message)
        except Exception:
            _log.exception("the eval run %s failed", run_id)
            return Fault("internal_error", "the server had an error; it is in the server's log")
        return None

    async def _judge_all(self, run: EvalRun, done: set[int]) -> None:
        assert run.plan is not None, f"{run.id} was imported, there is nothing to do"
        definition = await asyncio.to_thread(
            eval_definitions.get, self._platform, run.principal, run.eval_id
        )
        partners = await asyncio.to_thread(partners_of, self._serving, run.principal)

        def judge_by(meter: Meter | None) -> Judge:
            return Judge(self._serving, run, definition, self._graders, meter, partners)

        lines = eval_sources.read(self._platform, run.principal, run.plan.source)
        turns = _Turns(line for line in lines if line.number not in done)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(ITEMS_OF_A_RUN):
                    group.create_task(self._judge_in_turn(run.id, judge_by, turns))
        except ExceptionGroup as faults:
            raise faults.exceptions[0] from None

    async def _judge_in_turn(
        self, run_id: str, judge_by: Callable[[Meter | None], Judge], turns: _Turns
    ) -> None:
        while True:
            async with self._places:
                line = await turns.next()
                if line is None:
                    return
                meter = None if self._meter is None else DeferredMeter(self._meter)
                try:
                    output = await judge_by(meter).judge(line)
                except BaseException:
                    _close(meter, kept=False)
                    raise
                if not await self._record(run_id, output, meter):
                    return  # canceled or deleted meanwhile

    async def _record(self, run_id: str, output: NewOutput, meter: DeferredMeter | None) -> bool:
        """What is being written when this is canceled is written, and charged; `close` waits."""
        writing = asyncio.ensure_future(
            asyncio.to_thread(eval_runs.record, self._platform, run_id, output)
        )
        self._writing.add(writing)
        writing.add_done_callback(partial(self._written, meter))
        return await asyncio.shield(writing)

    def _written(self, meter: DeferredMeter | None, writing: asyncio.Future[bool]) -> None:
        self._writing.discard(writing)
        # Whoever waited may have been canceled. What was not kept is asked again.
        failed = writing.cancelled() or writing.exception() is not None
        _close(meter, kept=not failed and writing.result())


def _close(meter: DeferredMeter | None, *, kept: bool) -> None:
    """An item with an output is charged, once, and one without is not."""
    if meter is not None and kept:
        meter.charge()
    elif meter is not None:
        meter.waive("its item has no output")


class _Turns:
    """One iterator for all workers; its reading is done in a thread, by one of them at a time."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines, self._lock = lines, asyncio.Lock()

    async def next(self) -> Line | None:
        async with self._lock:
            found = await asyncio.to_thread(lambda: list(itertools.islice(self._lines, 1)))
        return found[0] if found else None
