"""What a run leaves: `output/model`, a Hugging Face folder, and with LoRA `output/adapter`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bessemer.core.runs import RunFolder
from bessemer.core.space import refuse_if_full
from bessemer.core.train_recipe import TrainRecipe
from bessemer.models.adapter import save_adapter
from bessemer.models.decoder import Decoder
from bessemer.models.foreign import ForeignDecoder, open_decoder, save_network
from bessemer.models.lora import lora_layers, merge_into
from bessemer.models.reward_model import RewardModel
from bessemer.text.tokenizer import Tokenizer
from bessemer.train.network import Trained
from bessemer.train.weights import TrainedWeights


def write_output(
    run: RunFolder,
    plan: dict[str, Any],
    recipe: TrainRecipe,
    decoder: Trained,
    weights: TrainedWeights,
    tokenizer: Tokenizer,
) -> None:
    """Write `output/` as a whole, in float32, LoRA merged.

    Raises:
        OutOfSpace: it does not fit; there is no `output` then.
    """
    size_bytes = 4 * sum(parameter.numel() for parameter in decoder.parameters())
    refuse_if_full(run.path, size_bytes, "the trained model")
    new = run.path / ".output.tmp"
    shutil.rmtree(new, ignore_errors=True)
    base = Path(plan["model"]["path"]) if plan["model"] else None
    like = base or tokenizer.folder
    plain = finished(decoder, weights, base)
    if isinstance(plain, RewardModel):
        plain.save(new / "model", like=like)
    else:
        save_network(plain, new / "model", like=like)
    if base is None:
        ends = sorted(tokenizer.eos_ids)
        defaults = {"bos_token_id": tokenizer.bos_id, "eos_token_id": ends}
        (new / "model" / "generation_config.json").write_text(json.dumps(defaults, indent=2))
    # The adapter of a reward model is none without its head; the whole model has both.
    if recipe.lora is not None and not isinstance(plain, RewardModel):
        save_adapter(lora_layers(decoder), new / "adapter", base=plan["model"]["name"])
    if run.output.exists():
        shutil.rmtree(run.output)
    new.rename(run.output)


@torch.no_grad()
def finished(trained: Trained, weights: TrainedWeights, base: Path | None) -> Trained:
    """What was trained in float32, an ordinary one: LoRA merged, masters instead of copies."""
    if not isinstance(trained, RewardModel):
        return _plain(trained, weights.masters, base)
    masters = {name.removeprefix("decoder."): master for name, master in weights.masters.items()}
    score = masters.pop("score.weight")
    decoder = _plain(trained.decoder, masters, base)
    assert isinstance(decoder, Decoder)
    plain = RewardModel(decoder, trained.pad_id)
    plain.score.weight.copy_(score)
    return plain


def _plain(
    decoder: Decoder | ForeignDecoder, masters: Mapping[str, Tensor], base: Path | None
) -> Decoder | ForeignDecoder:
    if isinstance(decoder, Decoder) and not lora_layers(decoder):
        made = Decoder(decoder.config)
        made.load_state_dict({**decoder.state_dict(), **masters})
        return made
    assert base is not None
    plain = open_decoder(base, torch.float32)
    if layers := lora_layers(decoder):
        merge_into(plain, layers)
        return plain
    for name, parameter in plain.named_parameters():
        parameter.copy_(masters[name])
    return plain
