"""What a run leaves: `output/model`, a Hugging Face folder, and with LoRA `output/adapter`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from bessemer.core.runs import RunFolder
from bessemer.core.space import refuse_if_full
from bessemer.core.train_recipe import TrainRecipe
from bessemer.models.adapter import save_adapter
from bessemer.models.foreign import save_network
from bessemer.models.lora import lora_layers
from bessemer.models.reward_model import RewardModel
from bessemer.text.tokenizer import Tokenizer
from bessemer.train import network
from bessemer.train.weights import TrainedWeights


def write_output(
    run: RunFolder,
    plan: dict[str, Any],
    recipe: TrainRecipe,
    decoder: network.Trained,
    weights: TrainedWeights,
    tokenizer: Tokenizer,
) -> None:
    """Write `output/` as a whole, in float32, LoRA merged.

    Raises:
        OutOfSpace: it does not fit; there is no `output` then.
    """
    refuse_if_full(run.path, network.size_bytes(decoder), "the trained model")
    new = run.path / ".output.tmp"
    shutil.rmtree(new, ignore_errors=True)
    base = Path(plan["model"]["path"]) if plan["model"] else None
    like = base or tokenizer.folder
    plain = network.finished(decoder, weights, base)
    if isinstance(plain, RewardModel):
        plain.save(new / "model", like=like)
    else:
        save_network(plain, new / "model", like=like)
    if base is None:
        defaults = network.generation_defaults(tokenizer)
        (new / "model" / "generation_config.json").write_text(json.dumps(defaults, indent=2))
    # The adapter of a reward model is none without its head; the whole model has both.
    if recipe.lora is not None and not isinstance(plain, RewardModel):
        save_adapter(lora_layers(decoder), new / "adapter", base=plan["model"]["name"])
    network.replace_folder(new, run.output)
