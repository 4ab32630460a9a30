"""Which tasks a run has, which rows of each go into a step, and what it is judged by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from bessemer.core.train_recipe import TrainRecipe
from bessemer.core.train_sections import Objective
from bessemer.data.interleaving import Interleaving
from bessemer.train.batch import micro_batches
from bessemer.train.gradient import Part, add_up, combine
from bessemer.train.objectives import (
    distillation,
    grpo,
    language,
    preference,
    reptile,
    reward_model,
)
from bessemer.train.task import Network, Setting, Task


class Schedule:
    """The tasks of a run, and whose turn it is at each position of the run's order.

    A mixture's positions are dealt to its tasks by their weights, evenly spread
    (`data.interleaving`); a single task has all of them.
    """

    def __init__(self, tasks: Sequence[Task], weights: Sequence[float]) -> None:
        assert tasks and len(tasks) == len(weights), (tasks, weights)
        self.tasks = tasks
        self.weights = weights
        self._turns = Interleaving(weights)

    def parts(self, step: int, recipe: TrainRecipe) -> list[Part]:
        """The rows of step `step`, counted from 1, by task."""
        first = (step - 1) * recipe.batch.rows
        wanted: dict[int, list[int]] = {}
        for position in range(first, first + recipe.batch.rows):
            source, index = self._turns.at(position)
            wanted.setdefault(source, []).append(index)
        return [
            Part(task, task.rows(indices), len(indices) / recipe.batch.rows)
            for task, indices in ((self.tasks[s], found) for s, found in sorted(wanted.items()))
        ]

    @torch.no_grad()
    def validate(self, network: Network, rows_at_once: int) -> dict[str, float]:
        """`loss` and every metric on the validation rows; in a mixture also each task's."""
        of_tasks = []
        for task, weight in zip(self.tasks, self.weights, strict=True):
            batches = micro_batches(task.validation(), rows_at_once)
            means = add_up([task.loss(network, batch) for batch in batches])
            of_tasks.append((task.name, weight / sum(self.weights), means))
        loss, metrics = combine(of_tasks)
        return {"loss": loss, **metrics}

    @property
    def reptile(self) -> reptile.ReptileTask | None:
        """The one task whose gradient takes steps of its own; it is never part of a mixture."""
        task = self.tasks[0]
        return task if isinstance(task, reptile.ReptileTask) else None

    @property
    def measure(self) -> str:
        """The validation metric that the run is judged by."""
        return self.tasks[0].measure if len(self.tasks) == 1 else "loss"

    @property
    def digest(self) -> str:
        """SHA-256 of all the data."""
        if len(self.tasks) == 1:
            return self.tasks[0].digest
        joined = "\n".join(task.digest for task in self.tasks)
        return hashlib.sha256(joined.encode()).hexdigest()

    @property
    def facts(self) -> dict[str, Any]:
        """Counts for the plan event; those of several tasks carry the tasks' names."""
        if len(self.tasks) == 1:
            return dict(self.tasks[0].facts)
        return {
            f"{task.name}/{key}": value for task in self.tasks for key, value in task.facts.items()
        }


def open_schedule(setting: Setting, network: nn.Module) -> Schedule:
    """Open what the recipe names.

    Raises:
        InvalidInput: the data does not fit the recipe.
    """
    recipe = setting.recipe
    if recipe.objective != "mixture":
        return Schedule([open_task(setting, network)], [1.0])
    tasks = []
    for number, part in enumerate(recipe.parts):
        folder = setting.folder / f"task-{number}"
        folder.mkdir(exist_ok=True)
        task = open_task(replace(setting, recipe=recipe.of_part(part), folder=folder), network)
        task.name = f"{number}-{part.objective}"
        tasks.append(task)
    return Schedule(tasks, [part.weight for part in recipe.parts])


def open_task(setting: Setting, network: nn.Module) -> Task:
    """The task of a recipe that is no mixture; `network` is as it is before the first step."""
    return OBJECTIVES[setting.recipe.objective](setting, network)


OBJECTIVES: Mapping[Objective, Callable[[Setting, nn.Module], Task]] = {
    "pretrain": language.open_pretrain,
    "sft": language.open_sft,
    "dpo": preference.open_dpo,
    "grpo": grpo.open_grpo,
    "reward": reward_model.open_reward,
    "distill": distillation.open_distill,
    "reptile": reptile.open_reptile,
}
