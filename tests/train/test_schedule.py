"""The rate: within bounds, without jumps, ending where the recipe says."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bessemer.core.train_sections import ScheduleSection
from bessemer.train.schedule import learning_rate

SCHEDULES = st.builds(
    ScheduleSection,
    shape=st.sampled_from(["constant", "linear", "cosine", "wsd"]),
    warmup_steps=st.integers(0, 50),
    decay_fraction=st.floats(0.01, 1),
    final_fraction=st.floats(0, 1),
)


def rates(steps: int, schedule: ScheduleSection) -> list[float]:
    return [learning_rate(step, steps, 2.0, schedule) for step in range(1, steps + 1)]


@given(steps=st.integers(1, 300), schedule=SCHEDULES)
def test_rates_stay_within_bounds_rise_once_and_fall_once(steps: int, schedule: Any) -> None:
    every = rates(steps, schedule)
    assert all(0 <= rate <= 2.0 for rate in every)
    top = every.index(max(every))
    assert every[: top + 1] == sorted(every[: top + 1])
    assert every[top:] == sorted(every[top:], reverse=True)
    end = 1.0 if schedule.shape == "constant" else schedule.final_fraction
    assert abs(every[-1] - 2.0 * end) < 1e-9


@given(steps=st.integers(100, 300), schedule=SCHEDULES)
def test_no_step_jumps(steps: int, schedule: Any) -> None:
    every = rates(steps, schedule)
    warmup = min(schedule.warmup_steps, steps // 10)
    fall = max(1, round((steps - warmup) * schedule.decay_fraction))
    fall = fall if schedule.shape == "wsd" else (steps - warmup) / 2
    largest = 2.0 * max(1 / (warmup + 1), 1.6 / fall) + 1e-9
    assert max(abs(a - b) for a, b in itertools.pairwise(every)) <= largest


def test_wsd_stays_at_its_peak_until_the_last_part() -> None:
    every = rates(100, ScheduleSection(shape="wsd", warmup_steps=0, decay_fraction=0.2))
    assert every[:80] == [2.0] * 80
    assert every[89] == 2.0 * (0.1 + 0.9 * 0.5)
    assert every[-1] == 0.2
