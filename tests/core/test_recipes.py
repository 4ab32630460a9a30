"""A recipe is taken whole or refused with the key at fault; nothing is ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from bessemer.core.errors import RecipeError
from bessemer.core.recipes import Frozen, Line, dumps, explain, known_keys, load, loads


class Optimizer(Frozen):
    learning_rate: float = Field(1e-3, gt=0, description="the peak rate")
    betas: tuple[float, float] = Field((0.9, 0.99), description="AdamW's two")


class Cake(Frozen):
    name: str = Field(description="what it is called")
    steps: int = Field(10, description="how many")
    mode: Literal["lora", "full"] = Field("lora", description="what moves")
    seed: int | None = Field(None, description="none: derived")
    optimizer: Optimizer = Field(Optimizer(), description="the optimizer")


TEXT = 'name = "plain"\nsteps = 5\n[optimizer]\nlearning_rate = 0.5\n'


def test_a_recipe_is_read_with_its_defaults() -> None:
    recipe, _ = loads(TEXT, Cake)
    assert recipe == Cake(name="plain", steps=5, optimizer=Optimizer(learning_rate=0.5))


def test_a_recipe_cannot_be_changed() -> None:
    recipe = loads(TEXT, Cake).recipe
    with pytest.raises(ValueError):
        recipe.steps = 6  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("stepz = 5", "steps"),
        ("[optimizer]\nlearning_rat = 1", "optimizer.learning_rate"),
        ("learning_rate = 1", "optimizer.learning_rate"),
    ],
)
def test_an_unknown_key_is_refused_with_a_suggestion(text: str, meant: str) -> None:
    with pytest.raises(RecipeError, match=f"no such key; did you mean '{meant}'"):
        loads('name = "x"\n' + text, Cake)


def test_an_unknown_key_like_no_other_is_refused_without_a_guess() -> None:
    with pytest.raises(RecipeError) as caught:
        loads('name = "x"\nqqqqqqqq = 1', Cake)
    assert "qqqqqqqq: there is no such key" in caught.value.message
    assert "did you mean" not in caught.value.message


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("steps=7", "steps", 7),
        ("optimizer.learning_rate=2e-4", "optimizer.learning_rate", 2e-4),
        ("mode=full", "mode", "full"),
        ('mode="full"', "mode", "full"),
        ("name=with space and = sign", "name", "with space and = sign"),
        ("optimizer.betas=[0.8, 0.95]", "optimizer.betas", (0.8, 0.95)),
    ],
)
def test_set_takes_the_types_of_toml_and_bare_words(override: str, key: str, value: object) -> None:
    found: object = loads(TEXT, Cake, [override]).recipe
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value and type(found) is type(value)


def test_the_last_set_wins_over_the_file_and_the_ones_before() -> None:
    assert loads(TEXT, Cake, ["steps=6", "steps=7"]).recipe.steps == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stepz=1", "did you mean 'steps'"),
        ("steps", "not of the form"),
        ("=1", "not of the form"),
        ("steps=soon", "steps: Input should be a valid integer"),
        ("steps.more=1", "no such key"),
        ("optimizer.learning_rate=-1", r"optimizer.learning_rate: .*greater than 0.*got -1"),
    ],
)
def test_a_bad_set_is_refused(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        loads(TEXT, Cake, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = 5", "name: is missing"),
        ("name = ", "is not TOML"),
        ('name = "x"\nmode = "half"', "mode: Input should be 'lora' or 'full'"),
        ('name = "x"\noptimizer = 3', "optimizer"),
    ],
)
def test_a_bad_recipe_names_its_key(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        loads(text, Cake)


def test_a_set_below_a_value_in_the_file_is_refused() -> None:
    with pytest.raises(RecipeError, match="'optimizer' is a value, not a section"):
        loads('name = "x"\noptimizer = 3', Cake, ["optimizer.learning_rate=1"])


def test_a_missing_file_is_a_recipe_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot read"):
        load(tmp_path / "none.toml", Cake)


def test_explain_says_where_each_value_came_from_and_why() -> None:
    lines = {line.key: line for line in explain(loads(TEXT, Cake, ["optimizer.betas=[0.8,0.9]"]))}
    assert lines.keys() == set(known_keys(Cake))
    assert lines["steps"][1:] == ("5", "recipe", "how many")
    assert lines["mode"][1:] == ("lora", "default", "what moves")
    assert lines["seed"][1:] == ("-", "default", "none: derived")
    assert lines["optimizer.learning_rate"].source == "recipe"
    assert lines["optimizer.betas"][1:] == ("0.8, 0.9", "--set", "AdamW's two")


@given(
    st.builds(
        Cake,
        name=st.text(st.characters(exclude_categories=["Cs"])),
        steps=st.integers(-(2**63), 2**63 - 1),
        mode=st.sampled_from(["lora", "full"]),
        seed=st.none() | st.integers(0, 2**31),
        optimizer=st.builds(
            Optimizer,
            learning_rate=st.floats(min_value=1e-300, max_value=1e300),
            betas=st.tuples(st.floats(0, 1), st.floats(0, 1)),
        ),
    )
)
def test_what_is_written_is_read_back_the_same(recipe: Cake) -> None:
    assert loads(dumps(recipe), Cake).recipe == recipe


class Ingredient(Frozen):
    name: str = Field(description="what it is")
    share: float = Field(default=1.0, description="how much of it")


class Alloy(Frozen):
    ingredients: tuple[Ingredient, ...] = Field(description="what goes in")


ALLOY = """
[[ingredients]]
name = "iron"
[[ingredients]]
name = "carbon"
share = 0.01
"""


def test_tables_are_explained_overridden_and_written_one_by_one() -> None:
    loaded = loads(ALLOY, Alloy, ["ingredients.1.share=0.02"])
    assert [part.share for part in loaded.recipe.ingredients] == [1.0, 0.02]
    lines = {line.key: line for line in explain(loaded)}
    assert lines["ingredients.1.share"].source == "--set"
    assert lines["ingredients.0.share"] == Line(
        "ingredients.0.share", "1.0", "default", "how much of it"
    )
    assert loads(dumps(loaded.recipe), Alloy).recipe == loaded.recipe
    with pytest.raises(RecipeError, match="2 tables, numbered from 0"):
        loads(ALLOY, Alloy, ["ingredients.2.share=1"])
    with pytest.raises(RecipeError, match=r"did you mean 'ingredients\.share'"):
        loads(ALLOY, Alloy, ["ingredients.1.shar=1"])


class Sweet(Frozen):
    kind: Literal["sweet"] = Field(description="what it tastes of")
    sugar: int = Field(default=1, description="spoons")


class Sour(Frozen):
    kind: Literal["sour"] = Field(description="what it tastes of")
    lemons: int = Field(description="halves of them")


class Drink(Frozen):
    tastes: tuple[Annotated[Sweet | Sour, Field(discriminator="kind")], ...] = Field(
        default=(), description="in the order of pouring"
    )


def test_tables_of_several_kinds_are_read_explained_and_written() -> None:
    text = '[[tastes]]\nkind = "sour"\nlemons = 2\n[[tastes]]\nkind = "sweet"\n'
    loaded = loads(text, Drink, ["tastes.1.sugar=3"])
    assert loaded.recipe.tastes == (Sour(kind="sour", lemons=2), Sweet(kind="sweet", sugar=3))
    assert {line.key: line.why for line in explain(loaded)} == {
        "tastes.0.kind": "what it tastes of",
        "tastes.0.lemons": "halves of them",
        "tastes.1.kind": "what it tastes of",
        "tastes.1.sugar": "spoons",
    }
    assert loads(dumps(loaded.recipe), Drink).recipe == loaded.recipe
    assert known_keys(Drink) == ["tastes.kind", "tastes.sugar", "tastes.lemons"]
    with pytest.raises(RecipeError, match=r"lemons: there is no such key"):
        loads('[[tastes]]\nkind = "sweet"\nlemons = 2\n', Drink)
    with pytest.raises(RecipeError, match="'sweet', 'sour'"):
        loads('[[tastes]]\nkind = "bitter"\n', Drink)
