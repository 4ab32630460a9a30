"""Chains of small operations between the matrix products of a training step.

Each makes as few passes over memory as single operations can, with results in place where that
saves one. Compiling them is not worth its time; see `docs/logbook.md`.

T tokens   D hidden size, or the size of a head   F feed-forward size   H heads of one kind or all
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def normed(x_TD: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x / rms(x) * weight, and 1 / rms(x) in float32."""
    wide_TD = x_TD.to(torch.float32, copy=True)
    length_T1 = torch.linalg.vector_norm(wide_TD, dim=-1, keepdim=True)
    scale_T1 = (length_T1.square() / x_TD.shape[-1] + eps).rsqrt()
    return wide_TD.mul_(scale_T1).mul_(weight_D.float()).to(x_TD.dtype), scale_T1


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


def turned(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Rotary embedding, halves layout; `cos_TD` and `sin_TD` have half the head size."""
    cos_T1D = torch.cat((cos_TD, cos_TD), -1).unsqueeze(1)
    sin_T1D = torch.cat((-sin_TD, sin_TD), -1).unsqueeze(1)
    first, second = x_THD.chunk(2, -1)
    return (x_THD * cos_T1D).addcmul_(torch.cat((second, first), -1), sin_T1D)


def turned_heads(y_TO: Tensor, cos_TD: Tensor, sin_TD: Tensor, count: int) -> Tensor:
    """The first `count` of the heads that stand side by side in each row, turned: (T, count, D)."""
    heads_THD = y_TO.view(len(y_TO), -1, 2 * cos_TD.shape[1])[:, :count]
    turned_THD = torch.empty_like(heads_THD, memory_format=torch.contiguous_format)
    _turn_into(turned_THD, heads_THD, cos_TD, sin_TD)
    return turned_THD


def turned_heads_gradient(
    d_q_THD: Tensor, d_k_THD: Tensor, d_v_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor
) -> Tensor:
    """Side by side again, (T, O), queries and keys turned back."""
    queries, keys, values = (x_THD.shape[1] for x_THD in (d_q_THD, d_k_THD, d_v_THD))
    d_y_THD = d_q_THD.new_empty(len(d_q_THD), queries + keys + values, d_q_THD.shape[2])
    _turn_into(d_y_THD[:, :queries], d_q_THD, cos_TD, -sin_TD)
    _turn_into(d_y_THD[:, queries : queries + keys], d_k_THD, cos_TD, -sin_TD)
    d_y_THD[:, queries + keys :] = d_v_THD
    return d_y_THD.flatten(1)


def _turn_into(out_THD: Tensor, x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> None:
    """`turned` without exchanging the halves in memory first."""
    sin_T1D = sin_TD.unsqueeze(1)
    torch.mul(x_THD, torch.cat((cos_TD, cos_TD), -1).unsqueeze(1), out=out_THD)
    (first, second), (out_first, out_second) = x_THD.chunk(2, -1), out_THD.chunk(2, -1)
    out_first.addcmul_(second, sin_T1D, value=-1)
    out_second.addcmul_(first, sin_T1D)


def gated(both_TO: Tensor) -> Tensor:
    """silu(gate) * up, which stand side by side in each row: (T, F)."""
    gate_TF, up_TF = both_TO.chunk(2, -1)
    return F.silu(gate_TF).mul_(up_TF)


def gated_gradient(d_TF: Tensor, both_TO: Tensor) -> tuple[Tensor, Tensor]:
    """`gated` again, and the gradient of its input, (T, 2 F)."""
    gate_TF, up_TF = both_TO.chunk(2, -1)
    d_both_TO = torch.empty_like(both_TO)
    d_gate_TF, d_up_TF = d_both_TO.chunk(2, -1)
    silu_TF = F.silu(gate_TF)
    torch.mul(d_TF, silu_TF, out=d_up_TF)
    torch.ops.aten.silu_backward.grad_input(d_TF * up_TF, gate_TF, grad_input=d_gate_TF)
    return silu_TF.mul_(up_TF), d_both_TO
