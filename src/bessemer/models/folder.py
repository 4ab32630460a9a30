"""Hugging Face folders: read and written as they are, safetensors only.

A folder saved here opens in `transformers`, vLLM and llama.cpp's converter with no step between.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bessemer.core.errors import IntegrityError, InvalidInput, UnsafeWeights
from bessemer.core.runs import write_atomically
from bessemer.models.config import ModelConfig, read_tree
from bessemer.models.decoder import Decoder
from bessemer.models.layout import from_disk, stored_shapes, to_disk
from bessemer.models.scheme import StoredShape, is_coded, kind_of, stored_parts

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# Beside the weights, what shapes a model's behavior. The rest of a folder is not the model.
COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "generation_config.json",
    "chat_template.jinja",
    "LICENSE",
    # How a sentence model makes one vector of its hidden states.
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
)
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
FLOATS = ("F64", "F32", "F16", "BF16")  # 8-bit floats and integers mean nothing without scales
MAX_SHARD_BYTES = 5_000_000_000


class StoredTensor(NamedTuple):
    """A tensor as a safetensors header states it; `dtype` in safetensors' spelling."""

    name: str
    shape: list[int]
    dtype: str


def load_decoder(folder: Path, dtype: torch.dtype = torch.float32) -> Decoder:
    """The decoder in `folder`, its weights cast to `dtype`.

    Raises:
        UnsafeWeights: the weights are pickled, or a safetensors header is corrupt.
        IntegrityError: tensors are missing, left over or of another shape than the config says.
        InvalidInput: an architecture that the decoder does not have.
    """
    config = ModelConfig.from_folder(folder)
    with torch.device("meta"):
        decoder = Decoder(config)
    expected = {name: list(tensor.shape) for name, tensor in decoder.state_dict().items()}
    check_weights(folder)
    stored = ((name, tensor.to(_kept(name, dtype))) for name, tensor in read_floats(folder, dtype))
    decoder.load_state_dict(from_disk(stored, expected, config), assign=True)
    return decoder


def _kept(name: str, dtype: torch.dtype) -> torch.dtype:
    # A router's bias moves in steps of a thousandth: see `experts.Router`.
    narrow = dtype in (torch.bfloat16, torch.float16)
    return torch.float32 if narrow and name.endswith("e_score_correction_bias") else dtype


def check_weights(folder: Path, expected: dict[str, list[int]] | None = None) -> None:
    """Hold the headers of the weight files against `config.json`, without reading the weights.

    Raises:
        UnsafeWeights, IntegrityError, InvalidInput: as `load_decoder`.
    """
    config = ModelConfig.from_folder(folder)
    found = {stored.name: stored for stored in read_headers(folder)}
    if expected is None:
        with torch.device("meta"):
            own = {n: list(t.shape) for n, t in Decoder(config).state_dict().items()}
        expected = stored_shapes(own, config, found)
    if "score.weight" in found and "score.weight" not in expected:
        raise InvalidInput(
            f"{folder} holds a reward model: it scores answers and writes none",
            next_step="see docs/guides/learn-preferences.md for what it is for",
        )
    hold_against(expected, found, folder, lambda name: _may_be_ignored(name, config))


def hold_against(
    expected: Mapping[str, list[int]],
    found: Mapping[str, StoredTensor],
    folder: Path,
    may_be_ignored: Callable[[str], bool],
) -> None:
    """Hold what is stored in a folder, by the network's names, against a network's shapes.

    Raises:
        IntegrityError: tensors are missing, left over or of another shape.
        InvalidInput: one holds no numbers that mean anything by themselves.
    """
    parts = _parts(folder, expected)
    missing = sorted(set(parts) - set(found))
    surplus = [n for n in sorted(found) if n not in parts and not may_be_ignored(n)]
    if missing or surplus:
        raise IntegrityError(
            f"the weights in {folder} do not fit its config.json: "
            f"{count_names('missing', missing)}, {count_names('not in the model', surplus)}"
        )
    for name, (shape, dtypes) in parts.items():
        stored = found[name]
        if stored.dtype not in dtypes:
            raise InvalidInput(f"{name} holds {stored.dtype}; known are {', '.join(dtypes)}")
        if stored.shape != shape:
            raise IntegrityError(f"{name} has shape {stored.shape}; config.json says {shape}")


def _parts(folder: Path, expected: Mapping[str, list[int]]) -> dict[str, StoredShape]:
    """What stands for each tensor: itself, or codes and scales where the folder is quantized."""
    kind = kind_of(read_tree(folder))
    parts: dict[str, StoredShape] = {}
    for name, shape in expected.items():
        if kind is not None and is_coded(name):
            parts |= stored_parts(kind, name, shape)
        else:
            parts[name] = StoredShape(shape, FLOATS)
    return parts


def save_decoder(
    decoder: Decoder,
    folder: Path,
    *,
    like: Path | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write weights, `config.json`, and the tokenizer and template files of `like`.

    The folder is created. Weights keep their dtype.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = decoder.state_dict().items()
    weights = {
        stored: part.detach().contiguous()
        for name, tensor in state
        for stored, part in to_disk(name, tensor, decoder.config)
    }
    dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    write_tensors(weights, folder, max_shard_bytes)
    config = json.dumps(decoder.config.to_hf(dtype), indent=2) + "\n"
    write_atomically(folder / "config.json", config.encode())
    if like is not None:
        copy_companions(like, folder)


def copy_companions(source: Path, folder: Path) -> None:
    """Copy tokenizer, template, generation defaults and licence, where they exist."""
    for name in COMPANIONS:
        if (source / name).is_file() and source.resolve() != folder.resolve():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, folder / name)


def read_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the folder's safetensors files, memory-mapped."""
    for file in _open_files(folder):
        for name in file.keys():  # noqa: SIM118 (not a dict)
            yield name, file.get_tensor(name)


def read_floats(folder: Path, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """`read_tensors`, with quantized matrices made whole in `dtype`."""
    kind = kind_of(read_tree(folder))
    if kind is None:
        return read_tensors(folder)
    from bessemer.models.quantizing import decoded  # it writes folders with this module

    return decoded(read_tensors(folder), kind, dtype)


def read_headers(folder: Path) -> Iterator[StoredTensor]:
    """Every tensor's name, shape and type, from the headers alone."""
    for file in _open_files(folder):
        for name in file.keys():  # noqa: SIM118 (not a dict)
            stored = file.get_slice(name)
            yield StoredTensor(name, list(stored.get_shape()), stored.get_dtype())


def _open_files(folder: Path) -> Iterator[Any]:
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                yield file
        except (SafetensorError, OSError, ValueError, OverflowError) as fault:
            raise UnsafeWeights(
                f"{path} is not a whole safetensors file ({path.stat().st_size:,} bytes): {fault}",
                next_step="fetch it again; it was probably cut off or changed",
            ) from fault


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files, one or the shards its index names.

    Raises:
        UnsafeWeights: there are only pickled weights.
        IntegrityError: there are none, or a shard is missing.
    """
    if (folder / INDEX).is_file():
        return _shards(folder)
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if pickled:
        raise UnsafeWeights(
            f"{folder} holds pickled weights ({', '.join(pickled[:3])}), which can run code when"
            " they are read; Bessemer reads safetensors only",
            next_step="ask the publisher for safetensors, or convert in a place you can throw away",
        )
    raise IntegrityError(f"{folder} has neither {SINGLE} nor {INDEX}")


def _shards(folder: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as fault:
        raise IntegrityError(f"{folder / INDEX} is not an index of shards: {fault}") from fault
    for name in names:
        if (
            not isinstance(name, str)
            or Path(name).name != name
            or not name.endswith(".safetensors")
        ):
            raise UnsafeWeights(f"{INDEX} names {name!r}, which is not a shard of this folder")
        if not (folder / name).is_file():
            raise IntegrityError(f"shard {name} is missing ({len(names)} are named in {INDEX})")
    return [folder / name for name in names]


def write_tensors(
    weights: dict[str, Tensor], folder: Path, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write contiguous tensors as one safetensors file, or as shards with their index."""
    if max_shard_bytes <= 0:
        raise InvalidInput(f"max_shard_bytes must be positive; got {max_shard_bytes}")
    shards: list[dict[str, Tensor]] = [{}]
    room = max_shard_bytes
    for name, tensor in weights.items():
        if tensor.nbytes > room and shards[-1]:
            shards.append({})
            room = max_shard_bytes
        shards[-1][name] = tensor
        room -= tensor.nbytes
    if len(shards) == 1:
        save_file(shards[0], folder / SINGLE, metadata={"format": "pt"})
        _remove_weights_except({SINGLE}, folder)
        return
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        save_file(shard, folder / name, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in weights.values())},
        "weight_map": {
            key: name for name, shard in zip(names, shards, strict=True) for key in shard
        },
    }
    write_atomically(folder / INDEX, json.dumps(index, indent=2).encode())
    _remove_weights_except({INDEX, *names}, folder)


def _remove_weights_except(names: set[str], folder: Path) -> None:
    """An earlier save's shards or index would be read in place of the new weights."""
    for path in (folder / SINGLE, folder / INDEX, *folder.glob("model-*-of-*.safetensors")):
        if path.name not in names:
            path.unlink(missing_ok=True)


def _may_be_ignored(name: str, config: ModelConfig) -> bool:
    # Older exports carry the tied head and the rotary frequencies; both follow from the rest.
    tied_head = name == "lm_head.weight" and config.tied
    # DeepSeek-V3 publishes a layer for its multi-token prediction behind the last one.
    prediction = config.latent is not None and f".layers.{config.layers}." in name
    masks = config.family == "gpt2" and name.endswith((".attn.bias", ".attn.masked_bias"))
    return tied_head or prediction or masks or name.endswith("rotary_emb.inv_freq")


def count_names(what: str, names: list[str]) -> str:
    """How many, and the first three by name: `2 missing (a, b)`."""
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {what}" + (f" ({shown})" if names else "")
