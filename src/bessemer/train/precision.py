"""What this machine multiplies fastest in, and how fast: measured, in the training process.

The peak is what MFU is a share of: the best square matrix product, in the faster precision.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import torch

from bessemer.core.train_sections import Precision

DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}
SMALL, LARGE = 1024, 2048
# Casts and rounding have a price: less than this much faster is not worth it.
WORTHWHILE = 1.25


class MatmulPeak(NamedTuple):
    """Square matrix products of each precision, in 10^9 floating-point operations a second.

    Attributes:
        bf16_gflops, fp32_gflops: at the size at which they are compared.
        faster: the one that is worth its rounding.
        peak_gflops: the best of any size in it.
    """

    bf16_gflops: float
    fp32_gflops: float
    faster: Precision
    peak_gflops: float


def probe(tries: int = 5) -> MatmulPeak:
    """Measure with the threads torch now has; takes about a quarter of a second."""
    bf16 = _gflops(torch.bfloat16, SMALL, tries)
    fp32 = _gflops(torch.float32, SMALL, tries)
    faster: Precision = "bf16" if bf16 > WORTHWHILE * fp32 else "fp32"
    peak = max(bf16, fp32, _gflops(DTYPES[faster], LARGE, tries))
    return MatmulPeak(bf16, fp32, faster, peak)


def _gflops(dtype: torch.dtype, size: int, tries: int) -> float:
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(size, size, generator=generator).to(dtype)
    right = torch.randn(size, size, generator=generator).to(dtype)
    product = left @ right  # the first one sets the library up
    # The fastest try: the others were disturbed.
    best_s = min(_time_s(left, right, product) for _ in range(tries))
    return 2 * size**3 / best_s / 1e9


def _time_s(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> float:
    begin = time.perf_counter()
    torch.mm(left, right, out=out)
    return time.perf_counter() - begin
