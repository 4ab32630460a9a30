"""One batch from wherever it is to its end: check the lines, ask for each, write the files.

Every step can be cut off at any point and done again: lines with a result are not asked again, and
a file that the row names is not written again. A line is charged when its result is on disk
(`batch_charges`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple
from weakref import WeakValueDictionary

import msgspec
import sqlalchemy as sa
from msgspec import Raw

from bessemer.app import files
from bessemer.app.answerer import Answered, Answerer, Posted
from bessemer.app.batch_charges import LineMeter
from bessemer.app.batch_lines import Checked, Fault, Line, Lines, check, model_of
from bessemer.app.batch_results import Result, ResultLog, Tokens
from bessemer.app.batches import Batch
from bessemer.app.metering import Meter
from bessemer.app.platform import Platform
from bessemer.app.tables import batches
from bessemer.core.errors import NotFound
from bessemer.core.ids import new_id
from bessemer.data.jsonl import one_line

# Requests of all batches to one model at a time: half of what an engine computes together.
IN_FLIGHT = 16
FIRST_WAIT_S, MOST_WAIT_S = 0.25, 30.0
RESULTS = "results"  # in the batch's folder, a `ResultLog`
_NO_MODEL = ""

Outcome = Literal["completed", "expired", "cancelled"]


class Slots(asyncio.Semaphore):
    """The places of one model's requests; a class of its own, so that it can be held weakly."""


class _Response(msgspec.Struct):
    status_code: int
    request_id: str
    body: Raw


class _Error(msgspec.Struct):
    code: str
    message: str


class OutputLine(msgspec.Struct):
    """A line of the output or error file, as OpenAI writes it."""

    id: str
    custom_id: str
    response: _Response | None
    error: _Error | None


class Tried(NamedTuple):
    """One try at a line: what came of it, and what that costs."""

    request_id: str
    answered: Answered
    meter: LineMeter


class BatchWork:
    """See `run`."""

    def __init__(
        self,
        platform: Platform,
        answerer: Answerer,
        meter: Meter,
        batch: Batch,
        *,
        slots: WeakValueDictionary[str, Slots],
        checking: asyncio.Lock,
        tick_s: float,
        clock: Callable[[], int],
    ) -> None:
        self._platform, self._answerer, self._meter = platform, answerer, meter
        self._batch = batch
        self._slots, self._checking = slots, checking
        self._tick_s, self._clock = tick_s, clock
        self._folder = platform.home.batches / batch.id
        self._told = (0, 0)
        self._keeping: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Work until the batch is over.

        Raises:
            OSError, OutOfSpace: this machine is at fault; what was done is kept.
        """
        async with self._checking:  # one file at a time: it takes a core
            checked = await asyncio.to_thread(self._check)
        if checked is None:
            return
        with contextlib.closing(checked.lines):
            if not await asyncio.to_thread(self._begin, checked):
                return
            await self._run(checked.lines)
        await asyncio.to_thread(shutil.rmtree, self._folder)

    async def _run(self, lines: Lines) -> None:
        log = await asyncio.to_thread(ResultLog, self._folder / RESULTS, len(lines))
        try:
            outcome = await self._ask_all(lines, log)
        finally:
            await asyncio.gather(*self._keeping, return_exceptions=True)
            await log.close()
        # Of a batch that is over nobody reads the log, which knows what is to be charged.
        await self._meter.flush()
        await asyncio.to_thread(self._finish, lines, log, outcome)

    # 1. The input

    def _check(self) -> Checked | None:
        """The lines, from a file that stays even when its name is deleted. None: there is none."""
        source = self._folder / "input"
        if not source.exists():
            try:
                file = files.get(self._platform, self._batch.owner, self._batch.input_file_id)
                self._folder.mkdir(exist_ok=True)
                os.link(file.path, source)
            except (NotFound, FileNotFoundError):
                self._fail([Fault("file_not_found", "The input file was deleted or expired.")])
                return None
        return check(source, self._batch.endpoint)

    def _begin(self, checked: Checked) -> bool:
        """Whether there is something to ask."""
        if checked.faults:
            self._fail(checked.faults)
            return False
        begun = {"total": len(checked.lines), "model": checked.model}
        # One that was cancelled before keeps that status; both numbers are true of it as well.
        self._update(**begun)
        self._move("validating", "in_progress")
        return True

    def _fail(self, faults: list[Fault]) -> None:
        written = msgspec.json.encode(faults).decode()
        if not self._move("validating", "failed", errors=written):
            self._move("cancelling", "cancelled")
        shutil.rmtree(self._folder, ignore_errors=True)

    # 2. The answers

    async def _ask_all(self, lines: Lines, log: ResultLog) -> Outcome:
        """Ask for what has no result yet, until all have one or it is to end before."""
        todo = iter([number for number in range(len(lines)) if number not in log])
        places = min(IN_FLIGHT, len(lines))
        if outcome := await asyncio.to_thread(self._tell, log, len(lines)):
            return outcome
        workers = [asyncio.create_task(self._work_on(todo, lines, log)) for _ in range(places)]
        try:
            while True:
                if outcome := await asyncio.to_thread(self._tell, log, len(lines)):
                    return outcome
                done, _ = await asyncio.wait(workers, timeout=self._tick_s)
                for worker in done:
                    worker.result()  # raises what it met
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _work_on(self, todo: Iterator[int], lines: Lines, log: ResultLog) -> None:
        for number in todo:
            await self._do(number, lines[number], log)

    async def _do(self, number: int, line: Line, log: ResultLog) -> None:
        """Ask as often as it takes: while engines are full, dead or loading, and until the batch
        expires. The last answer is the result."""
        slots = self._slots.setdefault(model_of(line) or _NO_MODEL, Slots(IN_FLIGHT))
        for tries in itertools.count():
            async with slots:
                found = await self._try(line)
            after_s = found.answered.retry_after_s
            if after_s is None:
                break
            await asyncio.sleep(_wait_s(after_s, tries))
        # What is being written when this is canceled is written, and charged.
        keeping = asyncio.create_task(self._keep(number, line, found, log))
        self._keeping.add(keeping)
        keeping.add_done_callback(self._keeping.discard)
        await asyncio.shield(keeping)

    async def _try(self, line: Line) -> Tried:
        # A new id each time: a request that was reserved and released cannot be reserved again.
        request_id, meter = new_id("req"), LineMeter(self._meter)
        is_good = False
        try:
            answered = await self._answerer.answer(
                Posted(
                    self._batch.owner,
                    self._batch.endpoint,
                    bytes(line.body),
                    request_id,
                    self._batch.id,
                    meter,
                )
            )
            is_good = answered.status == 200
        finally:
            if not is_good:
                meter.waive("its line has no answer")
        return Tried(request_id, answered, meter)

    async def _keep(self, number: int, line: Line, found: Tried, log: ResultLog) -> None:
        try:
            await log.append(_result(number, line, found))
        except Exception:
            found.meter.waive("its result could not be written")
            raise
        found.meter.charge()

    def _tell(self, log: ResultLog, total: int) -> Outcome | None:
        """Write how far it is, and say how it ends, if it does."""
        done = log.tally
        if (done.completed, done.failed) != self._told:
            self._update(**_tally(log))
            self._told = (done.completed, done.failed)
        row = self._row()
        if row.status == "cancelling":
            return "cancelled"
        if done.completed + done.failed == total:
            return "completed"
        # A file that was kept before a kill has to stay true: nothing is asked after it.
        is_written = row.output_file_id is not None or row.error_file_id is not None
        return "expired" if is_written or self._clock() >= self._batch.expires_ms else None

    # 3. The files

    def _finish(self, lines: Lines, log: ResultLog, outcome: Outcome) -> None:
        # Who cancels after the last answer gets all of them, and the status that was asked for.
        if outcome == "completed" and not self._move("in_progress", "finalizing"):
            outcome = "cancelled" if self._row().status == "cancelling" else "completed"
        with (
            files.writer(self._platform, sys.maxsize) as output,
            files.writer(self._platform, sys.maxsize) as errors,
        ):
            unanswered = _write(lines, log, outcome, output, errors)
            self._keep_file("output_file_id", "output", output)
            self._keep_file("error_file_id", "error", errors)
        counts = _tally(log)
        counts["failed"] += unanswered
        self._update(**counts, status=outcome, **{f"{outcome}_ms": self._clock()})

    def _keep_file(self, column: str, name: str, written: files.Writer) -> None:
        """As a file of the batch's owner, whom the row tells of it at the same time."""
        row = self._row()
        if not written.bytes or row._mapping[column] is not None:
            return

        def note(connection: sa.Connection, file_id: str) -> None:
            this = batches.update().where(batches.c.id == self._batch.id)
            connection.execute(this.values({column: file_id}))

        files.add(
            self._platform,
            self._batch.owner,
            f"{self._batch.id}_{name}.jsonl",
            "batch_output",
            written,
            expires_after_s=self._batch.output_expires_s,
            also=note,
        )

    # The row

    def _row(self) -> sa.Row[Any]:
        with self._platform.db.read() as connection:
            this = batches.c.id == self._batch.id
            return connection.execute(sa.select(batches).where(this)).one()

    def _update(self, **values: Any) -> None:
        with self._platform.db.write() as connection:
            this = batches.update().where(batches.c.id == self._batch.id)
            connection.execute(this.values(values))

    def _move(self, old: str, new: str, **values: Any) -> bool:
        """From one status to the next, unless it is in another one by now."""
        with self._platform.db.write() as connection:
            this = (batches.c.id == self._batch.id) & (batches.c.status == old)
            moved = {"status": new, f"{new}_ms": self._clock(), **values}
            done = connection.execute(batches.update().where(this).values(moved))
            return done.rowcount == 1


def _wait_s(after_s: float, tries: int) -> float:
    """At least what was asked for, twice as long each time, and not all at the same moment."""
    wait_s = max(after_s, FIRST_WAIT_S * 2.0 ** min(tries, 10))
    return min(wait_s, MOST_WAIT_S) * random.uniform(0.75, 1.25)


def _result(number: int, line: Line, found: Tried) -> Result:
    answered = found.answered
    response = _Response(answered.status, found.request_id, Raw(answered.body))
    written = OutputLine(new_id("batch_req"), line.custom_id, response, None)
    used = answered.usage
    tokens = Tokens() if used is None else Tokens.of(used)
    is_good = answered.status == 200
    return Result(
        number, is_good, tokens, dict(found.meter.charges), Raw(msgspec.json.encode(written))
    )


def _write(
    lines: Lines, log: ResultLog, outcome: Outcome, output: files.Writer, errors: files.Writer
) -> int:
    """Every result in the order of the input; how many lines expired without one."""
    unanswered = 0
    for number, result in enumerate(log.read()):
        if result is not None:
            (output if result.ok else errors).write(one_line(bytes(result.written)))
        elif outcome == "expired":
            unanswered += 1
            errors.write(one_line(_expired(lines[number])))
    return unanswered


def _expired(line: Line) -> bytes:
    why = "This request could not be executed before the completion window expired."
    error = _Error("batch_expired", why)
    return msgspec.json.encode(OutputLine(new_id("batch_req"), line.custom_id, None, error))


def _tally(log: ResultLog) -> dict[str, int]:
    completed, failed, tokens = log.tally
    return {
        "completed": completed,
        "failed": failed,
        "prompt_tokens": tokens.prompt,
        "cached_tokens": tokens.cached,
        "completion_tokens": tokens.completion,
        "reasoning_tokens": tokens.reasoning,
    }
