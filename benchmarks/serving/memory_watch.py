"""Resident memory of processes over time, and whether it grows: a slope with its bound."""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import psutil

BLOCKS = 12
# Student's t, one-sided 97.5%, for 10 degrees of freedom: two fewer than blocks.
_T = 2.228


class Slope(NamedTuple):
    """Bytes per second, with the two-sided 95% interval around it."""

    fitted: float
    low: float
    high: float


class MemoryWatch:
    """Samples once a second while its task runs."""

    def __init__(self, processes: Mapping[str, psutil.Process]) -> None:
        self._processes = processes
        self.times_s: list[float] = []
        self.sizes: dict[str, list[int]] = {name: [] for name in processes}

    async def run(self) -> None:
        while True:
            self.times_s.append(time.perf_counter())
            for name, process in self._processes.items():
                self.sizes[name].append(process.memory_info().rss)
            await asyncio.sleep(1)


def slope(times_s: Sequence[float], sizes: Sequence[float]) -> Slope:
    """A line through the medians of 12 blocks of samples.

    One sample says nearly what the one before it said, so a line through all of them would look
    far surer than it is; medians of blocks are nearly independent.
    """
    assert len(times_s) >= 2 * BLOCKS, f"{len(times_s)} samples; a slope needs {2 * BLOCKS}"
    edges = [round(i * len(times_s) / BLOCKS) for i in range(BLOCKS + 1)]
    parts = [slice(a, b) for a, b in itertools.pairwise(edges)]
    x = [statistics.median(times_s[part]) for part in parts]
    y = [statistics.median(sizes[part]) for part in parts]
    fitted, start = statistics.linear_regression(x, y)
    left = sum((v - start - fitted * u) ** 2 for u, v in zip(x, y, strict=True))
    spread = sum((u - statistics.fmean(x)) ** 2 for u in x)
    margin = _T * math.sqrt(left / (BLOCKS - 2) / spread)
    return Slope(fitted, fitted - margin, fitted + margin)
