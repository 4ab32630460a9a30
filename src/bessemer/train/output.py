"""What a run leaves: `output/model`, a Hugging Face folder, and with LoRA `output/adapter`, or that
alone. On the way it may leave adapters in `snapshots/step-NNNNNNNN`.
"""

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
    """Write `output/` as a whole, in float32; the model has LoRA merged.

    Raises:
        OutOfSpace: it does not fit; there is no `output` then.
    """
    new = run.path / ".output.tmp"
    shutil.rmtree(new, ignore_errors=True)
    if recipe.lora is None or recipe.lora.leaves == "both":
        size_bytes = 4 * sum(parameter.numel() for parameter in decoder.parameters())
        refuse_if_full(run.path, size_bytes, "the trained model")
        _write_model(new, plan, decoder, weights, tokenizer)
    # The adapter of a reward model is none without its head; the whole model has both.
    if recipe.lora is not None and not isinstance(decoder, RewardModel):
        save_adapter(lora_layers(decoder), new / "adapter", base=plan["model"]["name"])
    if run.output.exists():
        shutil.rmtree(run.output)
    new.rename(run.output)


def write_snapshot(run: RunFolder, step: int, plan: dict[str, Any], decoder: Trained) -> None:
    """Write the adapter as it is after `step`, as a whole, in float32.

    Raises:
        OutOfSpace: it does not fit.
    """
    layers = lora_layers(decoder)
    size_bytes = 4 * sum(p.numel() for layer in layers.values() for p in layer.parameters())
    final = run.snapshots / f"step-{step:08d}"
    new = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    refuse_if_full(new, size_bytes, "a snapshot of the adapter")
    save_adapter(layers, new, base=plan["model"]["name"])
    shutil.rmtree(final, ignore_errors=True)  # the same one, of a run that was resumed
    new.rename(final)


def _write_model(
    new: Path,
    plan: dict[str, Any],
    decoder: Trained,
    weights: TrainedWeights,
    tokenizer: Tokenizer,
) -> None:
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
