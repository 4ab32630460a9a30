"""The network of a run: how it starts, and what is saved of it in the end."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from bessemer.core.errors import InvalidInput
from bessemer.core.train_recipe import TrainRecipe
from bessemer.core.train_sections import LoraSection
from bessemer.models.adapter import load_adapter
from bessemer.models.config import ARCHITECTURES, ModelConfig
from bessemer.models.decoder import Decoder
from bessemer.models.foreign import ForeignDecoder, open_decoder
from bessemer.models.lora import add_lora, lora_layers, merge_into, target_layers
from bessemer.models.quantized import Bits
from bessemer.models.reward_model import RewardModel
from bessemer.text.tokenizer import Tokenizer
from bessemer.train.objectives.reward_model import pad_token_id
from bessemer.train.precision import DTYPES
from bessemer.train.weights import TrainedWeights

HEAD_SIZE = 64
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
        config = new_config(recipe.model.depth, recipe.batch.sequence_length, tokenizer)
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


def new_config(depth: int, context_length: int, tokenizer: Tokenizer) -> ModelConfig:
    """A Llama of `depth` layers: width 64 a layer, heads of 64, two query heads a key head."""
    hidden = HEAD_SIZE * depth
    return ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // HEAD_SIZE * HEAD_SIZE,
        layers=depth,
        heads=depth,
        kv_heads=depth // 2 if depth % 2 == 0 else depth,
        head_dim=HEAD_SIZE,
        context_length=context_length,
        tied=True,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=sorted(tokenizer.eos_ids),
    )


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


def generation_defaults(tokenizer: Tokenizer) -> dict[str, object]:
    """`generation_config.json` of a new model."""
    return {"bos_token_id": tokenizer.bos_id, "eos_token_id": sorted(tokenizer.eos_ids)}


def size_bytes(decoder: Trained) -> int:
    """Bytes of the weights on disk in float32."""
    return 4 * sum(p.numel() for p in decoder.parameters())


def replace_folder(new: Path, final: Path) -> None:
    """Give `new` the name `final`, whatever was there before."""
    if final.exists():
        shutil.rmtree(final)
    new.rename(final)
