"""Reptile: its gradient is where ordinary steps lead, and it learns to learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bessemer.core.errors import InvalidInput
from bessemer.core.recipes import load
from bessemer.core.train_recipe import TrainRecipe
from bessemer.models.folder import load_decoder
from bessemer.text.tokenizer import Tokenizer
from bessemer.train.batch import micro_batch
from bessemer.train.loop import train
from bessemer.train.objectives.reptile import ReptileTask, adapt, inner_gradient, open_reptile
from bessemer.train.task import Setting
from bessemer.train.weights import TrainedWeights
from tests.train.test_loop import events, same_bits
from tests.train.tiny import COLORS, RECIPE, make_model, make_run

TASKS, CHATS = 60, 8


def chats_of_task(task: int) -> list[dict[str, Any]]:
    """In each task every number has the task's own color: one chat tells all the others."""
    color = COLORS[(task * 7 + task // 6) % len(COLORS)]
    return [
        {
            "messages": [
                {"role": "system", "content": f"task {task}"},
                {"role": "user", "content": f"Which color has number {i}?"},
                {"role": "assistant", "content": f"It is {color}."},
            ]
        }
        for i in range(CHATS)
    ]


def make_tasks(folder: Path) -> Path:
    folder.mkdir(parents=True)
    chats = [chat for task in range(TASKS) for chat in chats_of_task(task)]
    (folder / "train.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    for split in ("validation", "test"):
        (folder / f"{split}.jsonl").write_text("")
    counts = {"train": len(chats), "validation": 0, "test": 0}
    (folder / "dataset.json").write_text(json.dumps({"format": 1, "counts": counts}))
    rows = [
        {"split": "train", "line": i + 1, "kind": f"kind-{i % 2}", "symbol": None, "document": "d"}
        for i in range(len(chats))
    ]
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def make_reptile_run(folder: Path, *overrides: str) -> Any:
    if not (folder.parent / "model").exists():
        make_model(folder.parent / "model")
        make_tasks(folder.parent / "dataset")
    recipe = RECIPE.replace('"sft"', '"reptile"').replace("lora.rank = 4\n", "")
    return make_run(folder, "reptile.shots=2", "reptile.inner_steps=3", *overrides, recipe=recipe)


def open_task(tmp_path: Path, *overrides: str) -> tuple[ReptileTask, Any, TrainedWeights]:
    run = make_reptile_run(tmp_path / "run", *overrides)
    recipe = load(run.recipe, TrainRecipe).recipe
    decoder = load_decoder(tmp_path / "model")
    setting = Setting(
        recipe, run.plan(), run.path, Tokenizer.load(tmp_path / "model"), lambda *_, **__: None
    )
    return open_reptile(setting, decoder), decoder, TrainedWeights(decoder)


def test_the_gradient_is_where_plain_sgd_on_each_task_leads(tmp_path: Path) -> None:
    task, decoder, weights = open_task(tmp_path, "reptile.inner_rate=0.05")
    rows = task.rows([0, 1])
    assert len(rows) == 2 * 3
    measured = inner_gradient(decoder, weights, task, rows)
    found = weights.take_gradients()

    expected = {name: torch.zeros_like(p) for name, p in decoder.named_parameters()}
    for episode in task.episodes(rows):
        phi = load_decoder(tmp_path / "model")
        sgd = torch.optim.SGD(phi.parameters(), lr=0.05)
        for row in episode:
            sgd.zero_grad()
            loss = task.loss(phi, micro_batch([row]))
            (loss.total / loss.weight).backward()
            sgd.step()
        for name, parameter in phi.named_parameters():
            expected[name] += (decoder.get_parameter(name) - parameter).detach() / 0.05 / 2
    assert expected.keys() == found.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)
    assert measured.metrics["adapted_loss"] < measured.loss


def test_judging_leaves_the_weights_as_they_were(tmp_path: Path) -> None:
    task, decoder, weights = open_task(tmp_path)
    before = {name: p.detach().clone() for name, p in decoder.named_parameters()}
    found = adapt(decoder, weights, task)
    assert len(found) == task.settings.held_out
    assert all(torch.equal(p, before[name]) for name, p in decoder.named_parameters())


def test_held_out_tasks_are_never_trained_on(tmp_path: Path) -> None:
    task, _, _ = open_task(tmp_path)
    shown = {bytes(row.ids) for rows in task.adaptations() for part in rows for row in part}
    held_out = {bytes(piece.ids) for group in task.held_out for piece in group}
    trained = {
        bytes(piece) for row in task.rows(range(200)) for piece in _pieces(row.ids, row.lengths)
    }
    assert shown and not trained & held_out
    assert len(trained) > 4 * (TASKS - task.settings.held_out)


def _pieces(ids: Any, lengths: tuple[int, ...]) -> Any:
    begin = 0
    for length in lengths:
        yield ids[begin : begin + length]
        begin += length


def test_it_adapts_better_than_plain_fine_tuning(tmp_path: Path) -> None:
    run = make_reptile_run(
        tmp_path / "run", "steps=60", "batch.rows=2", "optimizer.learning_rate=0.01",
        "reptile.inner_rate=0.1", "evaluation.times=2",
    )  # fmt: skip
    train(run)
    losses = [event["loss"] for event in events(run, "validation")]
    assert losses[-1] < losses[0] / 2
    (told,) = events(run, "adaptation")
    assert told["held_out_tasks"] == 12
    assert told["low"] < told["difference"] < told["high"] < 0
    assert told["reptile_loss"] - told["plain_loss"] == pytest.approx(told["difference"])
    assert told["reptile_loss"] == pytest.approx(losses[-1])


def test_resumed_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    often = ("steps=6", "checkpoints.every_s=0.000001", "evaluation.times=1")
    straight, torn = (make_reptile_run(tmp_path / name, *often) for name in ("straight", "torn"))
    train(straight)
    train(torn)
    newest = max(torn.checkpoints.iterdir())
    next(newest.glob("*.safetensors")).unlink()
    train(torn)
    assert events(torn, "resumed")
    assert same_bits(straight, torn)


def test_too_few_tasks_are_refused_with_the_numbers(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"by kind, the dataset has 2 tasks .* make 14"):
        open_task(tmp_path, "reptile.tasks_by=kind")
