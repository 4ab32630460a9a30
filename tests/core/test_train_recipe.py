"""Recipes: the shipped ones load, contradictions are refused, what is resolved stays resolved."""

from __future__ import annotations

from pathlib import Path

import pytest

from bessemer.core.errors import RecipeError
from bessemer.core.recipes import dumps, explain, load, loads
from bessemer.core.train_recipe import TrainRecipe

RECIPES = Path(__file__).parent.parent.parent / "recipes"


@pytest.mark.parametrize(("name", "objective"), [("teach", "sft"), ("pretrain-tiny", "pretrain")])
def test_a_shipped_recipe_loads_and_every_value_is_explained(name: str, objective: str) -> None:
    loaded = load(RECIPES / f"{name}.toml", TrainRecipe)
    assert loaded.recipe.objective == objective
    unexplained = [line.key for line in explain(loaded) if not line.why]
    assert unexplained == []


def test_a_resolved_recipe_reads_back_the_same() -> None:
    recipe = load(RECIPES / "teach.toml", TrainRecipe).recipe
    resolved = recipe.model_copy(update={"steps": 77, "precision": "bf16"})
    assert loads(dumps(resolved), TrainRecipe).recipe == resolved


def test_without_a_lora_section_every_weight_is_trained() -> None:
    text = 'objective = "sft"\nminutes = 1\nmodel.name = "m"\ndata.name = "d"\n'
    assert loads(text, TrainRecipe).recipe.lora is None
    assert loads(text, TrainRecipe, ["lora.rank=4"]).recipe.lora is not None


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.depth=4", "sft starts from a model"),
        ("objective=pretrain model.depth=2", "pretrain starts from nothing"),
        ("optimizer.learning_rat=1", "did you mean 'optimizer.learning_rate'"),
        ("minutes=0", "minutes"),
    ],
)
def test_a_contradiction_or_slip_is_refused_with_its_reason(override: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        load(RECIPES / "teach.toml", TrainRecipe, override.split())


def test_rows_at_once_are_as_many_as_make_4096_tokens() -> None:
    recipe = load(RECIPES / "teach.toml", TrainRecipe, ["batch.rows=100"]).recipe
    assert recipe.rows_at_once == 8
    assert load(RECIPES / "teach.toml", TrainRecipe).recipe.rows_at_once == 2


@pytest.mark.parametrize(
    ("steps", "times", "validated"),
    [(10, 2, {5, 10}), (7, 3, {2, 5, 7}), (2, 4, {1, 2}), (1, 4, {1}), (5, 5, {1, 2, 3, 4, 5})],
)
def test_validations_are_spread_over_the_steps_there_are(
    steps: int, times: int, validated: set[int]
) -> None:
    text = f'objective = "sft"\nminutes = 1\nsteps = {steps}\nmodel.name = "m"\ndata.name = "d"\n'
    recipe = loads(text + f"evaluation.times = {times}", TrainRecipe).recipe
    assert recipe.validated_steps == validated
