"""How a folder says that its matrices are stored in 8 or 4 bits. No torch.

    int8   `weight` int8 (O, I), `weight_scale` bfloat16 (O, 1):    w = code * scale
    int4   `weight_packed` uint8 (O, I / 2), two codes a byte, the first in the low half,
           `weight_scale` and `weight_zero` bfloat16 (O, I / 32):   w = (code - 8) * scale + zero

int8 is written as compressed-tensors writes it ("int-quantized", one scale a row, activations by
token), so `transformers` and vLLM open the folder. int4 has a zero in floating point, which that
format cannot say and whole-numbered zeros cost much (docs/logbook.md): it is Bessemer's own.

    q8_0, q4_0   no matrices at all, but the file `model.gguf` (`gguf_export`), which OpenVINO
                 computes; tokenizer and template lie beside it as in any folder

    O outputs   I inputs
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Kind = Literal["int8", "int4"]
GgufKind = Literal["q8_0", "q4_0"]
KINDS: tuple[Kind, ...] = ("int8", "int4")
GROUP = 32
_INT8 = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "channel",
                "dynamic": False,
            },
            "input_activations": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "token",
                "dynamic": True,
            },
        }
    },
}
_INT4 = {"quant_method": "bessemer", "format": "affine", "num_bits": 4, "group_size": GROUP}
SETTINGS: dict[Kind, dict[str, Any]] = {"int8": _INT8, "int4": _INT4}
GGUF_KINDS: tuple[GgufKind, ...] = ("q8_0", "q4_0")
GGUF_FILE = "model.gguf"


class StoredShape(NamedTuple):
    """`dtypes`: in safetensors' spelling, those that are taken."""

    shape: list[int]
    dtypes: tuple[str, ...]


def kind_of(tree: Mapping[str, Any]) -> Kind | None:
    """The kind that a `config.json` states, or None: plain numbers, or another's format."""
    stated = tree.get("quantization_config")
    for kind, settings in SETTINGS.items():
        if isinstance(stated, Mapping) and _says(stated, settings):
            return kind
    return None


def gguf_settings(kind: GgufKind) -> dict[str, Any]:
    """What a `config.json` states beside a GGUF file."""
    return {"quant_method": "gguf", "type": kind}


def gguf_kind_of(tree: Mapping[str, Any]) -> GgufKind | None:
    """The kind of GGUF file that a `config.json` says lies beside it, or None."""
    stated = tree.get("quantization_config")
    return next((kind for kind in GGUF_KINDS if stated == gguf_settings(kind)), None)


def stored_parts(kind: Kind, name: str, shape: list[int]) -> dict[str, StoredShape]:
    """What is stored of the matrix `name` of (O, I)."""
    outputs, inputs = shape
    if kind == "int8":
        return {
            name: StoredShape(shape, ("I8",)),
            f"{name}_scale": StoredShape([outputs, 1], ("BF16", "F32", "F16")),
        }
    groups = [outputs, inputs // GROUP]
    return {
        f"{name}_packed": StoredShape([outputs, inputs // 2], ("U8",)),
        f"{name}_scale": StoredShape(groups, ("BF16",)),
        f"{name}_zero": StoredShape(groups, ("BF16",)),
    }


def is_coded(name: str) -> bool:
    """Whether this tensor of a plain decoder is one of those stored in codes: a layer's matrix."""
    return ".layers." in name and name.endswith("_proj.weight")


def _says(stated: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether everything in `settings` is stated; other keys may stand beside."""
    for key, value in settings.items():
        there = stated.get(key)
        if isinstance(value, Mapping):
            if not isinstance(there, Mapping) or not _says(there, value):
                return False
        elif there != value:
            return False
    return True
