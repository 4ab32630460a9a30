"""Telling how far a pass before the first step is, and how long it may still take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

TELL_EVERY_S = 2.0


class Progress:
    """Writes a `progress` event every other second, and one at the end.

    Args:
        tell: writes an event.
        stage, unit: what the pass is called, and what it counts.
        judged: how many are for validation, which come first and are all needed.
        total: with those to learn from, for which there are `limit_s` seconds. Where it is only
            an estimate, set it again.
    """

    def __init__(
        self,
        tell: Callable[..., Any],
        stage: str,
        unit: str,
        judged: int,
        total: int,
        limit_s: float,
    ) -> None:
        self._tell, self._facts = tell, {"stage": stage, "unit": unit}
        self.judged, self.total = judged, total
        self._limit_s, self._done = limit_s, 0
        self._begin_s = self._told_s = time.monotonic()
        self._latest_s = float("inf")

    def tell(self, done: int) -> None:
        self._done = done
        now_s = time.monotonic()
        rate = done / max(1e-9, now_s - self._begin_s)
        if done <= self.judged:
            self._latest_s = now_s + (self.judged - done) / rate + self._limit_s
        if now_s - self._told_s < TELL_EVERY_S:
            return
        self._told_s = now_s
        eta_s = max(0.0, min(self._latest_s - now_s, (self.total - done) / rate))
        self._write(done + round(eta_s * rate), eta_s)

    def end(self) -> None:
        self._write(self._done, 0.0)

    def _write(self, total: int, eta_s: float) -> None:
        counts = {"done": self._done, "total": total, "eta_s": round(eta_s, 1)}
        self._tell("progress", **self._facts, **counts)
