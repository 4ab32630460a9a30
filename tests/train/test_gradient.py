"""Sums along one fixed tree: the same bits in any order; and means that weigh all targets alike."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bessemer.core.recipes import load
from bessemer.core.train_recipe import TrainRecipe
from bessemer.models.decoder import Decoder
from bessemer.models.folder import load_decoder
from bessemer.text.tokenizer import Tokenizer
from bessemer.train.gradient import Part, TreeSum, accumulate, accumulate_in_tree, add_up, combine
from bessemer.train.loop import train
from bessemer.train.loss import LossSum, Mean
from bessemer.train.objectives.language import open_sft
from bessemer.train.task import Setting
from bessemer.train.weights import TrainedWeights
from tests.train.test_loop import events, same_bits
from tests.train.tiny import make_run


def leaves(count: int, seed: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    scale = 10.0 ** torch.randint(-6, 6, (count,), generator=generator)
    return [{"w": torch.randn(5, generator=generator) * scale[i]} for i in range(count)]


def sum_of(gradients: list[dict[str, torch.Tensor]], order: Iterable[int]) -> torch.Tensor:
    tree = TreeSum(len(gradients))
    for leaf in order:
        tree.add(leaf, {name: tensor.clone() for name, tensor in gradients[leaf].items()})
    return tree.total()["w"]


@given(count=st.integers(1, 33), seed=st.integers(0, 1000), shuffle=st.randoms())
def test_the_order_of_the_leaves_does_not_change_a_bit(
    count: int, seed: int, shuffle: random.Random
) -> None:
    gradients = leaves(count, seed)
    order = list(range(count))
    shuffle.shuffle(order)
    found = sum_of(gradients, order)
    assert torch.equal(found, sum_of(gradients, range(count)))
    exact = torch.stack([g["w"].double() for g in gradients]).sum(0)
    bound = torch.stack([g["w"].double().abs() for g in gradients]).sum(0) * 1e-6
    assert ((found.double() - exact).abs() <= bound).all()


def test_a_plain_sum_would_depend_on_the_order() -> None:
    def in_order(gradients: list[torch.Tensor]) -> torch.Tensor:
        total = torch.zeros(5)
        for gradient in gradients:
            total += gradient
        return total

    gradients = [g["w"] for g in leaves(16, 3)]
    assert not torch.equal(in_order(gradients), in_order(gradients[::-1]))


@given(count=st.integers(1, 64))
def test_leaves_in_order_leave_few_sums_waiting(count: int) -> None:
    tree = TreeSum(count)
    for leaf in range(count):
        tree.add(leaf, {})
    assert tree.most_held <= math.ceil(math.log2(count)) + 1 if count > 1 else 1


def test_a_missing_and_a_repeated_leaf_are_noticed() -> None:
    tree = TreeSum(3)
    tree.add(0, {})
    with pytest.raises(AssertionError, match="twice"):
        tree.add(0, {})
    with pytest.raises(AssertionError, match="missing"):
        tree.total()


def step_of(tmp_path: Path, dtype: torch.dtype, rows: int = 5) -> tuple[Decoder, Part]:
    run = make_run(tmp_path / "run", "batch.rows=8")
    recipe = load(run.recipe, TrainRecipe).recipe
    model = tmp_path / "model"
    decoder = load_decoder(model, dtype)
    setting = Setting(recipe, run.plan(), run.path, Tokenizer.load(model), lambda *_, **__: None)
    task = open_sft(setting, decoder)
    return decoder, Part(task, task.rows(range(rows)), 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shards", [2, 3, 8])
def test_shards_may_be_evaluated_in_any_order(
    tmp_path: Path, dtype: torch.dtype, shards: int
) -> None:
    decoder, part = step_of(tmp_path, dtype)
    weights = TrainedWeights(decoder)
    found = []
    for order in (range(shards), reversed(range(shards)), random.sample(range(shards), shards)):
        weights.forget_gradients()
        measured = accumulate_in_tree(decoder, weights, [part], 2, shards, order)
        found.append((measured.loss, weights.take_gradients()))
    for loss, gradients in found[1:]:
        assert loss == found[0][0]
        assert gradients.keys() == found[0][1].keys()
        assert all(torch.equal(gradients[name], found[0][1][name]) for name in gradients)


def test_tree_and_plain_sums_are_the_same_gradient(tmp_path: Path) -> None:
    decoder, part = step_of(tmp_path, torch.float32)
    weights = TrainedWeights(decoder)
    plain = accumulate(decoder, weights, [part], 8)
    expected = weights.take_gradients()
    measured = accumulate_in_tree(decoder, weights, [part], 8, 4)
    assert measured.loss == pytest.approx(plain.loss, rel=1e-6)
    for name, gradient in weights.take_gradients().items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_a_run_is_the_same_however_many_rows_are_held_at_once(tmp_path: Path) -> None:
    overrides = ("steps=5", 'deterministic="any-world-size"', "virtual_shards=4", "batch.rows=4")
    one = make_run(tmp_path / "one", *overrides, "batch.rows_at_once=1")
    four = make_run(tmp_path / "four", *overrides, "batch.rows_at_once=4")
    train(one)
    train(four)
    assert same_bits(one, four)
    assert [e["loss"] for e in events(one, "step")] == [e["loss"] for e in events(four, "step")]


def test_means_count_every_weight_once_and_carry_the_tasks_names() -> None:
    parts = [
        LossSum(torch.tensor(6.0), 2, {"accuracy": Mean(1, 2)}),
        LossSum(torch.tensor(1.0), 5, {"accuracy": Mean(4, 4), "rare": Mean(3, 1)}),
    ]
    means = add_up(parts)
    assert means == {"loss": 1.0, "accuracy": 5 / 6, "rare": 3.0}
    loss, metrics = combine([("a", 0.25, means), ("b", 0.75, {"loss": 3.0})])
    assert loss == 0.25 * 1 + 0.75 * 3
    assert metrics == {
        "a/loss": 1.0, "a/accuracy": 5 / 6, "a/rare": 3.0, "b/loss": 3.0
    }  # fmt: skip
