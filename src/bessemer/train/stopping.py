"""A request to stop waits until the step is done.

`app` answers SIGTERM by raising StopRequested wherever the process happens to be. In the middle of
an optimizer step that would leave half of the weights moved. While the loop runs, the signal only
sets a flag, which the loop reads between two steps.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopFlag:
    """Within the `with`, SIGTERM and Ctrl-C set `requested` and do nothing else."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopFlag:
        # Only the main thread may set handlers, and only there are they run.
        if threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.signal(signum, self._note) for signum in SIGNALS}
        return self

    def __exit__(self, *_fault: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, _signum: int, _frame: FrameType | None) -> None:
        self.requested = True
