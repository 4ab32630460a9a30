"""What of a run is saved and found again: all that decides the bits of the steps to come."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bessemer.core.errors import Conflict
from bessemer.core.events import EventLog
from bessemer.core.runs import RunFolder
from bessemer.core.train_recipe import TrainRecipe
from bessemer.train.checkpoint import load_newest, read_into
from bessemer.train.guard import Guard
from bessemer.train.optimizer import Optimizer
from bessemer.train.weights import TrainedWeights


class Moving(NamedTuple):
    """Everything that a step changes."""

    network: nn.Module
    weights: TrainedWeights
    optimizer: Optimizer
    guard: Guard

    def tensors(self) -> dict[str, Tensor]:
        """Masters, buffers and moments themselves, by name; the random state is a copy."""
        return {
            **{f"master.{name}": m.detach() for name, m in self.weights.masters.items()},
            **{f"buffer.{name}": buffer for name, buffer in self.network.named_buffers()},
            **self.optimizer.state(),
            "rng": torch.get_rng_state(),
        }

    def facts(self, step: int, data_digest: str, recipe: TrainRecipe) -> dict[str, Any]:
        """What is not a tensor."""
        return {
            "step": step,
            "rows": step * recipe.batch.rows,
            "data_digest": data_digest,
            "optimizer_steps": self.optimizer.steps,
            "recent_losses": list(self.guard.recent),
            "skipped_in_a_row": self.guard.skipped,
            **_surroundings(),
        }


def resume(run: RunFolder, log: EventLog, data_digest: str, moving: Moving) -> int:
    """Load the newest whole checkpoint, if there is one; returns the steps already done.

    Raises:
        Conflict: it was written by a run over other data.
    """
    found = load_newest(run.checkpoints)
    for skipped in found.skipped:
        log.write("checkpoint_skipped", name=skipped.name, reason=skipped.reason)
    if found.checkpoint is None:
        return 0
    step, _, facts = found.checkpoint
    if facts["data_digest"] != data_digest:
        raise Conflict(
            f"the data is not what {run.run_id} began with: its tokens have digest"
            f" {data_digest[:12]}, the checkpoint says {facts['data_digest'][:12]}",
            next_step="start a new run",
        )
    tensors = moving.tensors()
    read_into(tensors, found.checkpoint)
    moving.weights.publish()
    moving.optimizer.load(tensors, facts["optimizer_steps"])
    moving.guard.load(facts["recent_losses"], facts["skipped_in_a_row"])
    torch.set_rng_state(tensors["rng"])
    here = _surroundings()
    log.write("resumed", step=step, exact=here == {name: facts[name] for name in here})
    return step


def _surroundings() -> dict[str, Any]:
    """What else decides the bits of a sum: with other threads or another torch they may differ."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads()}
