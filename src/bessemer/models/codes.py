"""Matrices in 8 or 4 bits that an engine multiplies with as they are; `scheme` says how.

Unlike `quantized`, whose matrices are made whole again before each product of a training step,
these have the layout of the processor's own 8- and 4-bit products.

    O outputs   I inputs   G groups of 32 inputs
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bessemer.core.errors import InvalidInput
from bessemer.models.scheme import GROUP, Kind


class Int8Matrix(NamedTuple):
    """w = codes * scales: int8 (O, I), bfloat16 (O, 1)."""

    codes: Tensor
    scales: Tensor

    @classmethod
    def of(cls, weight_OI: Tensor) -> Int8Matrix:
        """The nearest codes, from -127 to 127, for finite numbers."""
        weight_OI = weight_OI.detach().float()
        # Rounded up a little, the largest number of a row may need code 127.4, which is clamped.
        scales_O1 = (weight_OI.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127).bfloat16()
        codes_OI = (weight_OI / scales_O1.float()).round().clamp(-127, 127)
        return cls(codes_OI.to(torch.int8), scales_O1)

    @property
    def shape(self) -> torch.Size:
        return self.codes.shape

    def whole(self, dtype: torch.dtype) -> Tensor:
        """The matrix as numbers, (O, I)."""
        return (self.codes.float() * self.scales.float()).to(dtype)

    def stored(self, name: str) -> dict[str, Tensor]:
        return {name: self.codes, f"{name}_scale": self.scales}


class Int4Matrix(NamedTuple):
    """w = (code - 8) * scale + zero: uint8 (O, I / 2), bfloat16 (O, G) twice."""

    packed: Tensor
    scales: Tensor
    zeros: Tensor

    @classmethod
    def of(cls, weight_OI: Tensor) -> Int4Matrix:
        """Sixteen even steps from the least to the greatest number of each group.

        A matrix that was on such a grid before (GGUF's Q4_1) keeps its codes.

        Raises:
            InvalidInput: rows are no whole number of groups.
        """
        outputs, inputs = weight_OI.shape
        if inputs % GROUP:
            raise InvalidInput(
                f"int4 needs rows of a multiple of {GROUP} numbers; this matrix is"
                f" {outputs} x {inputs}",
                next_step="use int8",
            )
        groups_OGE = weight_OI.detach().float().view(outputs, -1, GROUP)
        least_OG, most_OG = groups_OGE.amin(-1), groups_OGE.amax(-1)
        scales_OG = ((most_OG - least_OG) / 15).clamp(min=1e-12).bfloat16()
        zeros_OG = (least_OG + 8 * scales_OG.float()).bfloat16()
        steps_OGE = (groups_OGE - zeros_OG.float()[..., None]) / scales_OG.float()[..., None]
        codes_OI = (steps_OGE.round() + 8).clamp(0, 15).to(torch.uint8).view(outputs, inputs)
        return cls(codes_OI[:, ::2] | (codes_OI[:, 1::2] << 4), scales_OG, zeros_OG)

    @property
    def shape(self) -> torch.Size:
        outputs, pairs = self.packed.shape
        return torch.Size((outputs, 2 * pairs))

    def codes(self) -> Tensor:
        """One code a number, uint8 (O, I)."""
        return torch.stack((self.packed & 15, self.packed >> 4), -1).view(self.shape)

    def whole(self, dtype: torch.dtype) -> Tensor:
        """The matrix as numbers, (O, I)."""
        steps_OGE = (self.codes().float() - 8).view(len(self.packed), -1, GROUP)
        scales_OG1, zeros_OG1 = self.scales.float()[..., None], self.zeros.float()[..., None]
        return (steps_OGE * scales_OG1 + zeros_OG1).view(self.shape).to(dtype)

    def stored(self, name: str) -> dict[str, Tensor]:
        return {
            f"{name}_packed": self.packed,
            f"{name}_scale": self.scales,
            f"{name}_zero": self.zeros,
        }


CodedMatrix = Int8Matrix | Int4Matrix


def code(weight_OI: Tensor, kind: Kind) -> CodedMatrix:
    """The nearest codes of that kind.

    Raises:
        InvalidInput: as `Int4Matrix.of`.
    """
    return Int8Matrix.of(weight_OI) if kind == "int8" else Int4Matrix.of(weight_OI)


def beside(matrices: list[CodedMatrix]) -> CodedMatrix:
    """Matrices of one input as one, their outputs side by side."""
    kind = type(matrices[0])
    return kind(*(torch.cat(parts) for parts in zip(*matrices, strict=True)))


class CodedLinear(nn.Module):
    """A linear layer over codes. Multiplied here it is made whole first: right, and slow."""

    def __init__(self, matrix: CodedMatrix, bias: Tensor | None) -> None:
        super().__init__()
        self.matrix, self.bias = matrix, bias

    def forward(self, x_TI: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x_TI.dtype)
        return F.linear(x_TI, self.matrix.whole(x_TI.dtype), bias)
