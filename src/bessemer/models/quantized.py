"""Frozen matrices in 8 or 4 bits, and back.

    int8    one scale a row:         w ~ code * scale,             code from -127 to 127
    int4    one scale for 64 values: w ~ level[code] * scale,      16 levels

The levels of int4 are NF4's (Dettmers et al., 2023, "QLoRA", appendix E): quantiles of a normal
distribution, which is what weights look like, so each level is used about as often as the others.
Nothing is multiplied in 8 or 4 bits here: a matrix is made whole again, in the precision of what
it is multiplied with, for as long as the product takes.

    O outputs   I inputs   G groups of a row
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bessemer.core.errors import InvalidInput

Bits = Literal["int8", "int4"]
GROUP = 64
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


class QuantizedMatrix(NamedTuple):
    """A matrix as codes and scales. Make one with `quantize`.

    Attributes:
        codes: int8 (O, I), or uint8 (O, I / 2) with two codes a byte, the first in the low half.
        scales: float32, (O, 1) or (O, G).
    """

    kind: Bits
    codes: Tensor
    scales: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I) of the matrix it stands for."""
        rows, columns = self.codes.shape
        return rows, columns * (2 if self.kind == "int4" else 1)

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return self.codes.nbytes + self.scales.nbytes

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The matrix, (O, I), rounded to `dtype` once or twice."""
        if self.kind == "int8":
            return self.codes.to(dtype).mul_(self.scales.to(dtype))
        rows, columns = self.shape
        pairs = _pairs(dtype).index_select(0, self.codes.flatten().int())
        values_OGE = pairs.view(rows, self.scales.shape[1], -1)
        return values_OGE.mul_(self.scales.to(dtype).unsqueeze(-1)).view(rows, columns)


def quantize(weight_OI: Tensor, kind: Bits) -> QuantizedMatrix:
    """The nearest codes for a matrix of finite numbers.

    Raises:
        InvalidInput: int4 of a matrix whose rows are no whole number of groups of 64.
    """
    weight_OI = weight_OI.detach().float()
    if kind == "int8":
        scales_O1 = weight_OI.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        return QuantizedMatrix(kind, (weight_OI / scales_O1).round().to(torch.int8), scales_O1)
    rows, columns = weight_OI.shape
    if columns % GROUP:
        raise InvalidInput(
            f"int4 needs rows of a multiple of {GROUP} numbers; this matrix is {rows} x {columns}",
            next_step="use int8",
        )
    groups_OGE = weight_OI.view(rows, -1, GROUP)
    scales_OG = groups_OGE.abs().amax(-1).clamp(min=1e-12)
    levels = torch.tensor(NF4)
    borders = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(groups_OGE / scales_OG.unsqueeze(-1), borders).to(torch.uint8)
    codes = codes.view(rows, columns)
    return QuantizedMatrix(kind, codes[:, ::2] | (codes[:, 1::2] << 4), scales_OG)


@lru_cache(maxsize=8)
def _pairs(dtype: torch.dtype) -> Tensor:
    """What each byte of two codes stands for, (256, 2): one lookup for two values."""
    levels, byte = torch.tensor(NF4), torch.arange(256)
    return torch.stack((levels[byte & 15], levels[byte >> 4]), dim=1).to(dtype)
