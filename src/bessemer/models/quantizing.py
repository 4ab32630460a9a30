"""From a folder of floats to one in 8 or 4 bits, and from that to a decoder that has them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from bessemer.core.errors import InvalidInput
from bessemer.core.runs import write_atomically
from bessemer.models import folder as folders
from bessemer.models.codes import CodedLinear, CodedMatrix, Int4Matrix, Int8Matrix, code
from bessemer.models.config import ModelConfig, read_tree
from bessemer.models.decoder import Decoder
from bessemer.models.scheme import SETTINGS, Kind, gguf_kind_of, is_coded, kind_of
from bessemer.models.smoothing import smooth


def quantize_folder(source: Path, target: Path, kind: Kind) -> None:
    """Write the decoder in `source` to `target` in 8 or 4 bits, tokenizer and template included.

    The matrices of the layers become codes; embedding, head and norms stay floats (bfloat16).

    Raises:
        InvalidInput: it is quantized already, or has layers whose products are not coded.
        UnsafeWeights, IntegrityError: as `load_decoder`.
    """
    check_can_quantize(source, kind)
    decoder = folders.load_decoder(source, torch.float32)
    if kind == "int8":
        smooth(decoder)
    weights: dict[str, Tensor] = {}
    for name, tensor in decoder.state_dict().items():
        if is_coded(name):
            weights |= code(tensor, kind).stored(name)
        else:
            weights[name] = tensor.detach().bfloat16().contiguous()
    tree = decoder.config.to_hf("bfloat16") | {"quantization_config": SETTINGS[kind]}
    target.mkdir(parents=True, exist_ok=True)
    folders.write_tensors(weights, target)
    write_atomically(target / "config.json", (json.dumps(tree, indent=2) + "\n").encode())
    folders.copy_companions(source, target)


def check_not_coded(folder: Path) -> None:
    """Raises InvalidInput: it is quantized already."""
    tree = read_tree(folder)
    if (already := kind_of(tree) or gguf_kind_of(tree)) is not None:
        raise InvalidInput(
            f"{folder.name} is {already} already, and rounding twice only loses more",
            next_step="quantize the model that it was made from",
        )


def check_can_quantize(folder: Path, kind: Kind) -> None:
    """Whether `quantize_folder` would take it, by `config.json` alone.

    Raises:
        InvalidInput: as `quantize_folder`.
    """
    check_not_coded(folder)
    config = ModelConfig.from_folder(folder)
    if not config.is_plain:
        raise InvalidInput(
            f"this {config.family} has experts, latent attention, windows or GPT-2's layers, which"
            f" the engine has no {kind} products for",
            next_step="serve it in bfloat16",
        )
    widths = {config.hidden_size, config.heads * config.head_dim, config.intermediate_size}
    if kind == "int4" and (uneven := sorted(width for width in widths if width % 32)):
        raise InvalidInput(
            f"int4 needs rows of a multiple of 32 numbers; this model has rows of {uneven[0]}",
            next_step="use int8",
        )


def load_coded(folder: Path, dtype: torch.dtype) -> Decoder:
    """The decoder in a quantized folder, its layers' matrices as they are stored.

    Raises:
        UnsafeWeights, IntegrityError, InvalidInput: as `folder.load_decoder`.
    """
    kind = kind_of(read_tree(folder))
    assert kind is not None, folder
    folders.check_weights(folder)
    with torch.device("meta"):
        decoder = Decoder(ModelConfig.from_folder(folder))
    stored = dict(folders.read_tensors(folder))
    coded = dict(_matrices(stored, kind))
    for name, matrix in coded.items():
        path = name.removesuffix(".weight")
        bias = stored.pop(f"{path}.bias", None)
        decoder.set_submodule(path, CodedLinear(matrix, None if bias is None else bias.to(dtype)))
    names = decoder.state_dict().keys()
    plain = {name: tensor.to(dtype) for name, tensor in stored.items() if name in names}
    decoder.load_state_dict(plain, assign=True)
    return decoder


def decoded(
    stored: Iterable[tuple[str, Tensor]], kind: Kind, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a quantized folder as numbers, under the names of plain ones."""
    found = dict(stored)
    for name, matrix in _matrices(found, kind):
        yield name, matrix.whole(dtype)
    yield from found.items()


def _matrices(found: dict[str, Tensor], kind: Kind) -> Iterator[tuple[str, CodedMatrix]]:
    """Each coded matrix, taken out of `found` with all its parts."""
    for scale in [name for name in found if name.endswith(".weight_scale")]:
        name = scale.removesuffix("_scale")
        scales = found.pop(scale).bfloat16()
        if kind == "int8":
            yield name, Int8Matrix(found.pop(name), scales)
        else:
            yield name, Int4Matrix(found.pop(f"{name}_packed"), scales, found.pop(f"{name}_zero"))
