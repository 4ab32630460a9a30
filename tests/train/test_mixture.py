"""Several tasks in one run: each gets its share, tells its own metrics, and is learned."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bessemer.core.recipes import dumps, loads
from bessemer.core.runs import RunFolder
from bessemer.core.train_recipe import TrainRecipe
from bessemer.data.packing import Row
from bessemer.train.loop import train
from bessemer.train.opening import Schedule
from tests.train.test_loop import events, same_bits
from tests.train.tiny import make_dataset, make_model

RECIPE = """
objective = "mixture"
minutes = 1
steps = 40
precision = "fp32"
model.name = "tiny"
batch.sequence_length = 64
batch.rows = 4
optimizer.learning_rate = 0.01
evaluation.times = 1
[[mixture]]
objective = "sft"
data.name = "colors"
weight = 3
[[mixture]]
objective = "sft"
data.name = "more-colors"
"""


def make_mixture_run(folder: Path, *overrides: str) -> RunFolder:
    model = folder.parent / "model"
    if not model.exists():
        make_model(model)
        make_dataset(folder.parent / "colors")
        make_dataset(folder.parent / "more-colors", train=30, validation=4)
    recipe = loads(RECIPE, TrainRecipe, overrides).recipe
    plan = {
        "kind": "train",
        "name": folder.name,
        "threads": 1,
        "model": {"path": str(model), "digest": "sha256:0", "name": "tiny"},
        "datasets": {
            name: {"path": str(folder.parent / name), "digest": f"sha256:{name}", "name": name}
            for name in recipe.dataset_names
        },
        "models": {},
    }
    return RunFolder.create(folder, dumps(recipe), plan)


def test_every_task_learns_and_tells_its_own_loss(tmp_path: Path) -> None:
    run = make_mixture_run(tmp_path / "run")
    train(run)
    first, last = events(run, "validation")
    for name in ("0-sft/loss", "1-sft/loss"):
        assert last[name] < first[name] / 2
        assert name in events(run, "step")[0]
    assert first["loss"] == pytest.approx(0.75 * first["0-sft/loss"] + 0.25 * first["1-sft/loss"])
    (plan,) = events(run, "plan")
    assert (plan["0-sft/train_chats"], plan["1-sft/train_chats"]) == (48, 30)
    assert (run.output / "model" / "model.safetensors").exists()


def test_a_mixture_resumed_ends_with_the_same_bits(tmp_path: Path) -> None:
    often = ("steps=6", "checkpoints.every_s=0.000001")
    straight, torn = (make_mixture_run(tmp_path / name, *often) for name in ("straight", "torn"))
    train(straight)
    train(torn)
    next(max(torn.checkpoints.iterdir()).glob("*.safetensors")).unlink()
    train(torn)
    assert events(torn, "resumed")
    assert same_bits(straight, torn)


class Counted:
    """A task that remembers which of its rows were asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def rows(self, positions: Any) -> list[Row]:
        self.asked += positions
        return [None] * len(positions)  # type: ignore[list-item]


def test_rows_go_to_tasks_by_weight_and_each_task_sees_its_own_order() -> None:
    recipe = loads(RECIPE, TrainRecipe).recipe
    tasks = [Counted(), Counted()]
    schedule = Schedule(tasks, [3.0, 1.0])  # type: ignore[arg-type]
    shares: Counter[int] = Counter()
    for step in range(1, 51):
        for part in schedule.parts(step, recipe):
            shares[tasks.index(part.task)] += len(part.rows)  # type: ignore[arg-type]
            assert part.share == len(part.rows) / recipe.batch.rows
        for task, weight in zip(tasks, (0.75, 0.25), strict=True):
            assert abs(len(task.asked) - weight * step * 4) <= 1
    assert shares == {0: 150, 1: 50}
    for task in tasks:
        assert task.asked == list(range(len(task.asked)))
