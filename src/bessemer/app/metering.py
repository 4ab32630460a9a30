"""Every request is paid for: reserved before its work, settled after it, released if it failed.

    meter = Meter(Ledger(platform.db), RateLimits(platform.db))
    bill = meter.open(principal, "smollm2", "chat", request_id)
    tab = bill.tab()                    # one for each answer to the same prompt
    ...await tab.expect(...)            # rate limits, then the ledger's reservation is under way
    ...await tab.allowed(first_piece)   # the engine works while the reservation becomes durable
    ...tab.count(...)                   # what was computed so far
    tab.close()                         # the last tab's settles, or releases

Nothing of an answer may be told before `allowed` has returned. If the reservation is refused, what
is awaited in it is canceled. So a durable write costs an answer no time as long as the engine needs
more. A project that was just refused pays first and is computed for afterwards.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from bessemer.app.platform import Platform
from bessemer.core.errors import BessemerError, BudgetExceeded, DeadlineExceeded, NotFound
from bessemer.core.principal import Principal
from bessemer.ledger.counts import Counts
from bessemer.ledger.entries import Kind, Reservation
from bessemer.ledger.ledger import Ledger
from bessemer.ledger.rate_limits import NOTHING_TAKEN, RateLimits, Standing, Taken

# With what a face needs of the ledger, which it does not import.
__all__ = ["Bill", "Kind", "Meter", "Standing", "Tab", "Taken"]

T = TypeVar("T")

SERVER = "server"  # as whoever releases a failed request

_log = logging.getLogger(__name__)


class Meter:
    """Opens bills on a ledger, within rate limits. Lives on one event loop; `close` it at the end.

    Attributes:
        refused: projects whose last reservation did not fit a budget.
    """

    def __init__(self, ledger: Ledger, limits: RateLimits) -> None:
        self.ledger, self.limits = ledger, limits
        self.refused: set[str] = set()
        self._newest: Future[Any] | None = None

    @classmethod
    def of(cls, platform: Platform) -> Meter:
        """On the platform's own ledger and limits."""
        return cls(Ledger(platform.db), RateLimits(platform.db))

    def refresh(self) -> None:
        """Learn what others set. Call it about once a second, off the event loop."""
        self.limits.refresh()

    def close(self) -> None:
        """Write what was entered, and stop."""
        self.ledger.close()

    def open(
        self,
        principal: Principal,
        model: str,
        kind: Kind,
        request_id: str,
        beside: list[Bill] | None = None,
    ) -> Bill:
        """A bill for one prompt. Nothing is reserved yet.

        Args:
            request_id: of the request, or of this prompt of it; unique forever.
            beside: those of the request's other prompts, which this one is added to. All of them
                are settled when the last is over, or released if one failed.
        """
        return Bill(self, principal, model, kind, request_id, [] if beside is None else beside)

    async def flush(self) -> None:
        """Wait until everything that was entered before is on disk, for who reads usage."""
        if self._newest is not None and not self._newest.done():
            self.ledger.hurry()
            await asyncio.wait([asyncio.wrap_future(self._newest)])

    def settle(self, request_id: str, used: Counts) -> None:
        """Charge what a bill's answers used, soon."""
        self._close(request_id, self.ledger.settle(request_id, used, may_wait=True))

    def release(self, request_id: str, reason: str) -> None:
        """Charge nothing for them, soon."""
        entry = self.ledger.release(request_id, SERVER, reason, may_wait=True)
        self._close(request_id, entry)

    def entered(self, entry: Future[Any]) -> None:
        """Entries are made in order, so the newest stands for all."""
        self._newest = entry

    def _close(self, request_id: str, entry: Future[Any]) -> None:
        self.entered(entry)
        entry.add_done_callback(partial(_closed, request_id))


class Bill:
    """What one prompt's answers may take, and took. Each answer has a `Tab`."""

    def __init__(
        self,
        meter: Meter,
        principal: Principal,
        model: str,
        kind: Kind,
        request_id: str,
        beside: list[Bill],
    ) -> None:
        self._beside = beside
        beside.append(self)
        self._meter, self._principal = meter, principal
        self._model, self._kind, self._request_id = model, kind, request_id
        self._tabs: list[Tab] = []
        self._durable: asyncio.Future[None] | None = None
        self._refusal: BaseException | None = None
        self._is_asked = False
        self._waiting: list[asyncio.Task[Any]] = []
        self.taken: Taken = NOTHING_TAKEN

    def tab(self) -> Tab:
        """For one more answer. All are made before the first is used."""
        tab = Tab(self)
        self._tabs.append(tab)
        return tab

    async def expect(self, model: str | None, prompt_tokens: int, completion_tokens: int) -> None:
        """See `Tally.expect`; of several answers the first one to be worked on speaks for all, and
        where one prompt is refused all are.

        Raises:
            RateLimited: at once.
            BessemerError: as `Ledger.reserve`, if the project has to pay first.
        """
        for bill in self._beside:
            if bill._refusal is not None:
                raise bill._refusal
        if self._durable is None:
            self._reserve(model, Counts(prompt_tokens, 0, completion_tokens * len(self._tabs)))
        if self._principal.project_id in self._meter.refused:
            await self.durable()

    def _reserve(self, model: str | None, most: Counts) -> None:
        self._model = model or self._model
        meter, loop = self._meter, asyncio.get_running_loop()
        # The first prompt takes a request for each: a limit has room for all of them, or for none.
        requests = 0 if any(bill._is_asked for bill in self._beside) else len(self._beside)
        self._is_asked = True
        try:
            held = sum(bill.taken.tokens for bill in self._beside)
            self.taken = meter.limits.take(
                self._principal, self._model, most.tokens, requests, held
            )
            reserved = meter.ledger.reserve(
                self._principal, self._request_id, self._model, self._kind, most
            )
        except BessemerError as fault:
            self._refusal = fault
            raise
        self._durable = loop.create_future()
        meter.entered(reserved)
        reserved.add_done_callback(lambda done: _tell(loop, self._decided, done))

    def _decided(self, reserved: Future[Reservation]) -> None:
        assert self._durable is not None
        self._refusal = reserved.exception()
        project = self._principal.project_id
        if isinstance(self._refusal, BudgetExceeded):
            self._meter.refused.add(project)
        else:
            self._meter.refused.discard(project)
        if not self._durable.done():
            self._durable.set_result(None)
        if self._refusal is not None:
            for task in self._waiting:
                task.cancel()

    async def durable(self) -> None:
        """Wait for the reservation. Raises as `Ledger.reserve`."""
        assert self._durable is not None, f"{self._request_id} was worked on and expects nothing"
        if not self._durable.done():
            await asyncio.shield(self._durable)
        if self._refusal is not None:
            raise self._refusal

    async def allowed(self, work: Awaitable[T]) -> T:
        """What `work` gives, once the reservation is durable; a refusal cancels it.

        Raises:
            BessemerError: as `Ledger.reserve`, and what `work` raises.
        """
        task = asyncio.current_task()
        assert task is not None
        self._waiting.append(task)
        before = task.cancelling()
        try:
            found = await work
        except asyncio.CancelledError:
            # As `asyncio.timeout` tells its own cancellation from another's.
            if self._refusal is None or task.uncancel() > before:
                raise
            raise self._refusal from None
        finally:
            self._waiting.remove(task)
        await self.durable()
        return found

    def close_if_over(self) -> None:
        """Settle or release the request's bills once every tab of theirs is closed."""
        tabs = [tab for bill in self._beside for tab in bill._tabs]
        if all(tab.closed for tab in tabs):
            fault = next((tab.fault for tab in tabs if tab.fault is not None), None)
            for bill in self._beside:
                bill._close(fault)

    def _close(self, fault: Exception | None) -> None:
        if self._durable is None:
            return
        if self._refusal is not None:
            self._meter.limits.give_back(self.taken, 0)
            return
        used = self._used()
        self._meter.limits.give_back(self.taken, 0 if fault else used.tokens)
        if fault is not None:
            self._meter.release(self._request_id, f"failed: {_words(fault)}")
        elif not used.tokens:
            why = "its client left before anything was computed"
            self._meter.release(self._request_id, why)
        else:
            self._meter.settle(self._request_id, used)

    def _used(self) -> Counts:
        """As the request's answer tells its usage: the prompt counts once, as the first answer
        read it."""
        first = next((tab for tab in self._tabs if tab.prompt), self._tabs[0])
        reasoning = sum(tab.reasoning for tab in self._tabs)
        said = sum(tab.completion for tab in self._tabs) - reasoning
        return Counts(first.prompt - first.cached, first.cached, said, reasoning)


class Tab:
    """Implements `core.protocols.Tally` for one answer."""

    def __init__(self, bill: Bill) -> None:
        self._bill = bill
        self.prompt = self.cached = self.completion = self.reasoning = 0
        self.closed = False
        self.fault: Exception | None = None

    async def expect(self, model: str | None, prompt_tokens: int, completion_tokens: int) -> None:
        """See `Tally.expect`."""
        self.prompt = self.cached = self.completion = self.reasoning = 0
        await self._bill.expect(model, prompt_tokens, completion_tokens)

    def count(
        self,
        prompt_tokens: int,
        cached_tokens: int,
        completion_tokens: int,
        reasoning_tokens: int = 0,
    ) -> None:
        """See `Tally.count`."""
        self.prompt, self.cached = prompt_tokens, cached_tokens
        self.completion, self.reasoning = completion_tokens, reasoning_tokens

    @property
    def taken(self) -> Taken:
        """Of the rate limits."""
        return self._bill.taken

    async def allowed(self, work: Awaitable[T]) -> T:
        """See `Bill.allowed`."""
        return await self._bill.allowed(work)

    def close(self, fault: Exception | None = None) -> None:
        """Nothing more comes: it is whole, or its client left, or there was a fault.

        A client whose own time for the request has passed has left.
        """
        if not self.closed:
            self.closed = True
            self.fault = None if isinstance(fault, DeadlineExceeded) else fault
            self._bill.close_if_over()


def _tell(loop: asyncio.AbstractEventLoop, heard: Any, news: Any) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(heard, news)


def _closed(request_id: str, entry: Future[Any]) -> None:
    fault = entry.exception()
    # Refused after all, so there is nothing to close.
    if fault is not None and not isinstance(fault, NotFound):
        _log.error("%s is not settled: %s", request_id, fault)


def _words(fault: Exception) -> str:
    code = fault.code if isinstance(fault, BessemerError) else "internal_error"
    return f"{code}: {fault!s}"[:500]
