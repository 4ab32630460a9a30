"""Norm and rotation with their gradients written out, for training on a CPU.

The same functions as in `functions`, which hands over to these when a gradient is wanted. Composed
of single operations they walk through memory about twice as often, forward and backward.

T tokens   H heads   D size (of a head or of the hidden state)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class RmsNorm(torch.autograd.Function):
    """x / rms(x) * weight, with the statistics in float32."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        wide_TD = x_TD.to(torch.float32, copy=True)
        length_T1 = torch.linalg.vector_norm(wide_TD, dim=-1, keepdim=True)
        scale_T1 = (length_T1.square() / x_TD.shape[-1] + eps).rsqrt()
        ctx.save_for_backward(x_TD, weight_D, scale_T1)
        return wide_TD.mul_(scale_T1).mul_(weight_D.float()).to(x_TD.dtype)

    @staticmethod
    def backward(ctx: Any, *d_out: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x_TD, weight_D, scale_T1 = ctx.saved_tensors
        normed_TD = x_TD.to(torch.float32, copy=True).mul_(scale_T1)
        d_TD = d_out[0].to(torch.float32, copy=True)
        product_TD = normed_TD * d_TD
        d_weight_D = None
        if ctx.needs_input_grad[1]:
            d_weight_D = product_TD.flatten(0, -2).sum(0).to(weight_D.dtype)
        # What the gradient has along x changes only its length, which the norm takes away.
        wide_D = weight_D.float()
        along_T1 = (product_TD @ wide_D).unsqueeze(-1) / x_TD.shape[-1]
        d_TD.mul_(wide_D).sub_(normed_TD.mul_(along_T1)).mul_(scale_T1)
        return d_TD.to(x_TD.dtype), d_weight_D, None


class Rotate(torch.autograd.Function):
    """The gradient of a rotation is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
        ctx.save_for_backward(cos_TD, sin_TD)
        return _rotate(x_THD, cos_TD, sin_TD)

    @staticmethod
    def backward(ctx: Any, *d_out: Tensor) -> tuple[Tensor, None, None]:
        cos_TD, sin_TD = ctx.saved_tensors
        return _rotate(d_out[0], cos_TD, -sin_TD), None, None


def _rotate(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    cos_T1D = torch.cat((cos_TD, cos_TD), -1).unsqueeze(1)
    sin_T1D = torch.cat((-sin_TD, sin_TD), -1).unsqueeze(1)
    first, second = x_THD.chunk(2, -1)
    return (x_THD * cos_T1D).addcmul_(torch.cat((second, first), -1), sin_T1D)
