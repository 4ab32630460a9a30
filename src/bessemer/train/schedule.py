"""The learning rate of each step: a rise to the peak, then one of four ways on."""

from __future__ import annotations

import math

from bessemer.core.train_sections import ScheduleSection


def learning_rate(step: int, steps: int, peak: float, schedule: ScheduleSection) -> float:
    """The rate of step `step`, counted from 1, of `steps`.

    Linear to the peak over the warm-up, then along `shape`: `constant` stays; `linear` and
    `cosine` fall at once; `wsd` (warm-up, stable, decay: Hu et al., 2024, "MiniCPM") stays until
    the last `decay_fraction` of the steps and falls linearly over those. All but `constant` end
    at `final_fraction` of the peak with the last step. A warm-up longer than a tenth of the run is
    cut to that.

    >>> learning_rate(100, 100, peak=1.0, schedule=ScheduleSection(final_fraction=0.1))
    0.1
    """
    assert 1 <= step <= steps, (step, steps)
    warmup = min(schedule.warmup_steps, steps // 10)
    if step <= warmup:
        return peak * step / (warmup + 1)
    left = _left(step - warmup, steps - warmup, schedule)
    return peak * (schedule.final_fraction + (1 - schedule.final_fraction) * left)


def _left(step: int, steps: int, schedule: ScheduleSection) -> float:
    """From 1 to 0: what is left of the way down after `step` of `steps`."""
    if schedule.shape == "constant":
        return 1.0
    if schedule.shape == "linear":
        return 1 - step / steps
    if schedule.shape == "cosine":
        return (1 + math.cos(math.pi * step / steps)) / 2
    decay = max(1, round(steps * schedule.decay_fraction))
    return min(1.0, (steps - step) / decay)
