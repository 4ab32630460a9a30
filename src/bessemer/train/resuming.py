"""What of a run is saved and found again: all that decides the bits of the steps to come."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from bessemer.core.errors import Conflict
from bessemer.core.events import EventLog
from bessemer.core.runs import RunFolder
from bessemer.train import checkpoint
from bessemer.train.checkpoint import Checkpoint
from bessemer.train.guard import Guard
from bessemer.train.optimizer import Optimizer
from bessemer.train.recipe import TrainRecipe
from bessemer.train.weights import TrainedWeights


class Moving(NamedTuple):
    """Everything that a step changes."""

    network: nn.Module
    weights: TrainedWeights
    optimizer: Optimizer
    guard: Guard


def resume(run: RunFolder, log: EventLog, data_digest: str, moving: Moving) -> int:
    """Load the newest whole checkpoint, if there is one; returns the steps already done.

    Raises:
        Conflict: it was written by a run over other data.
    """
    found = checkpoint.load_newest(run.checkpoints)
    for skipped in found.skipped:
        log.write("checkpoint_skipped", name=skipped.name, reason=skipped.reason)
    if found.checkpoint is None:
        return 0
    step, tensors, facts = found.checkpoint
    if facts["data_digest"] != data_digest:
        raise Conflict(
            f"the data is not what {run.run_id} began with: its tokens have digest"
            f" {data_digest[:12]}, the checkpoint says {facts['data_digest'][:12]}",
            next_step="start a new run",
        )
    masters = moving.weights.masters
    moving.weights.load({name: tensors[f"master.{name}"] for name in masters})
    for name, buffer in moving.network.named_buffers():
        buffer.copy_(tensors[f"buffer.{name}"])
    moving.optimizer.load(tensors, facts["optimizer_steps"])
    moving.guard.load(facts["recent_losses"], facts["skipped_in_a_row"])
    torch.set_rng_state(tensors["rng"])
    here = _surroundings()
    log.write("resumed", step=step, exact=here == {name: facts[name] for name in here})
    return step


def save(
    run: RunFolder, log: EventLog, step: int, data_digest: str, recipe: TrainRecipe, moving: Moving
) -> None:
    """Write a checkpoint and say so.

    Raises:
        OutOfSpace: it does not fit; the one before it is whole.
    """
    tensors = {
        **{f"master.{name}": master for name, master in moving.weights.masters.items()},
        **{f"buffer.{name}": buffer for name, buffer in moving.network.named_buffers()},
        **moving.optimizer.state(),
        "rng": torch.get_rng_state(),
    }
    facts = {
        "step": step,
        "rows": step * recipe.batch.rows,
        "data_digest": data_digest,
        "optimizer_steps": moving.optimizer.steps,
        "recent_losses": list(moving.guard.recent),
        "skipped_in_a_row": moving.guard.skipped,
        **_surroundings(),
    }
    policy = recipe.checkpoints
    checkpoint.save(
        run.checkpoints,
        Checkpoint(step, tensors, facts),
        keep_last=policy.keep_last,
        keep_every=policy.keep_every,
    )
    log.write("checkpoint", step=step)


def _surroundings() -> dict[str, Any]:
    """What else decides the bits of a sum: with other threads or another torch they may differ."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads()}
