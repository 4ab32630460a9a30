"""Will it fit? What training needs, what there is, and what to change when it does not.

An estimate before the start refuses only what cannot fit: weights, masters, gradients and optimizer
state, which are known to the byte. Activations are not; running out of memory later becomes an
error with the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from torch import nn

from bessemer.core.errors import OutOfMemory
from bessemer.train.recipe import TrainRecipe

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
CGROUP_USED = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")
# What the allocator says when the kernel gives it no more.
SIGNS = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory")


def refuse_if_too_large(network: nn.Module, recipe: TrainRecipe) -> None:
    """Raise OutOfMemory when masters, gradients and optimizer state cannot fit."""
    needed, there = state_bytes(network, recipe), available_bytes()
    if needed > there:
        raise OutOfMemory(
            f"training this model needs {_gb(needed)} for masters, gradients and optimizer state;"
            f" {_gb(there)} are free",
            next_step=_advice(recipe),
        )


def state_bytes(network: nn.Module, recipe: TrainRecipe) -> int:
    """What comes on top of the weights themselves: float32 masters, gradients, moments."""
    total = 0
    for parameter in network.parameters():
        if parameter.requires_grad:
            own_master = parameter.dtype == torch.float32
            moments = 1 if recipe.optimizer.kind == "muon" and parameter.dim() > 1 else 2
            floats = (0 if own_master else 1) + 1 + moments
            rounded_gradient = 0 if own_master else parameter.element_size()
            total += parameter.numel() * (4 * floats + rounded_gradient)
    return total


def available_bytes() -> int:
    """Memory this process can still have: of the machine, and of its control group."""
    free = int(psutil.virtual_memory().available)
    limit, used = _read(CGROUP_LIMITS), _read(CGROUP_USED)
    return free if limit is None or used is None else min(free, max(0, limit - used))


@contextmanager
def explained(recipe: TrainRecipe) -> Iterator[None]:
    """Running out of memory within the `with` becomes OutOfMemory, with the numbers."""
    try:
        yield
    except (MemoryError, RuntimeError) as fault:
        if not isinstance(fault, MemoryError) and not _is_shortage(fault):
            raise
        used = psutil.Process().memory_info().rss
        raise OutOfMemory(
            f"out of memory: this process has {_gb(used)}, {_gb(available_bytes())} are free, and"
            f" a forward pass of {recipe.rows_at_once} rows of {recipe.batch.sequence_length}"
            f" tokens asked for more ({str(fault).strip().splitlines()[-1][:200]})",
            next_step=_advice(recipe),
        ) from fault


def _is_shortage(fault: RuntimeError) -> bool:
    return any(sign in str(fault).lower() for sign in SIGNS)


def _advice(recipe: TrainRecipe) -> str:
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


def _read(paths: tuple[str, ...]) -> int | None:
    for path in paths:
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() else None
    return None


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.2f} GB"
