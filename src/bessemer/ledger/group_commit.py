"""One transaction for everything that waits: many writers share one commit.

A single thread takes all entries that have queued up, hands them to `work` as one list, and
answers each when `work` has returned, that is, when the transaction is committed. While one list is
being written the next one gathers, so a lone writer waits for nothing and two hundred share.

An entry that nobody waits for may wait: it is written with the next one that somebody waits for,
which costs that one little, or after `LINGER_S`.

`work` may leave to `settle_down` what need not be done every time. That is called between two lists
once `REST_S` have passed since the last time, and when as long nothing came.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, NamedTuple, TypeVar

E = TypeVar("E")
R = TypeVar("R")

LINGER_S = 0.02
REST_S = 0.05
MOST_AT_ONCE = 500  # bounds how long the first of a list waits for the last


class _Waiting(NamedTuple, Generic[E, R]):
    entry: E
    answer: Future[R]
    may_wait: bool


class _Hurry:
    """Nothing to write, but not to be waited with."""

    may_wait = False


class GroupCommit(Generic[E, R]):
    """A queue with one worker.

    Args:
        work: writes a list of entries in one transaction and gives one outcome for each; an outcome
            that is an exception is raised for its entry alone. If `work` itself raises, nothing was
            written, and every entry of the list gets that.
        at_once: the longest list.
        settle_down: see above; what it raises, the next list gets.
    """

    def __init__(
        self,
        work: Callable[[Sequence[E]], Sequence[R | Exception]],
        at_once: int = MOST_AT_ONCE,
        settle_down: Callable[[], None] = lambda: None,
    ) -> None:
        self._work = work
        self._at_once = at_once
        self._settle_down = settle_down
        self._unsettled_s: float | None = None  # since when
        self._fault: Exception | None = None  # of settling down, for the next list
        self._queue: queue.SimpleQueue[_Waiting[E, R] | _Hurry | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)
        self._thread.start()

    def submit(self, entry: E, may_wait: bool = False) -> Future[R]:
        """Queue an entry, in the order of the calls. It cannot be canceled: whoever stops waiting
        for it queues an entry that undoes it.
        """
        answer: Future[R] = Future()
        answer.set_running_or_notify_cancel()
        with self._lock:
            if self._closed:
                raise RuntimeError("the ledger is closed")
            self._queue.put(_Waiting(entry, answer, may_wait))
        return answer

    def hurry(self) -> None:
        """What was submitted may wait no more."""
        self._queue.put(_Hurry())

    def close(self) -> None:
        """Write what is queued, then stop. Closing twice is closing once."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        open_ = True
        while open_:
            waiting, item = [], self._next()
            until_s = time.monotonic() + LINGER_S
            urgent = False
            while item is not None:
                if isinstance(item, _Waiting):
                    waiting.append(item)
                urgent = urgent or not item.may_wait
                if len(waiting) == self._at_once:
                    break
                try:
                    left_s = 0.0 if urgent else max(0.0, until_s - time.monotonic())
                    item = self._queue.get(left_s > 0, left_s)
                except queue.Empty:
                    break
            open_ = item is not None
            if waiting:
                self._write(waiting)

    def _next(self) -> _Waiting[E, R] | _Hurry | None:
        if self._unsettled_s is not None:
            left_s = self._unsettled_s + REST_S - time.monotonic()
            with contextlib.suppress(queue.Empty):
                if left_s > 0:
                    return self._queue.get(timeout=left_s)
            self._unsettled_s = None
            try:
                self._settle_down()
            except Exception as fault:
                self._fault = fault
        return self._queue.get()

    def _write(self, waiting: Sequence[_Waiting[E, R]]) -> None:
        try:
            if self._fault is not None:
                fault, self._fault = self._fault, None
                raise fault
            outcomes = self._work([item.entry for item in waiting])
            assert len(outcomes) == len(waiting), (len(outcomes), len(waiting))
        except Exception as fault:
            for item in waiting:
                item.answer.set_exception(fault)
            return
        self._unsettled_s = self._unsettled_s or time.monotonic()
        for item, outcome in zip(waiting, outcomes, strict=True):
            if isinstance(outcome, Exception):
                item.answer.set_exception(outcome)
            else:
                item.answer.set_result(outcome)
