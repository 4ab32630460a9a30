"""What this machine multiplies fastest in, and how fast: measured, in the training process.

The peak is what MFU is a share of: the best square matrix product, in the faster precision.
"""

from __future__ import annotations

import time
from typing import Literal, NamedTuple

import torch

from bessemer.train.recipe import Precision

DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}
SIZES = (1024, 2048)
# Casts and rounding have a price: less than this much faster is not worth it.
WORTHWHILE = 1.25


class MatmulPeak(NamedTuple):
    """Best square matrix product of each precision, in 10^9 floating-point operations a second."""

    bf16_gflops: float
    fp32_gflops: float

    @property
    def peak_gflops(self) -> float:
        return max(self)

    @property
    def faster(self) -> Precision:
        return "bf16" if self.bf16_gflops > WORTHWHILE * self.fp32_gflops else "fp32"


def probe(tries: int = 5) -> MatmulPeak:
    """Measure both precisions with the threads torch now has; takes about half a second."""
    return MatmulPeak(
        max(_gflops(torch.bfloat16, size, tries) for size in SIZES),
        max(_gflops(torch.float32, size, tries) for size in SIZES),
    )


def choose(wanted: Literal["auto", "bf16", "fp32"], measured: MatmulPeak) -> Precision:
    """The recipe's word, or what the machine is faster in."""
    return measured.faster if wanted == "auto" else wanted


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
