"""How long answers take, as histograms for each model: until the first piece, and between pieces.

A piece is a delta: a token as a rule, more where characters or calls are held back. What is seen is
what the server sees, queueing and loading included.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import dataclass, field

FIRST_BOUNDS_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
BETWEEN_BOUNDS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
# A model may be asked by any part of its digest; beyond so many names they share one.
MOST_NAMES = 1_000
OTHERS = "others"


@dataclass
class Histogram:
    """Counts of values up to each bound, and above the last one."""

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class ModelLatencies:
    """Of one model, in seconds."""

    def __init__(self) -> None:
        self.first = Histogram(FIRST_BOUNDS_S)
        self.between = Histogram(BETWEEN_BOUNDS_S)


class Latencies:
    """By the name that was asked. Lives on one event loop."""

    def __init__(self) -> None:
        self.models: dict[str, ModelLatencies] = {}

    def watch(self, model: str) -> Watch:
        """Begin to time one answer."""
        return Watch(self, model)

    def of(self, model: str) -> ModelLatencies:
        if model not in self.models and len(self.models) >= MOST_NAMES:
            model = OTHERS
        return self.models.setdefault(model, ModelLatencies())


class Watch:
    """The clock of one answer; a name that never answers leaves no trace."""

    def __init__(self, latencies: Latencies, model: str) -> None:
        self._latencies, self._model = latencies, model
        self._histogram: Histogram | None = None
        self._last_s = time.perf_counter()

    def piece(self) -> None:
        """A piece came just now."""
        now_s = time.perf_counter()
        if self._histogram is None:
            found = self._latencies.of(self._model)
            found.first.observe(now_s - self._last_s)
            self._histogram = found.between
        else:
            self._histogram.observe(now_s - self._last_s)
        self._last_s = now_s
