"""AdamW over the float32 masters, and the rate of each step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from bessemer.train.recipe import OptimizerSection, ScheduleSection

MOMENTS = ("exp_avg", "exp_avg_sq")


def learning_rate(step: int, steps: int, peak: float, schedule: ScheduleSection) -> float:
    """The rate of step `step`, counted from 1, of `steps`.

    Linear to the peak over the warm-up, then along `shape` to `final_fraction` of it at the last
    step. A warm-up longer than a tenth of the run is cut to that.

    >>> learning_rate(100, 100, peak=1.0, schedule=ScheduleSection(final_fraction=0.1))
    0.1
    """
    assert 1 <= step <= steps, (step, steps)
    warmup = min(schedule.warmup_steps, steps // 10)
    if step <= warmup:
        return peak * step / (warmup + 1)
    done = (step - warmup) / (steps - warmup)
    left = 1 - done if schedule.shape == "linear" else (1 + math.cos(math.pi * done)) / 2
    return peak * (schedule.final_fraction + (1 - schedule.final_fraction) * left)


class Optimizer:
    """AdamW whose state has names, so that it can be saved and checked without pickle."""

    def __init__(self, masters: Mapping[str, Tensor], section: OptimizerSection) -> None:
        self._masters = masters
        matrices = [m for m in masters.values() if m.dim() >= 2]
        vectors = [m for m in masters.values() if m.dim() < 2]
        groups = [
            {"params": matrices, "weight_decay": section.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=section.learning_rate,
            betas=section.betas,
            eps=1e-8,
            fused=True,
        )
        self.steps = 0

    def step(self, rate: float) -> None:
        """Move the masters along their gradients."""
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.step()
        self.steps += 1

    def state(self) -> dict[str, Tensor]:
        """Both moments of every master, `<moment>.<name>`; zeros before the first step."""
        return {
            f"{moment}.{name}": self._adamw.state[master].get(moment, torch.zeros_like(master))
            for name, master in self._masters.items()
            for moment in MOMENTS
        }

    def load(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Continue from the state of an optimizer that took `steps` steps."""
        self.steps = steps
        for name, master in self._masters.items():
            self._adamw.state[master] = {
                "step": torch.tensor(float(steps)),
                **{moment: tensors[f"{moment}.{name}"].clone() for moment in MOMENTS},
            }
