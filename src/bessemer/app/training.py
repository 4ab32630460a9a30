"""Ask for a training run: a recipe, the model and data it names, resolved to exact bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bessemer.app import jobs
from bessemer.app.datasets import NamedDataset, find_dataset
from bessemer.app.models import NamedModel, find_model_local
from bessemer.app.platform import Platform
from bessemer.core.principal import Principal
from bessemer.core.recipes import Line, dumps, explain, load
from bessemer.core.runs import RunFolder
from bessemer.core.train_recipe import TrainRecipe
from bessemer.data.document_splits import CORPUS


def submit_train(
    platform: Platform,
    principal: Principal,
    recipe: TrainRecipe,
    *,
    threads: int,
    name: str | None = None,
    run_id: str | None = None,
) -> RunFolder:
    """Queue a training run.

    Args:
        name: what the model that it makes will be called; by default base, dataset, and `taught`.
        run_id: as for `jobs.submit`.

    Raises:
        NotFound: the recipe names a model or dataset that is not here.
    """
    plan: dict[str, Any] = {"model": None, "dataset": None, "threads": threads}
    if recipe.model.name is not None:
        plan["model"] = _found(find_model_local(platform, principal, recipe.model.name))
    datasets = {
        name: find_dataset(platform, principal, name)
        for name in recipe.dataset_names
        if name != CORPUS
    }
    plan["datasets"] = {name: _found(dataset) for name, dataset in datasets.items()}
    plan["held_out"] = all(dataset.is_held_out for dataset in datasets.values())
    plan["dataset"] = next(iter(plan["datasets"].values()), None)
    plan["models"] = {
        name: _found(find_model_local(platform, principal, name))
        for name in recipe.other_model_names
    }
    name = name or default_name(recipe)
    return jobs.submit(platform, principal, "train", name, dumps(recipe), plan, run_id=run_id)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> TrainRecipe:
    """Read a training recipe; `overrides` are of the form `a.b=value`.

    Raises:
        RecipeError: naming the key and what was expected.
    """
    return load(path, TrainRecipe, overrides).recipe


def explain_recipe(path: Path, overrides: Sequence[str] = ()) -> list[Line]:
    """Each value of a training recipe, where it comes from and why."""
    return explain(load(path, TrainRecipe, overrides))


def default_name(recipe: TrainRecipe) -> str:
    """`smollm2-135m-instruct` taught `python-docs` is `smollm2-135m-instruct-python-docs`."""
    base = (recipe.model.name or "tiny").rstrip("/").rpartition("/")[2]
    return f"{base}-{recipe.data.name if recipe.data else recipe.objective}"


def _found(named: NamedModel | NamedDataset) -> dict[str, str]:
    return {"name": named.name, "digest": named.digest, "path": str(named.path)}
