"""A run that hangs says where, and ends: a thread that waits for the next sign of progress.

The main thread may be anywhere, in a lock or in a kernel call, so it is not asked: its stack and
all others are written to standard error (`process.log`), the last event is the reason, and the
process ends with a status of its own. The run can be resumed from its last checkpoint.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from types import TracebackType

from bessemer.core.events import EventLog

EXIT_HUNG = 70  # EX_SOFTWARE
LEAST_S = 600.0
TIMES_THE_SLOWEST = 20.0


class Watchdog:
    """Within the `with`, `beat` has to be called in time.

    Args:
        hang_s: seconds without a beat that are too many; None for 600, or 20 times the longest
            time between two beats so far if that is more.
        what_is_kept: a sentence about the last checkpoint, asked for at the end.
    """

    def __init__(self, log: EventLog, run_id: str, hang_s: float | None) -> None:
        self._log, self._run_id, self._hang_s = log, run_id, hang_s
        self._last_s = time.monotonic()
        self._slowest_s = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self) -> None:
        """Something was done."""
        now_s = time.monotonic()
        self._slowest_s = max(self._slowest_s, now_s - self._last_s)
        self._last_s = now_s

    def __enter__(self) -> Watchdog:
        self.beat()
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _fault: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._done.set()
        self._thread.join()

    @property
    def patience_s(self) -> float:
        """How long no beat is too long now."""
        return self._hang_s or max(LEAST_S, TIMES_THE_SLOWEST * self._slowest_s)

    def _watch(self) -> None:
        while True:
            left_s = self._last_s + self.patience_s - time.monotonic()
            if left_s <= 0:
                self._end()
            if self._done.wait(max(0.01, min(left_s, 1.0))):
                return

    def _end(self) -> None:
        waited_s = time.monotonic() - self._last_s
        message = f"nothing was done for {waited_s:.0f} s; all stacks are in process.log"
        next_step = f"read them, then go on: bessemer train --resume {self._run_id}"
        print(f"{message}\n", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        error = {"message": message, "next_step": next_step}
        self._log.write("state", state="failed", error=error)
        self._log.sync()
        os._exit(EXIT_HUNG)
