"""A run before its first step: its network, its tasks, and which rows of each go into a step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from bessemer.core.allocator import keep_freed_memory
from bessemer.core.protocols import EngineMaker
from bessemer.core.runs import RunFolder
from bessemer.core.train_recipe import TrainRecipe
from bessemer.core.train_sections import Objective, Precision
from bessemer.data.document_splits import open_tokenizer
from bessemer.data.interleaving import Interleaving
from bessemer.text.tokenizer import Tokenizer
from bessemer.train import network as networks
from bessemer.train.balancing import prepare
from bessemer.train.batch import micro_batches
from bessemer.train.gradient import Part, add_up, combine
from bessemer.train.memory import refuse_if_too_large
from bessemer.train.objectives import (
    distillation,
    grpo,
    language,
    preference,
    reptile,
    reward_model,
)
from bessemer.train.precision import DTYPES, MatmulPeak, probe
from bessemer.train.task import Network, Setting, Task
from bessemer.train.weights import TrainedWeights


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
    def sampling(self) -> grpo.GrpoTask | None:
        """The one task whose rows the network writes itself; it is never part of a mixture."""
        task = self.tasks[0]
        return task if isinstance(task, grpo.GrpoTask) else None

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


class Opened(NamedTuple):
    """A run that can take its first step.

    Attributes:
        peak: what this machine multiplies fastest in, and how fast.
        precision: what the network computes in.
    """

    network: networks.Trained
    tokenizer: Tokenizer
    weights: TrainedWeights
    schedule: Schedule
    peak: MatmulPeak
    precision: Precision

    @property
    def facts(self) -> dict[str, Any]:
        """For the event that says what was opened."""
        return {
            "precision": self.precision,
            "threads": torch.get_num_threads(),
            "trainable_parameters": self.weights.count,
            "parameters": sum(p.numel() for p in self.network.parameters()),
        }


def open_run(
    run: RunFolder, recipe: TrainRecipe, tell: Callable[..., Any], engine_of: EngineMaker | None
) -> Opened:
    """Open the network, in the precision this machine is faster in, and what it learns from.

    Args:
        recipe: the run's own, or as much of it as is tried.
        tell: writes an event of the run.

    Raises:
        InvalidInput: the data does not fit the recipe.
        OutOfMemory: it cannot fit.
    """
    plan = run.plan()
    base = Path(plan["model"]["path"]) if recipe.model.name else None
    torch.set_num_threads(int(plan["threads"]))
    torch.manual_seed(recipe.seed)
    keep_freed_memory()
    tokenizer = open_tokenizer(recipe, base, run.path / "tokenizer", plan["datasets"])
    peak = probe()
    chosen = peak.faster if recipe.precision == "auto" else recipe.precision
    network = networks.start(recipe, base, tokenizer, DTYPES[chosen])
    if recipe.lora is None:
        prepare(network, recipe.moe)
    network.recompute_layers(recipe.recompute == "layers")
    refuse_if_too_large(network, recipe)
    weights = TrainedWeights(network)
    setting = Setting(recipe, plan, run.path, tokenizer, tell, engine_of)
    schedule = open_schedule(setting, network)
    return Opened(network, tokenizer, weights, schedule, peak, chosen)


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
