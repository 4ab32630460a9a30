"""What the run is judged by: the validation rows of its tasks, the same each time."""

from __future__ import annotations

import torch

from bessemer.train.batch import micro_batches
from bessemer.train.gradient import add_up, combine
from bessemer.train.opening import Schedule
from bessemer.train.task import Network


@torch.no_grad()
def validate(network: Network, schedule: Schedule, rows_at_once: int) -> dict[str, float]:
    """`loss` and every metric; in a mixture also each task's, by its name."""
    shares = [weight / sum(schedule.weights) for weight in schedule.weights]
    of_tasks = []
    for task, share in zip(schedule.tasks, shares, strict=True):
        batches = micro_batches(task.validation(), rows_at_once)
        means = add_up([task.loss(network, batch) for batch in batches])
        of_tasks.append((task.name, share, means))
    loss, metrics = combine(of_tasks)
    return {"loss": loss, **metrics}
