"""One transaction for everything that waits: many writers share one fsync.

A single thread takes all entries that have queued up, hands them to `work` as one list, and
answers each when `work` has returned, that is, when the transaction is on disk. While one list is
being written the next one gathers, so a lone writer waits for nothing and two hundred share. There
is no timer and nothing to tune.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, NamedTuple, TypeVar

E = TypeVar("E")
R = TypeVar("R")

MOST_AT_ONCE = 500  # bounds how long the first of a list waits for the last


class _Waiting(NamedTuple, Generic[E, R]):
    entry: E
    answer: Future[R]


class GroupCommit(Generic[E, R]):
    """A queue with one worker.

    Args:
        work: writes a list of entries in one transaction and gives one outcome for each; an outcome
            that is an exception is raised for its entry alone. If `work` itself raises, nothing was
            written, and every entry of the list gets that.
        at_once: the longest list.
    """

    def __init__(
        self, work: Callable[[Sequence[E]], Sequence[R | Exception]], at_once: int = MOST_AT_ONCE
    ) -> None:
        self._work = work
        self._at_once = at_once
        self._queue: queue.SimpleQueue[_Waiting[E, R] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)
        self._thread.start()

    def submit(self, entry: E) -> Future[R]:
        """Queue an entry, in the order of the calls. It cannot be canceled: whoever stops waiting
        for it queues an entry that undoes it.
        """
        answer: Future[R] = Future()
        answer.set_running_or_notify_cancel()
        with self._lock:
            if self._closed:
                raise RuntimeError("the ledger is closed")
            self._queue.put(_Waiting(entry, answer))
        return answer

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
            waiting = []
            item = self._queue.get()
            while item is not None:
                waiting.append(item)
                if len(waiting) == self._at_once or self._queue.empty():
                    break
                item = self._queue.get()
            open_ = item is not None
            if waiting:
                self._write(waiting)

    def _write(self, waiting: Sequence[_Waiting[E, R]]) -> None:
        try:
            outcomes = self._work([entry for entry, _ in waiting])
            assert len(outcomes) == len(waiting), (len(outcomes), len(waiting))
        except Exception as fault:
            for _, answer in waiting:
                answer.set_exception(fault)
            return
        for (_, answer), outcome in zip(waiting, outcomes, strict=True):
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)
