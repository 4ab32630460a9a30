"""Will it fit? What training needs, what there is, and what to change when it does not.

An estimate before the start refuses only what cannot fit: weights, masters, gradients and optimizer
state, which are known to the byte. Activations are not; running out of memory later becomes an
error with the same numbers, and a run that the kernel killed for it gets the same advice. Importing
this needs no torch: who finds such a run has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bessemer.core.errors import OutOfMemory
from bessemer.core.memory import gb, measure
from bessemer.core.train_recipe import TrainRecipe

if TYPE_CHECKING:
    from torch import nn

# What the allocator says when the kernel gives it no more.
SIGNS = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory")


def refuse_if_too_large(network: nn.Module, recipe: TrainRecipe) -> None:
    """Raise OutOfMemory when masters, gradients and optimizer state cannot fit."""
    state, snapshot = state_bytes(network, recipe), snapshot_bytes(network, recipe)
    there = measure().available
    if state + snapshot > there:
        raise OutOfMemory(
            f"training this model needs {gb(state + snapshot)}: {gb(state)} for masters, gradients"
            f" and optimizer state, {gb(snapshot)} for the copy that checkpoints are written from;"
            f" {gb(there)} are free",
            next_step=advice(recipe),
        )


def state_bytes(network: nn.Module, recipe: TrainRecipe) -> int:
    """What comes on top of the weights themselves: float32 masters, gradients, moments."""
    import torch

    total = 0
    for parameter in network.parameters():
        if parameter.requires_grad:
            own_master = parameter.dtype == torch.float32
            floats = (0 if own_master else 1) + 1 + _moments(parameter, recipe)
            rounded_gradient = 0 if own_master else parameter.element_size()
            total += parameter.numel() * (4 * floats + rounded_gradient)
    return total


def snapshot_bytes(network: nn.Module, recipe: TrainRecipe) -> int:
    """The copy of masters and moments that a checkpoint is written from while training goes on."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return sum(4 * p.numel() * (1 + _moments(p, recipe)) for p in trained)


def _moments(parameter: nn.Parameter, recipe: TrainRecipe) -> int:
    return 1 if recipe.optimizer.kind == "muon" and parameter.dim() > 1 else 2


@contextmanager
def explained(recipe: TrainRecipe) -> Iterator[None]:
    """Running out of memory within the `with` becomes OutOfMemory, with the numbers."""
    try:
        yield
    except (MemoryError, RuntimeError) as fault:
        if not isinstance(fault, MemoryError) and not _is_shortage(fault):
            raise
        now = measure()
        raise OutOfMemory(
            f"out of memory: this process has {gb(now.resident)}, {gb(now.available)} are free, and"
            f" a forward pass of {recipe.rows_at_once} rows of {recipe.batch.sequence_length}"
            f" tokens asked for more ({str(fault).strip().splitlines()[-1][:200]})",
            next_step=advice(recipe),
        ) from fault


def _is_shortage(fault: RuntimeError) -> bool:
    return any(sign in str(fault).lower() for sign in SIGNS)


def advice(recipe: TrainRecipe) -> str:
    """The changes that help, the ones that change the least first."""
    changes = []
    if recipe.rows_at_once > 1:
        changes.append(f"--set batch.rows_at_once={recipe.rows_at_once // 2} (the same result)")
    if recipe.recompute == "off":
        changes.append("--set recompute=layers (slower, the same result)")
    if recipe.lora is None and recipe.model.name:
        changes.append("--set lora.rank=16 (trains a difference instead of every weight)")
    elif recipe.lora is not None and recipe.lora.base_precision not in ("int8", "int4"):
        changes.append("--set lora.base_precision=int8")
    changes.append(f"--set batch.sequence_length={max(8, recipe.batch.sequence_length // 2)}")
    return "start again with " + ", or ".join(changes)
