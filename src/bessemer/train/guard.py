"""Is this step's gradient fit to be used? A gradient that is not finite, or a loss that jumps.

A spike is a loss above  median + spike_factor * max(MAD, 1% of the median)  of the recent steps'
losses, MAD their median absolute deviation: both are unmoved by a spike among them. What to do is
the recipe's choice. Leaving a batch out changes nothing but the step number. The recent losses are
part of a checkpoint, so a resumed run decides alike.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from typing import Literal, NamedTuple

from bessemer.core.errors import RunFailed
from bessemer.core.train_sections import GuardSection

LEAST_SPREAD = 0.01


class Fault(NamedTuple):
    """What is wrong with a step, in words with its numbers, and what the recipe says to do."""

    what: str
    action: Literal["stop", "skip"]


class Guard:
    """Judges every step before it is taken.

    Attributes:
        recent: losses of the last steps that were fit.
        skipped: batches left out in a row.
    """

    def __init__(self, section: GuardSection) -> None:
        self._section = section
        self.recent: deque[float] = deque(maxlen=section.window)
        self.skipped = 0

    def judge(self, loss: float, grad_norm: float) -> Fault | None:
        """None for a step to take. Call it once a step.

        Raises:
            RunFailed: too many batches in a row were left out.
        """
        fault = self._fault(loss, grad_norm)
        if fault is None:
            self.recent.append(loss)
            self.skipped = 0
        elif fault.action == "skip":
            self.skipped += 1
            if self.skipped > self._section.most_skips:
                raise RunFailed(
                    f"{self.skipped} batches in a row were left out; the last one: {fault.what}",
                    next_step="start again with a lower optimizer.learning_rate",
                )
        return fault

    def load(self, recent: Sequence[float], skipped: int) -> None:
        """Go on as the guard of a checkpoint."""
        self.recent.extend(recent)
        self.skipped = skipped

    def _fault(self, loss: float, grad_norm: float) -> Fault | None:
        section = self._section
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            return Fault(f"loss {loss} and a gradient of length {grad_norm}", section.on_nan)
        bound = self._bound()
        if section.on_spike == "off" or bound is None or loss <= bound:
            return None
        middle = statistics.median(self.recent)
        return Fault(
            f"loss {loss:.4g} where the last {len(self.recent)} steps had {middle:.4g}"
            f" (the bound is {bound:.4g})",
            section.on_spike,
        )

    def _bound(self) -> float | None:
        if len(self.recent) < self._section.window // 2:
            return None
        middle = statistics.median(self.recent)
        spread = statistics.median(abs(loss - middle) for loss in self.recent)
        return middle + self._section.spike_factor * max(spread, LEAST_SPREAD * abs(middle))
