"""Which number format engines compute in, by what this machine's processor can do.

A capability and not a stopwatch: two engines of one comparison must compute alike, and a short
measurement on a busy machine answers differently from one minute to the next (see
`docs/decisions/0004-engine-precision.md`). `benchmarks/decode.py` shows what the choice is worth.
"""

from __future__ import annotations

import platform
from typing import Literal

import torch

Precision = Literal["auto", "bf16", "fp32", "fp64"]
_CPU = torch.device("cpu")
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}


def choose(precision: Precision, device: torch.device = _CPU) -> torch.dtype:
    """The dtype for a precision; `auto` is bf16 where the hardware multiplies it natively."""
    if precision != "auto":
        return DTYPES[precision]
    return torch.bfloat16 if multiplies_bf16(device) else torch.float32


def multiplies_bf16(device: torch.device = _CPU) -> bool:
    """Whether bf16 products have instructions of their own there, so that they pay."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if platform.machine().lower() in ("x86_64", "amd64"):
        # oneDNN also emulates bf16 on older AVX-512, which is slower than float32.
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def name_of(dtype: torch.dtype) -> str:
    return next(name for name, known in DTYPES.items() if known == dtype)


def accelerator() -> str | None:
    """The name of the GPU that torch sees, or None."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return None
