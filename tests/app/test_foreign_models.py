"""A model that the native engine does not serve: trained from its folder, refused by name else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from bessemer.app.harvest import harvest
from bessemer.app.models import find_model
from bessemer.app.platform import Platform
from bessemer.app.pull import pull
from bessemer.app.training import submit_train
from bessemer.core.errors import InvalidInput
from bessemer.core.principal import Principal
from bessemer.core.recipes import loads
from bessemer.core.train_recipe import TrainRecipe
from bessemer.models.folder import load_decoder
from tests.train.test_foreign import make_foreign

RECIPE = """
objective = "pretrain"
minutes = 1
steps = 2
precision = "fp32"
data.name = "python-stdlib"
batch.sequence_length = 16
evaluation.times = 1
evaluation.rows = 1
evaluation.sample_tokens = 1
"""


def test_it_trains_from_its_folder_and_becomes_a_stored_model(
    platform: Platform, owner: Principal, tmp_path: Path
) -> None:
    folder = make_foreign(tmp_path, "olmo2")
    recipe = loads(RECIPE, TrainRecipe, [f'model.name="{folder}"']).recipe
    run = submit_train(platform, owner, recipe, threads=1, name="taught")
    command = [sys.executable, "-m", "bessemer.app.run_process", str(run.path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    harvest(platform)
    stored = find_model(platform, owner, "taught")
    opened = transformers.AutoModelForCausalLM.from_pretrained(stored.path)
    assert opened.config.model_type == "olmo2"
    with pytest.raises(InvalidInput, match=r"'olmo2' .* so the native engine does not serve it"):
        load_decoder(stored.path)


def test_pulling_it_says_that_it_trains_and_is_not_served(
    platform: Platform, owner: Principal, tmp_path: Path
) -> None:
    folder = make_foreign(tmp_path, "stablelm")
    with pytest.raises(InvalidInput, match="does not serve it") as caught:
        pull(platform, owner, str(folder))
    assert "train it from its folder" in str(caught.value.next_step)
