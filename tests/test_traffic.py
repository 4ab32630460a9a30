"""The judgment of `benchmarks/traffic.py`: what counts as growing memory, and what it sends."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import traffic as found  # type: ignore[import-not-found]

    yield found
    for name in [name for name in sys.modules if name.split(".")[0] in ("serving", "traffic")]:
        del sys.modules[name]


@pytest.fixture
def slope(traffic: Any) -> Any:
    return traffic.slope


def wandering(seed: int, growth_a_s: float) -> tuple[list[float], list[float]]:
    """Two minutes of samples that wander by tens of megabytes around a line."""
    source, away = random.Random(seed), 0.0
    sizes = []
    for second in range(120):
        away = 0.8 * away + source.gauss(0, 10e6)
        sizes.append(1e9 + growth_a_s * second + away)
    return [float(second) for second in range(120)], sizes


def test_memory_that_only_wanders_is_not_said_to_grow(slope: Any) -> None:
    judged = [slope(*wandering(seed, 0.0)) for seed in range(200)]
    assert sum(found.low > 0 for found in judged) <= 20  # 2.5% if samples were independent


def test_a_leak_is_seen_with_its_size(slope: Any) -> None:
    judged = [slope(*wandering(seed, 1e6)) for seed in range(50)]
    assert all(found.low > 0 for found in judged)
    assert sum(found.low <= 1e6 <= found.high for found in judged) >= 40


@pytest.mark.parametrize(("after_mb", "stayed"), [(550, True), (624, True), (626, False)])
def test_a_short_run_compares_memory_at_rest(traffic: Any, after_mb: int, stayed: bool) -> None:
    """How high it went between depends on the load."""
    watch = traffic.MemoryWatch({})
    watch.times_s = [float(second) for second in range(121)]
    watch.sizes = {"worker": [1_200_000_000] * 120 + [after_mb * 1_000_000]}
    assert traffic.flat("worker", watch, 30.0, 2.0, 500_000_000) == stayed


def test_a_long_run_is_judged_by_its_slope(traffic: Any) -> None:
    for growth, stayed in ((0.0, True), (1e6, False)):
        watch = traffic.MemoryWatch({})
        watch.times_s, sizes = wandering(0, growth)
        watch.sizes = {"worker": [int(size) for size in sizes]}
        assert traffic.flat("worker", watch, 0.0, 30.0, 1_000_000_000) == stayed
