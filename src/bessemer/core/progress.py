"""Telling how far a long piece of work is, and how long it may still take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

TELL_EVERY_S = 1.0


class Progress:
    """Writes a `progress` event at the first sign of it, then once a second, and one at the end.

    Args:
        tell: writes an event.
        stage, unit: what the work is called, and what it counts.
        total: how many there are. Where it is only an estimate, set it again.
        judged: how many of them come first and are all needed; there are `limit_s` seconds for
            those after them.
    """

    def __init__(
        self,
        tell: Callable[..., Any],
        stage: str,
        unit: str,
        total: int,
        *,
        judged: int = 0,
        limit_s: float = float("inf"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell, self._facts = tell, {"stage": stage, "unit": unit}
        self.total, self.judged = total, judged
        self._limit_s, self._clock, self._done = limit_s, clock, 0
        self._begin_s, self._told_s, self._latest_s = clock(), float("-inf"), float("inf")

    def tell(self, done: int) -> None:
        """So many are done."""
        self._done = done
        now_s = self._clock()
        rate = done / max(1e-9, now_s - self._begin_s)
        if done <= self.judged:
            self._latest_s = now_s + (self.judged - done) / rate + self._limit_s
        if now_s - self._told_s < TELL_EVERY_S:
            return
        self._told_s = now_s
        eta_s = max(0.0, min(self._latest_s - now_s, (self.total - done) / rate))
        self._write(done + round(eta_s * rate), eta_s)

    def end(self) -> None:
        """No more will be done."""
        self._write(self._done, 0.0)

    def _write(self, total: int, eta_s: float) -> None:
        counts = {"done": self._done, "total": total, "eta_s": round(eta_s, 1)}
        self._tell("progress", **self._facts, **counts)
