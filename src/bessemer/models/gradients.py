"""Parts of the network with their gradients written out, for training on a CPU.

The same functions as in `functions`, which hands over to these when a gradient is wanted. Composed
of single operations they walk through memory about twice as often, forward and backward; and
matrices that share an input are multiplied as one, which fills the processor better.

What stands between the matrix products is in `chains`.

T tokens   D hidden size, or the size of a head   F feed-forward size   H heads of one kind or all
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bessemer.models import chains


class RmsNorm(torch.autograd.Function):
    """x / rms(x) * weight, with the statistics in float32."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        normed_TD, scale_T1 = chains.normed(x_TD, weight_D, eps)
        ctx.save_for_backward(x_TD, weight_D, scale_T1)
        return normed_TD

    @staticmethod
    def backward(ctx: Any, *d_out: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x_TD, weight_D, scale_T1 = ctx.saved_tensors
        d_x_TD, d_weight_D = chains.norm_gradient(d_out[0], x_TD, weight_D, scale_T1)
        return d_x_TD, d_weight_D if ctx.needs_input_grad[1] else None, None


class Rotate(torch.autograd.Function):
    """The gradient of a rotation is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
        ctx.save_for_backward(cos_TD, sin_TD)
        return chains.turned(x_THD, cos_TD, sin_TD)

    @staticmethod
    def backward(ctx: Any, *d_out: Tensor) -> tuple[Tensor, None, None]:
        cos_TD, sin_TD = ctx.saved_tensors
        return chains.turned(d_out[0], cos_TD, -sin_TD), None, None


class Heads(torch.autograd.Function):
    """Queries, keys and values of one input, (T, H, D) each, the first two rotated."""

    @staticmethod
    def forward(
        ctx: Any, x_TD: Tensor, cos_TD: Tensor, sin_TD: Tensor, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        size = 2 * cos_TD.shape[1]
        counts = [len(weight) // size for weight in weights]
        w_OD = torch.cat(weights)
        ctx.save_for_backward(x_TD, cos_TD, sin_TD, w_OD)
        ctx.counts = counts
        queries, keys, _values = counts
        y_TO = x_TD @ w_OD.T
        both_THD = chains.turned_heads(y_TO, cos_TD, sin_TD, queries + keys)
        v_THD = y_TO.view(len(y_TO), -1, size)[:, queries + keys :]
        return both_THD[:, :queries], both_THD[:, queries:], v_THD

    @staticmethod
    def backward(ctx: Any, *d_heads: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, cos_TD, sin_TD, w_OD = ctx.saved_tensors
        d_q_THD, d_k_THD, d_v_THD = d_heads
        d_y_TO = chains.turned_heads_gradient(d_q_THD, d_k_THD, d_v_THD, cos_TD, sin_TD)
        size = 2 * cos_TD.shape[1]
        d_x_TD = d_y_TO @ w_OD if ctx.needs_input_grad[0] else None
        return (
            d_x_TD,
            None,
            None,
            *_of_weights(ctx, 3, d_y_TO, x_TD, [size * n for n in ctx.counts]),
        )


class SwiGlu(torch.autograd.Function):
    """down(silu(gate(x)) * up(x)); what is multiplied by `down` is computed again going back."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, down_DF: Tensor, gate_FD: Tensor, up_FD: Tensor) -> Tensor:
        w_OD = torch.cat((gate_FD, up_FD))
        both_TO = x_TD @ w_OD.T
        ctx.save_for_backward(x_TD, down_DF, w_OD, both_TO)
        return chains.gated(both_TO) @ down_DF.T

    @staticmethod
    def backward(ctx: Any, *d_out: Tensor) -> tuple[Tensor | None, ...]:
        (d_y_TD,) = d_out
        x_TD, down_DF, w_OD, both_TO = ctx.saved_tensors
        inner_TF, d_both_TO = chains.gated_gradient(d_y_TD @ down_DF, both_TO)
        d_down_DF = d_y_TD.T @ inner_TF if ctx.needs_input_grad[1] else None
        d_x_TD = d_both_TO @ w_OD if ctx.needs_input_grad[0] else None
        sizes = [len(w_OD) // 2] * 2
        return d_x_TD, d_down_DF, *_of_weights(ctx, 2, d_both_TO, x_TD, sizes)


def _of_weights(
    ctx: Any, first: int, d_y_TO: Tensor, x_TD: Tensor, sizes: list[int]
) -> list[Tensor | None]:
    """The gradients of matrices that were multiplied as one."""
    wanted = ctx.needs_input_grad[first:]
    if not any(wanted):
        return [None] * len(sizes)
    parts = torch.split(d_y_TO.T @ x_TD, sizes)
    return [part if want else None for part, want in zip(parts, wanted, strict=True)]
