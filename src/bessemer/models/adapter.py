"""Adapters in PEFT's layout, in and out: `adapter_config.json` and `adapter_model.safetensors`.

What `peft` writes for LoRA is read, with ranks and alphas by layer (`rank_pattern`,
`alpha_pattern`) and rank-stabilized scaling (Kalajdzievski, 2023). What would compute something
else here (DoRA, trained biases, whole layers saved beside the adapter) is refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bessemer.core.errors import IntegrityError, InvalidInput, UnsafeWeights
from bessemer.models.config import ModelConfig
from bessemer.models.decoder import Decoder
from bessemer.models.folder import PICKLED
from bessemer.models.lora import Linear, LoraLinear, add_lora_layer, add_to, matrix_of
from bessemer.models.quantized import Bits

PREFIX = "base_model.model."  # PEFT's names for what wraps the network
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
KEY = re.compile(re.escape(PREFIX) + r"(.+)\.(lora_[AB])(?:\.default)?\.weight")
# Settings that change what is computed, and the values at which they do not.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "use_dora": (False,),
    "modules_to_save": (None, []),
    "fan_in_fan_out": (False, True),  # how the base stores its matrices, which its layers know
    "megatron_config": (None,),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, []),
    "target_parameters": (None, []),
    "use_qalora": (False,),
    "lora_bias": (False,),
    "alora_invocation_tokens": (None, []),
}


class Factors(NamedTuple):
    """One layer's difference: scale * B A.

    Attributes:
        a_RI, b_OR: rank by inputs, outputs by rank; float32.
    """

    a_RI: Tensor
    b_OR: Tensor
    scale: float


def save_adapter(layers: Mapping[str, LoraLinear], folder: Path, *, base: str) -> None:
    """Write the adapter as `peft` does; `PeftModel.from_pretrained` opens it.

    Args:
        base: name or folder of the base model, for `adapter_config.json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, layer in layers.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = layer.lora_A.detach().contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = layer.lora_B.detach().contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    ranks = {name: len(layer.lora_A) for name, layer in layers.items()}
    alphas = {name: layer.scale * ranks[name] for name, layer in layers.items()}
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: found for name, found in ranks.items() if found != rank},
        "alpha_pattern": {name: found for name, found in alphas.items() if found != alpha},
        "lora_dropout": next(iter(layers.values())).dropout,
        "target_modules": sorted({name.rpartition(".")[2] for name in layers}),
        "bias": "none",
        "fan_in_fan_out": any(layer.stored_transposed for layer in layers.values()),
        "inference_mode": True,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def read_adapter(folder: Path) -> dict[str, Factors]:
    """The differences in an adapter folder, by the full name of the layer.

    Raises:
        InvalidInput: it is no LoRA adapter, or of a kind that computes something else.
        UnsafeWeights: its weights are pickled.
        IntegrityError: its files are missing, broken, or do not fit each other.
    """
    config = _read_config(folder)
    tensors = _read_weights(folder)
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        found = KEY.fullmatch(key)
        if found is None:
            raise InvalidInput(f"{folder / WEIGHTS} holds {key!r}, which is no LoRA factor")
        parts.setdefault(found[1], {})[found[2]] = tensor.float()
    return {name: _factors(folder, name, pair, config) for name, pair in parts.items()}


def check_adapter(folder: Path, base: Path) -> None:
    """See that the adapter in `folder` fits the decoder in `base`, whose weights are not read.

    Raises:
        InvalidInput, UnsafeWeights, IntegrityError: as `read_adapter`, or it does not fit.
    """
    config = ModelConfig.from_folder(base)
    with torch.device("meta"):
        network = Decoder(config)
    for name, factors in read_adapter(folder).items():
        _target(network, name, factors, folder)


@torch.no_grad()
def load_adapter(
    network: nn.Module, folder: Path, *, dropout: float = 0.0, bits: Bits | None = None
) -> dict[str, LoraLinear]:
    """Freeze `network` and give it the adapter's differences, to go on training them.

    Returns:
        The new layers by name.

    Raises:
        IntegrityError: a layer of the adapter is not in the network, or of another size.
    """
    network.requires_grad_(False)
    added = {}
    for name, factors in read_adapter(folder).items():
        layer = _target(network, name, factors, folder)
        rank = len(factors.a_RI)
        added[name] = add_lora_layer(
            network, name, layer, rank=rank, alpha=factors.scale * rank, dropout=dropout, bits=bits
        )
        added[name].lora_A.copy_(factors.a_RI)
        added[name].lora_B.copy_(factors.b_OR)
    return added


@torch.no_grad()
def merge_adapter(network: nn.Module, folder: Path) -> None:
    """Add the adapter's differences to the matrices of `network`, in their precision.

    Load the network in float32 for this: in bfloat16 the sum would be rounded to 8 bits.
    """
    for name, factors in read_adapter(folder).items():
        layer = _target(network, name, factors, folder)
        add_to(layer, factors.b_OR @ factors.a_RI * factors.scale)


def misfit(folder: Path, name: str, wanted: object, there: object) -> IntegrityError:
    """The error of an adapter whose layer `name` is not in a network, or of another size."""
    return IntegrityError(
        f"the adapter in {folder} does not fit this model: {name} is {wanted} in it, and"
        f" {there} here",
        next_step=f"use the base model that its {CONFIG} names",
    )


def _read_weights(folder: Path) -> dict[str, Tensor]:
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if pickled and not (folder / WEIGHTS).is_file():
        raise UnsafeWeights(
            f"{folder} holds pickled weights ({', '.join(pickled[:3])}), which can run code when"
            " they are read; Bessemer reads safetensors only",
            next_step="save the adapter again with peft, which writes safetensors",
        )
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as fault:
        raise IntegrityError(
            f"{folder} has no whole {WEIGHTS}: {fault}",
            next_step="save the adapter again, as safetensors",
        ) from fault


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as fault:
        raise IntegrityError(
            f"{folder} is no adapter: {CONFIG} is missing or not JSON ({fault})",
            next_step="name the folder that `peft` or a run wrote",
        ) from fault
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise InvalidInput(f"{folder} is not a LoRA adapter (peft_type {kind!r})")
    unknown = [
        f"{key}={config[key]!r}"
        for key, neutral in NEUTRAL.items()
        if key in config and config[key] not in neutral
    ]
    if unknown:
        raise InvalidInput(
            f"the adapter in {folder} computes what is not here: {', '.join(unknown)}",
            next_step="merge it with peft (merge_and_unload) and bring in the merged model",
        )
    return config


def _factors(
    folder: Path, name: str, pair: Mapping[str, Tensor], config: Mapping[str, Any]
) -> Factors:
    try:
        rank = int(_by_pattern(config.get("rank_pattern"), name, config["r"]))
        alpha = float(_by_pattern(config.get("alpha_pattern"), name, config["lora_alpha"]))
    except (KeyError, TypeError, ValueError, AttributeError, re.error) as fault:
        raise IntegrityError(f"{folder / CONFIG} has no rank and alpha: {fault!r}") from fault
    shapes = {part: tuple(tensor.shape) for part, tensor in pair.items()}
    matrices = shapes.keys() == {"lora_A", "lora_B"} and all(len(s) == 2 for s in shapes.values())
    if not matrices or rank < 1 or {shapes["lora_A"][0], shapes["lora_B"][1]} != {rank}:
        raise IntegrityError(f"{name} in {folder} has {shapes}; {CONFIG} says rank {rank}")
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    return Factors(pair["lora_A"], pair["lora_B"], scale)


def _by_pattern(patterns: Mapping[str, Any] | None, name: str, otherwise: Any) -> Any:
    """PEFT's rule: a pattern names a layer by the end of its name, or by a regular expression."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return otherwise


def _target(network: nn.Module, name: str, factors: Factors, folder: Path) -> Linear:
    try:
        layer = network.get_submodule(name)
    except AttributeError:
        layer = None
    wanted = (len(factors.b_OR), factors.a_RI.shape[1])
    there = tuple(matrix_of(layer).shape) if isinstance(layer, Linear) else "no such layer"
    if not isinstance(layer, Linear) or there != wanted:
        raise misfit(folder, name, wanted, there)
    return layer
