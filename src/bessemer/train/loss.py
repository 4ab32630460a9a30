"""The loss: linear head and cross-entropy in one step, never holding all the logits.

Not here: which tokens are targets (see `packing`), and what the sum is divided by (see `loop`:
the number of target tokens of the whole step, whichever micro-batch or process they are in).

    T tokens   N target tokens   C rows of one chunk   V vocabulary   D hidden size
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

# Logits of one chunk: small enough for the processor's cache, large enough for its matmul.
CHUNK_ELEMENTS = 2**23


class LossSum(NamedTuple):
    """Sum over target tokens of -ln p(token), in nats, and how many tokens that is.

    Sums, not means: sums of micro-batches and of processes add up, and dividing once by the
    global count weighs every target token of a step the same.
    """

    nats: Tensor
    tokens: int


def linear_cross_entropy(
    hidden_TD: Tensor,
    head_VD: Tensor,
    positions_N: Tensor,
    targets_N: Tensor,
    *,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> LossSum:
    """Sum of -ln softmax(hidden[positions] @ head.T)[targets].

    Logits exist for `chunk_elements / V` targets at a time. Their gradient is formed while they
    are at hand, in the forward pass, so the backward pass only scales what was kept: an (N, D)
    tensor, and a (V, D) one if the head is trained.

    Args:
        hidden_TD: after the final norm; float64, float32 or bfloat16.
        head_VD: the head's weight, of the same dtype.
        positions_N: int64, where in T the hidden state that predicts each target is.
        targets_N: int64 token ids.
        chunk_elements: how many logits may exist at once (one row at least).

    >>> nats, tokens = linear_cross_entropy(hidden_TD, head_VD, positions_N, targets_N)
    >>> (nats / global_tokens).backward()
    """
    chosen_ND = hidden_TD.index_select(0, positions_N)
    nats: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        chosen_ND, head_VD, targets_N, max(1, chunk_elements // len(head_VD))
    )
    return LossSum(nats, len(targets_N))


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, rows: int
    ) -> Tensor:
        wide = torch.promote_types(hidden_ND.dtype, torch.float32)
        needs_hidden, needs_head, *_ = ctx.needs_input_grad
        nats = torch.zeros((), dtype=wide)
        d_hidden_ND = torch.empty_like(hidden_ND) if needs_hidden else None
        d_head_VD = torch.zeros_like(head_VD, dtype=wide) if needs_head else None
        for start in range(0, len(targets_N), rows):
            part = slice(start, start + rows)
            hidden_CD, targets_C1 = hidden_ND[part], targets_N[part].unsqueeze(1)
            # In float32 although the products are bfloat16: exact sums, and one pass less than
            # the library's logsumexp and softmax together.
            shifted_CV = (hidden_CD @ head_VD.T).to(wide)
            shifted_CV -= shifted_CV.amax(1, keepdim=True)
            chosen_C1 = shifted_CV.gather(1, targets_C1)
            weights_CV = shifted_CV.exp_()
            total_C1 = weights_CV.sum(1, keepdim=True)
            nats += (total_C1.log() - chosen_C1).sum()
            if d_hidden_ND is None and d_head_VD is None:
                continue
            d_logits_CV = weights_CV.div_(total_C1)
            d_logits_CV.scatter_add_(1, targets_C1, -torch.ones_like(total_C1))
            d_logits_CV = d_logits_CV.to(hidden_ND.dtype)
            if d_hidden_ND is not None:
                torch.mm(d_logits_CV, head_VD, out=d_hidden_ND[part])
            if d_head_VD is not None:
                d_head_VD += d_logits_CV.T @ hidden_CD
        ctx.save_for_backward(d_hidden_ND, d_head_VD)
        ctx.head_dtype = head_VD.dtype
        return nats

    @staticmethod
    def backward(ctx: Any, *d_nats: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (scale,) = d_nats
        d_hidden_ND, d_head_VD = ctx.saved_tensors
        return (
            None if d_hidden_ND is None else d_hidden_ND * scale.to(d_hidden_ND.dtype),
            None if d_head_VD is None else (d_head_VD * scale).to(ctx.head_dtype),
            None,
            None,
        )
