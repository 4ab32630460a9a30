"""A tiny dataset of pairs, and runs over it: the answer that says `It is` is preferred."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bessemer.core.recipes import dumps, loads
from bessemer.core.runs import RunFolder
from bessemer.core.train_recipe import TrainRecipe
from bessemer.data.dataset import Row, write_dataset
from bessemer.data.pairs import PairMaterial, pair_material
from bessemer.data.preferences import Preference
from bessemer.data.shapes import PREFERENCES
from bessemer.train.task import Setting
from tests.train.tiny import COLORS, make_model

RECIPE = """
minutes = 1
steps = 30
precision = "fp32"
model.name = "tiny"
data.name = "pairs"
batch.sequence_length = 128
batch.rows = 4
optimizer.learning_rate = 0.01
evaluation.times = 1
evaluation.sample_tokens = 6
"""


def pair(number: int) -> Preference:
    color = COLORS[number % len(COLORS)]
    said, unsaid = f"It is {color}.", f"{color}{'?' * (1 + number % 3)}"
    return Preference(
        [{"role": "user", "content": f"Which color has number {number}?"}],
        {"role": "assistant", "content": said},
        {"role": "assistant", "content": unsaid},
    )


def make_pairs(folder: Path, train: int = 40, validation: int = 24) -> Path:
    splits = ["train"] * train + ["validation"] * validation
    rows = [Row(split, pair(i), "d") for i, split in enumerate(splits)]  # type: ignore[arg-type]
    write_dataset(folder, rows, [{"id": "d"}], {"name": "pairs"}, PREFERENCES)
    return folder


def make_pairs_run(folder: Path, objective: str, *overrides: str) -> RunFolder:
    """A run beside its model and dataset, which are made if they are not there."""
    if not (folder.parent / "model").exists():
        make_model(folder.parent / "model")
        make_pairs(folder.parent / "pairs")
    recipe = loads(f'objective = "{objective}"' + RECIPE, TrainRecipe, overrides).recipe
    return RunFolder.create(folder, dumps(recipe), plan_of(folder))


def plan_of(folder: Path) -> dict[str, Any]:
    model, pairs = folder.parent / "model", folder.parent / "pairs"
    return {
        "kind": "train",
        "name": folder.name,
        "threads": 1,
        "model": {"path": str(model), "digest": "sha256:0", "name": "tiny"},
        "datasets": {"pairs": {"path": str(pairs), "digest": "sha256:1", "name": "pairs"}},
        "models": {},
    }


def pairs_of(setting: Setting) -> PairMaterial:
    """The pairs of a run's dataset, as the run reads them."""
    return pair_material(setting.recipe, setting.dataset_path(), setting.model_path())
