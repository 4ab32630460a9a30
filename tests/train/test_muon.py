"""Muon against torch's own, its orthogonal matrices, and whole runs with it."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.core.train_sections import OptimizerSection
from bessemer.models.config import ModelConfig
from bessemer.models.decoder import Decoder
from bessemer.train import muon
from bessemer.train.loop import train
from bessemer.train.muon import Muon, orthogonalize
from bessemer.train.optimizer import Optimizer, for_muon
from tests.train.test_loop import events, same_bits
from tests.train.tiny import RECIPE, make_run

FULL = RECIPE.replace("lora.rank = 4\n", "")


@settings(max_examples=40)
@given(rows=st.integers(1, 24), extra=st.integers(0, 24), seed=st.integers(0, 99))
def test_singular_values_end_near_one_and_directions_stay(rows: int, extra: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrices = torch.randn(3, rows, rows + extra, generator=generator, dtype=torch.float64)
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    matrices = u * torch.linspace(1, 0.2, rows, dtype=torch.float64) @ vh
    found = orthogonalize(matrices)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6 and values.max() < 1.3
    # The singular vectors are the matrix's own: in its basis the result is diagonal.
    inside = u.mT @ found @ vh.mT
    off = inside - torch.diag_embed(torch.diagonal(inside, dim1=-2, dim2=-1))
    assert off.abs().max() < 1e-8


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (16, 16)])
def test_steps_equal_torchs_muon(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(shape, generator=generator)
    theirs = torch.nn.Parameter(start.clone())
    reference = torch.optim.Muon(
        [theirs], lr=0.02, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw"
    )
    # Two masters of one shape and one transposed: the batch must not mix them up.
    masters = {"a": start.clone(), "b": start.clone() * 2, "c": start.T.clone()}
    ours = Muon(masters, momentum=0.9, weight_decay=0.1)
    for step in range(1, 5):
        gradient = torch.randn(shape, generator=generator) * step
        theirs.grad = gradient.clone()
        masters["a"].grad, masters["b"].grad = gradient.clone(), -gradient
        masters["c"].grad = gradient.T.clone()
        reference.step()
        ours.step(0.02)
    moved = (theirs.detach() - start).norm()
    # bfloat16 products round differently in a batch.
    assert (masters["a"] - theirs.detach()).norm() < 0.02 * moved
    assert (masters["c"].T - theirs.detach()).norm() < 0.02 * moved
    assert (masters["b"] - theirs.detach()).norm() > moved


def test_a_stack_of_experts_is_that_many_matrices() -> None:
    generator = torch.Generator().manual_seed(2)
    stack, gradient = (torch.randn(3, 6, 4, generator=generator) for _ in range(2))
    together = {"experts": stack.clone()}
    apart = {str(i): stack[i].clone() for i in range(3)}
    together["experts"].grad = gradient.clone()
    for i in range(3):
        apart[str(i)].grad = gradient[i].clone()
    for masters in (together, apart):
        Muon(masters, 0.9, 0.0, dtype=torch.float64).step(0.1)
    torch.testing.assert_close(together["experts"], torch.stack(list(apart.values())))


def test_tables_vectors_and_lora_factors_are_left_to_adamw() -> None:
    config = ModelConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, layers=1, heads=2, kv_heads=1,
        head_dim=8, context_length=16, qk_norm=True, family="qwen3",
    )  # fmt: skip
    decoder = Decoder(config)
    chosen = for_muon(dict(decoder.named_parameters()))
    assert {name.split(".")[-2] for name in chosen} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    }  # fmt: skip
    assert for_muon({"x.q_proj.lora_A": torch.zeros(2, 4)}) == []


def test_a_run_learns_with_muon_and_resumes_to_the_bit(tmp_path: Path) -> None:
    often = ('optimizer.kind="muon"', "steps=30", "checkpoints.every_s=0.000001",
             "optimizer.learning_rate=0.01", "evaluation.times=1")  # fmt: skip
    straight, torn = (make_run(tmp_path / n, *often, recipe=FULL) for n in ("straight", "torn"))
    train(straight)
    losses = [event["loss"] for event in events(straight, "validation")]
    assert losses[-1] < losses[0] / 2
    train(torn)
    next(max(torn.checkpoints.iterdir()).glob("*.safetensors")).unlink()
    train(torn)
    assert events(torn, "resumed")
    assert same_bits(straight, torn)


def test_masters_without_a_matrix_are_adamws_alone() -> None:
    masters = {"norm.weight": torch.ones(4)}
    masters["norm.weight"].grad = torch.ones(4)
    optimizer = Optimizer(masters, OptimizerSection(kind="muon"))
    optimizer.step(0.1)
    assert set(optimizer.state()) == {"exp_avg.norm.weight", "exp_avg_sq.norm.weight"}
    assert masters["norm.weight"].max() < 1


def test_the_docstring_is_true() -> None:
    assert doctest.testmod(muon, extraglobs={"torch": torch}).failed == 0
