"""Which number format this machine computes fastest in: measured, not looked up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from bessemer.inference.prepared import make_linear

Precision = Literal["auto", "bf16", "fp32", "fp64"]
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}


def choose(precision: Precision) -> torch.dtype:
    """The dtype for a precision; `auto` measures a small and a middle-sized product (50 ms)."""
    if precision != "auto":
        return DTYPES[precision]
    return torch.bfloat16 if _cost_s(torch.bfloat16) < _cost_s(torch.float32) else torch.float32


def name_of(dtype: torch.dtype) -> str:
    return next(name for name, known in DTYPES.items() if known == dtype)


def _cost_s(dtype: torch.dtype) -> float:
    """Seconds for a decode step's and a prefill's product of one layer's shape."""
    linear = make_linear(torch.randn(1536, 576).to(dtype), None)
    small, large = torch.randn(1, 576).to(dtype), torch.randn(128, 576).to(dtype)
    return 16 * _best_s(lambda: linear(small)) + _best_s(lambda: linear(large))


def _best_s(work: Callable[[], Tensor]) -> float:
    times = []
    for _ in range(8):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def accelerator() -> str | None:
    """The name of the GPU that torch sees, or None."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return None
