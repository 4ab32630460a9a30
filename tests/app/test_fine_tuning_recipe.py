"""What a job's numbers become: epochs, steps, rates, and a recipe that the train room takes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bessemer.app.fine_tuning_method import Method
from bessemer.app.fine_tuning_recipe import Measured, Settled, Start, settle
from bessemer.core.errors import DataError

GRADER = {"type": "python", "name": "p", "source": "def grade(sample, item): return 1"}


def settled(kind: str, lines: int, longest: int = 100, **dials: Any) -> Settled:
    section: dict[str, Any] = {"hyperparameters": dials}
    if kind == "reinforcement":
        section["grader"] = GRADER
    method = msgspec.convert({"type": kind, kind: section}, Method).checked()
    return settle(method, Start("m", 512), "d", Measured(lines, longest, True), seed=3)


@pytest.mark.parametrize(
    ("kind", "lines", "epochs", "batch", "steps"),
    [
        ("supervised", 1, 25, 1, 25),
        ("supervised", 10, 10, 4, 25),
        ("supervised", 50, 3, 4, 38),
        ("supervised", 5_000, 3, 10, 1_500),
        ("supervised", 25_000, 1, 50, 500),
        ("dpo", 10, 5, 4, 13),
        ("dpo", 100, 3, 4, 75),
        ("reinforcement", 16, 4, 4, 16),
        ("reinforcement", 500, 1, 4, 125),
    ],
)
def test_auto_looks_at_the_number_of_lines(
    kind: str, lines: int, epochs: int, batch: int, steps: int
) -> None:
    recipe, method = settled(kind, lines)
    chosen = method.section.hyperparameters
    assert (chosen.n_epochs, chosen.batch_size) == (epochs, batch)
    assert chosen.learning_rate_multiplier == 1
    assert (recipe.steps, recipe.batch.rows, recipe.batch.packing) == (steps, batch, "none")


def test_what_was_asked_for_is_what_is_done() -> None:
    dials = {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 0.5, "beta": 0.3}
    recipe, method = settled("dpo", 20, **dials)
    assert recipe.steps == 5
    assert recipe.optimizer.learning_rate == pytest.approx(1e-4)
    assert recipe.dpo.beta == 0.3
    assert recipe.seed == 3
    assert method.dpo is not None
    assert msgspec.structs.asdict(method.dpo.hyperparameters) == dials


def test_a_checkpoint_ends_each_epoch_up_to_ten() -> None:
    assert settled("supervised", 100).recipe.evaluation.times == 3
    assert settled("supervised", 100, n_epochs=50).recipe.evaluation.times == 10
    assert settled("supervised", 1, n_epochs=2).recipe.evaluation.times == 2


def test_a_batch_is_never_larger_than_the_file() -> None:
    recipe, method = settled("supervised", 3, batch_size=256)
    assert recipe.batch.rows == method.section.hyperparameters.batch_size == 3


def test_reinforcement_scales_its_answers_and_judges_as_often_as_it_was_told() -> None:
    recipe, method = settled(
        "reinforcement", 64, compute_multiplier=2.0, eval_interval=4, eval_samples=5
    )
    assert recipe.grpo is not None
    assert (recipe.grpo.group, recipe.grpo.max_tokens) == (16, 128)
    assert (recipe.evaluation.times, recipe.evaluation.rows) == (4, 5)
    assert method.reinforcement is not None
    assert method.reinforcement.grader == GRADER


def test_a_prompt_that_leaves_no_room_is_refused_and_a_small_room_is_used() -> None:
    recipe = settled("reinforcement", 4, longest=500).recipe
    assert recipe.grpo is not None
    assert (recipe.grpo.max_tokens, recipe.batch.sequence_length) == (12, 512)
    with pytest.raises(DataError, match="no room for an answer"):
        settled("reinforcement", 4, longest=512)


def test_the_result_is_an_adapter_and_so_are_the_checkpoints() -> None:
    method = Method(type="supervised").checked()
    start = Start("m", 512, "/adapters/one")
    recipe = settle(method, start, "d", Measured(4, 70, False), seed=0).recipe
    assert recipe.lora is not None
    assert (recipe.lora.leaves, recipe.lora.snapshots) == ("adapter", True)
    assert recipe.lora.adapter == "/adapters/one"
    assert recipe.batch.sequence_length == 128
