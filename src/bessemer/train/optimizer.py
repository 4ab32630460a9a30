"""What moves the float32 masters: AdamW, or Muon for matrices and AdamW for all else."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bessemer.core.train_sections import OptimizerSection
from bessemer.train.muon import Muon

MOMENTS = ("exp_avg", "exp_avg_sq")
MOMENTUM = "momentum"
# Matrices that are tables of vectors, or that another matrix is multiplied with before use.
NOT_FOR_MUON = ("lm_head", "output_projection", "wte", "wpe", "score", "lora_A", "lora_B")


class Optimizer:
    """An optimizer whose state has names, so that it can be saved and checked without pickle."""

    def __init__(self, masters: Mapping[str, Tensor], section: OptimizerSection) -> None:
        chosen = set(for_muon(masters)) if section.kind == "muon" else set()
        self._muon = Muon(
            {name: master for name, master in masters.items() if name in chosen},
            section.momentum,
            section.weight_decay,
        )
        self._rest = {name: master for name, master in masters.items() if name not in chosen}
        self._adamw = _adamw(self._rest, section) if self._rest else None
        self.steps = 0

    def step(self, rate: float) -> None:
        """Move the masters along their gradients."""
        self._muon.step(rate)
        if self._adamw is not None:
            for group in self._adamw.param_groups:
                group["lr"] = rate
            self._adamw.step()
        self.steps += 1

    def state(self) -> dict[str, Tensor]:
        """`<moment>.<name>` of every master; zeros before the first step."""
        momenta = {f"{MOMENTUM}.{name}": buffer for name, buffer in self._muon.buffers.items()}
        if self._adamw is None:
            return momenta
        states = {name: self._adamw.state[master] for name, master in self._rest.items()}
        return momenta | {
            f"{moment}.{name}": state[moment] if state else torch.zeros_like(self._rest[name])
            for name, state in states.items()
            for moment in MOMENTS
        }

    def load(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Continue from the state of an optimizer that took `steps` steps; the moments given
        become its own."""
        self.steps = steps
        for name, buffer in self._muon.buffers.items():
            buffer.copy_(tensors[f"{MOMENTUM}.{name}"])
        if self._adamw is None:
            return
        for name, master in self._rest.items():
            self._adamw.state[master] = {
                "step": torch.tensor(float(steps)),
                **{moment: tensors[f"{moment}.{name}"] for moment in MOMENTS},
            }


def for_muon(masters: Mapping[str, Tensor]) -> list[str]:
    """The names of the masters that Muon moves: matrices between hidden states."""
    return [
        name
        for name, master in masters.items()
        if master.dim() >= 2
        and "embed" not in name
        and not set(name.split(".")) & set(NOT_FOR_MUON)
    ]


def _adamw(masters: Mapping[str, Tensor], section: OptimizerSection) -> torch.optim.AdamW:
    matrices = [m for m in masters.values() if m.dim() >= 2]
    vectors = [m for m in masters.values() if m.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": section.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=section.learning_rate,
        betas=section.betas,
        eps=1e-8,
        fused=True,
    )
