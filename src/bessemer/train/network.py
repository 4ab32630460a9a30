"""The network of a run, before its first step; `output` has what is left of it in the end."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from bessemer.core.errors import InvalidInput
from bessemer.core.train_recipe import TrainRecipe
from bessemer.core.train_sections import LoraSection
from bessemer.models.adapter import load_adapter
from bessemer.models.config import ARCHITECTURES, new_config
from bessemer.models.decoder import Decoder
from bessemer.models.foreign import ForeignDecoder, open_decoder
from bessemer.models.lora import add_lora, target_layers
from bessemer.models.quantized import Bits
from bessemer.models.reward_model import RewardModel
from bessemer.text.tokenizer import Tokenizer
from bessemer.train.objectives.reward_model import pad_token_id
from bessemer.train.precision import DTYPES

Trained = Decoder | ForeignDecoder | RewardModel


def start(
    recipe: TrainRecipe, base: Path | None, tokenizer: Tokenizer, dtype: torch.dtype
) -> Trained:
    """The decoder before its first step, computing in `dtype`, with what is frozen frozen.

    Args:
        base: folder of the model to start from; None starts from random weights.
    """
    if base is None:
        assert recipe.model.depth is not None
        config = new_config(
            recipe.model.depth,
            recipe.batch.sequence_length,
            vocab_size=tokenizer.vocab_size,
            bos_token_id=tokenizer.bos_id,
            eos_token_id=sorted(tokenizer.eos_ids),
        )
        return Decoder(config).init_weights(recipe.seed).to(dtype)
    decoder = open_decoder(base, dtype)
    if isinstance(decoder, ForeignDecoder):
        _check_foreign(decoder, recipe)
    if recipe.lora is not None:
        freeze_with_lora(decoder, recipe.lora, recipe.seed)
    if recipe.objective == "reward":
        assert isinstance(decoder, Decoder)
        return RewardModel(decoder, pad_token_id(tokenizer))
    return decoder


def _check_foreign(decoder: ForeignDecoder, recipe: TrainRecipe) -> None:
    if recipe.objective == "reward":
        raise InvalidInput(
            f"a reward model is made of a native family, and this is a {decoder.model_type}",
            next_step=f"start from one of {', '.join(ARCHITECTURES)}",
        )
    if recipe.deterministic == "any-world-size" and decoder.drops_out:
        raise InvalidInput(
            f"this {decoder.model_type} has dropout in its config.json, which follows the order of"
            " shards",
            next_step='set deterministic = "run", or its dropout to 0',
        )


def freeze_with_lora(network: nn.Module, lora: LoraSection, seed: int) -> None:
    """Give the network trained differences, new ones or those of the adapter the recipe names."""
    kept = lora.base_precision
    if kept == "fp32" or kept == "bf16":
        for layer in target_layers(network, lora.targets).values():
            layer.to(DTYPES[kept])
    bits: Bits | None = kept if kept == "int8" or kept == "int4" else None
    if lora.adapter is not None:
        load_adapter(network, Path(lora.adapter), dropout=lora.dropout, bits=bits)
        return
    add_lora(
        network, lora.rank, lora.alpha, seed, targets=lora.targets, dropout=lora.dropout, bits=bits
    )
