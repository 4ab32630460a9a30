"""Chains of small operations between the matrix products of a training step.

Each is one `Chain`: called as it stands, or compiled into one pass over memory after `compile` was
called on it. That is a setting of the process, like its number of threads; see
`bessemer.train.compiling`. Written with results in place where that saves a pass when it is not.

T tokens   D hidden size, or the size of a head   F feed-forward size   H heads of one kind or all
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


class Chain(Generic[P, R]):
    """A function of tensors, compiled on request."""

    def __init__(self, written: Callable[P, R]) -> None:
        self.__doc__ = written.__doc__
        self._written = self._used = written

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._used(*args, **kwargs)

    def compile(self) -> None:
        """From the next call on, which takes some seconds, and for any shape."""
        self._used = torch.compile(self._written, dynamic=True)

    def restore(self) -> None:
        """Run as written again."""
        self._used = self._written


@Chain
def normed(x_TD: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x / rms(x) * weight, and 1 / rms(x) in float32."""
    wide_TD = x_TD.to(torch.float32, copy=True)
    length_T1 = torch.linalg.vector_norm(wide_TD, dim=-1, keepdim=True)
    scale_T1 = (length_T1.square() / x_TD.shape[-1] + eps).rsqrt()
    return wide_TD.mul_(scale_T1).mul_(weight_D.float()).to(x_TD.dtype), scale_T1


@Chain
def norm_gradient(
    d_out_TD: Tensor, x_TD: Tensor, weight_D: Tensor, scale_T1: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of `normed`'s input and weight."""
    normed_TD = x_TD.to(torch.float32, copy=True).mul_(scale_T1)
    d_TD = d_out_TD.to(torch.float32, copy=True)
    product_TD = normed_TD * d_TD
    d_weight_D = product_TD.flatten(0, -2).sum(0).to(weight_D.dtype)
    # What the gradient has along x changes only its length, which the norm takes away.
    wide_D = weight_D.float()
    along_T1 = (product_TD @ wide_D).unsqueeze(-1) / x_TD.shape[-1]
    d_TD.mul_(wide_D).sub_(normed_TD.mul_(along_T1)).mul_(scale_T1)
    return d_TD.to(x_TD.dtype), d_weight_D


@Chain
def turned(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Rotary embedding, halves layout; `cos_TD` and `sin_TD` have half the head size."""
    cos_T1D = torch.cat((cos_TD, cos_TD), -1).unsqueeze(1)
    sin_T1D = torch.cat((-sin_TD, sin_TD), -1).unsqueeze(1)
    first, second = x_THD.chunk(2, -1)
    return (x_THD * cos_T1D).addcmul_(torch.cat((second, first), -1), sin_T1D)


@Chain
def turned_heads(
    y_TO: Tensor, cos_TD: Tensor, sin_TD: Tensor, queries: int, keys: int, values: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values that stand side by side in each row, apart and heads first."""
    y_HTD = y_TO.view(len(y_TO), queries + keys + values, -1).transpose(0, 1)
    both_HTD = y_HTD[: queries + keys]
    cos_TD, sin_TD = torch.cat((cos_TD, cos_TD), -1), torch.cat((-sin_TD, sin_TD), -1)
    first, second = both_HTD.chunk(2, -1)
    turned_HTD = (both_HTD * cos_TD).addcmul_(torch.cat((second, first), -1), sin_TD)
    turned_HTD = turned_HTD.contiguous()
    return turned_HTD[:queries], turned_HTD[queries:], y_HTD[queries + keys :].contiguous()


@Chain
def turned_heads_gradient(
    d_q_HTD: Tensor, d_k_HTD: Tensor, d_v_HTD: Tensor, cos_TD: Tensor, sin_TD: Tensor
) -> Tensor:
    """Back to rows, (T, O): each head is turned back."""
    d_both_HTD = torch.cat((d_q_HTD, d_k_HTD))
    cos_TD, sin_TD = torch.cat((cos_TD, cos_TD), -1), torch.cat((sin_TD, -sin_TD), -1)
    first, second = d_both_HTD.chunk(2, -1)
    d_both_HTD = (d_both_HTD * cos_TD).addcmul_(torch.cat((second, first), -1), sin_TD)
    d_y_THD = torch.cat((d_both_HTD.transpose(0, 1), d_v_HTD.transpose(0, 1)), 1)
    return d_y_THD.flatten(1)


@Chain
def gated(both_TO: Tensor) -> Tensor:
    """silu(gate) * up, which stand side by side in each row: (T, F)."""
    gate_TF, up_TF = both_TO.chunk(2, -1)
    return F.silu(gate_TF).mul_(up_TF)


@Chain
def gated_gradient(d_TF: Tensor, both_TO: Tensor) -> tuple[Tensor, Tensor]:
    """`gated` again, and the gradient of its input, (T, 2 F)."""
    gate_TF, up_TF = both_TO.chunk(2, -1)
    silu_TF = F.silu(gate_TF)
    d_gate_TF = torch.ops.aten.silu_backward(d_TF * up_TF, gate_TF)
    return silu_TF * up_TF, torch.cat((d_gate_TF, d_TF * silu_TF), -1)


CHAINS = (normed, norm_gradient, turned, turned_heads, turned_heads_gradient, gated, gated_gradient)
