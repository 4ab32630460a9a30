"""A request to stop waits until the step is done, but not forever.

`app` answers SIGTERM by raising StopRequested wherever the process happens to be. In the middle of
an optimizer step that would leave half of the weights moved. While the loop runs, the signal only
sets a flag, which the loop reads between two steps. Schedulers kill 60 seconds after they asked
(Slurm's and Kubernetes' usual grace is 30 to 60): when the step has not ended by then, or its
checkpoint is not on the disk, the process ends itself with the status of a stopped run, and the
checkpoint before it is what is left.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from bessemer.core.events import EventLog
from bessemer.core.runs import EXIT_STOPPED

SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE_S = 55.0


class StopFlag:
    """Within the `with`, SIGTERM and Ctrl-C set `requested`, and start the time that is left.

    Args:
        grace_s: how long a step may take to end after the first signal.
    """

    def __init__(self, log: EventLog, grace_s: float = GRACE_S) -> None:
        self.requested = False
        self._log, self._grace_s = log, grace_s
        self._timer: threading.Timer | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopFlag:
        # Only the main thread may set handlers, and only there are they run.
        if threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.signal(signum, self._note) for signum in SIGNALS}
        return self

    def __exit__(self, *_fault: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        if self._timer is not None:
            self._timer.cancel()

    def _note(self, _signum: int, _frame: FrameType | None) -> None:
        if not self.requested:
            self.requested = True
            self._timer = threading.Timer(self._grace_s, self._give_up)
            self._timer.daemon = True
            self._timer.start()

    def _give_up(self) -> None:
        message = (
            f"asked to stop, and the step and its checkpoint did not end within"
            f" {self._grace_s:.0f} s: what came after the last checkpoint is lost"
        )
        print(message, file=sys.stderr, flush=True)
        self._log.write("note", message=message)
        self._log.write("state", state="cancelled")
        self._log.sync()
        os._exit(EXIT_STOPPED)
