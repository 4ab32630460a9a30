"""What this machine multiplies fastest in, and how fast: measured, in the training process.

The peak is what MFU is a share of: the best square matrix product, in the faster precision.
"""

from __future__ import annotations

import time
from typing import Literal, NamedTuple

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
        peak_gflops: the best of any size in the faster precision.
    """

    bf16_gflops: float
    fp32_gflops: float
    peak_gflops: float

    @property
    def faster(self) -> Precision:
        return _faster(self.bf16_gflops, self.fp32_gflops)


def probe(tries: int = 5) -> MatmulPeak:
    """Measure with the threads torch now has; takes about a quarter of a second."""
    bf16 = _gflops(torch.bfloat16, SMALL, tries)
    fp32 = _gflops(torch.float32, SMALL, tries)
    dtype = DTYPES[_faster(bf16, fp32)]
    return MatmulPeak(bf16, fp32, max(bf16, fp32, _gflops(dtype, LARGE, tries)))


def choose(wanted: Literal["auto", "bf16", "fp32"], measured: MatmulPeak) -> Precision:
    """The recipe's word, or what the machine is faster in."""
    return measured.faster if wanted == "auto" else wanted


def _faster(bf16_gflops: float, fp32_gflops: float) -> Precision:
    return "bf16" if bf16_gflops > WORTHWHILE * fp32_gflops else "fp32"


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
