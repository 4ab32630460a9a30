"""Losses on the linear head, never holding all the logits: cross-entropy, log-probabilities.

Not here: which tokens are targets (`data.packing`), and what a sum is divided by (`gradient`: the
weight of the whole step, whichever micro-batch or process it is in).

    T tokens   N target tokens   C rows of one chunk   V vocabulary   D hidden size
    P rows of a piece of a chunk
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Logits of one chunk: enough rows for a fast matrix product, and little memory.
CHUNK_ELEMENTS = 2**24
# Of those the softmax takes this many at a time: in float32 they stay in the processor's cache.
PIECE_ELEMENTS = 2**19


class Mean(NamedTuple):
    """A mean in two parts, which add up over micro-batches and processes."""

    total: float
    weight: float


NO_METRICS: Mapping[str, Mean] = MappingProxyType({})


class LossSum(NamedTuple):
    """A loss summed over what it is about: target tokens (in nats), pairs, answers.

    Sums, not means: sums of micro-batches and of processes add up, and dividing once by the
    global weight counts every target token (or pair) of a step the same.

    Attributes:
        total: a scalar with a gradient.
        weight: what the step's total is divided by, this micro-batch's part of it.
        metrics: what else is worth telling, by name.
    """

    total: Tensor
    weight: float
    metrics: Mapping[str, Mean] = NO_METRICS


def linear_cross_entropy(
    hidden_TD: Tensor,
    head_VD: Tensor,
    positions_N: Tensor,
    targets_N: Tensor,
    *,
    z_loss: float = 0.0,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Tensor:
    """Sum over targets of -ln softmax(logits)[target] + z_loss (ln sum exp logits)^2, in nats.

    The logits of a target are hidden[position] @ head.T. The second term keeps their normalizer
    near one (Chowdhery et al., 2022, PaLM, section 5).

    Logits exist for `chunk_elements / V` targets at a time. Their gradient is formed while they
    are at hand, in the forward pass, so the backward pass only scales what was kept: an (N, D)
    tensor, and a (V, D) one if the head is trained.

    Args:
        hidden_TD: after the final norm; float64, float32 or bfloat16.
        head_VD: the head's weight, of the same dtype.
        positions_N: int64, where in T the hidden state that predicts each target is.
        targets_N: int64 token ids.
        chunk_elements: how many logits may exist at once (one row at least).

    >>> nats = linear_cross_entropy(hidden_TD, head_VD, positions_N, targets_N)
    >>> (nats / global_tokens).backward()
    """
    chosen_ND = hidden_TD.index_select(0, positions_N)
    nats: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        chosen_ND, head_VD, targets_N, z_loss, max(1, chunk_elements // len(head_VD))
    )
    return nats


def linear_logprobs(
    hidden_TD: Tensor,
    head_VD: Tensor,
    positions_N: Tensor,
    targets_N: Tensor,
    *,
    temperature: float = 1.0,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Tensor:
    """ln softmax(logits / temperature)[target] of each target, (N,) in float32 or better.

    For losses that weigh each token's gradient differently, which only their own backward pass
    knows: so the logits of a chunk are computed again there.
    """
    rows = max(1, chunk_elements // len(head_VD))
    parts = zip(torch.split(positions_N, rows), torch.split(targets_N, rows), strict=True)
    return torch.cat(
        [
            checkpoint(
                _logprobs, hidden_TD.index_select(0, place_C), head_VD, target_C, temperature,
                use_reentrant=False, preserve_rng_state=False,
            )
            for place_C, target_C in parts
        ]
    )  # fmt: skip


def _logprobs(hidden_CD: Tensor, head_VD: Tensor, target_C: Tensor, temperature: float) -> Tensor:
    wide = torch.promote_types(hidden_CD.dtype, torch.float32)
    logits_CV = (hidden_CD @ head_VD.T).to(wide) / temperature
    return logits_CV.gather(1, target_C[:, None])[:, 0] - logits_CV.logsumexp(1)


def softmax_loss(logits_PV: Tensor, target_P1: Tensor, z_loss: float) -> Tensor:
    """The sum of the loss; its gradient takes the place of the logits.

    In float32 although the products are bfloat16: exact sums, and one pass less than the
    library's logsumexp and softmax together.
    """
    shifted_PV = logits_PV.to(torch.promote_types(logits_PV.dtype, torch.float32), copy=True)
    highest_P1 = shifted_PV.amax(1, keepdim=True)
    shifted_PV -= highest_P1
    chosen_P1 = shifted_PV.gather(1, target_P1)
    weights_PV = shifted_PV.exp_()
    total_P1 = weights_PV.sum(1, keepdim=True)
    nats_P1 = total_P1.log() - chosen_P1
    d_logits_PV = weights_PV.div_(total_P1)
    if z_loss:
        log_z_P1 = total_P1.log() + highest_P1
        nats_P1 += z_loss * log_z_P1.square()
        d_logits_PV *= 1 + 2 * z_loss * log_z_P1
    d_logits_PV.scatter_add_(1, target_P1, -torch.ones_like(total_P1))
    logits_PV.copy_(d_logits_PV)
    return nats_P1.sum()


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, z_loss: float, rows: int
    ) -> Tensor:
        wide = torch.promote_types(hidden_ND.dtype, torch.float32)
        needs_hidden, needs_head, *_ = ctx.needs_input_grad
        nats = torch.zeros((), dtype=wide)
        d_hidden_ND = torch.empty_like(hidden_ND) if needs_hidden else None
        d_head_VD = torch.zeros_like(head_VD, dtype=wide) if needs_head else None
        for start in range(0, len(targets_N), rows):
            part = slice(start, start + rows)
            hidden_CD, target_C1 = hidden_ND[part], targets_N[part].unsqueeze(1)
            logits_CV = hidden_CD @ head_VD.T
            at_once = max(1, PIECE_ELEMENTS // len(head_VD))
            pieces = zip(
                torch.split(logits_CV, at_once), torch.split(target_C1, at_once), strict=True
            )
            for logits_PV, target_P1 in pieces:
                nats += softmax_loss(logits_PV, target_P1, z_loss)
            if d_hidden_ND is None and d_head_VD is None:
                continue
            d_logits_CV = logits_CV  # its place was taken
            if d_hidden_ND is not None:
                torch.mm(d_logits_CV, head_VD, out=d_hidden_ND[part])
            if d_head_VD is not None:
                d_head_VD += d_logits_CV.T @ hidden_CD
        ctx.save_for_backward(d_hidden_ND, d_head_VD)
        ctx.head_dtype = head_VD.dtype
        return nats

    @staticmethod
    def backward(ctx: Any, *d_nats: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = d_nats
        d_hidden_ND, d_head_VD = ctx.saved_tensors
        return (
            None if d_hidden_ND is None else d_hidden_ND * scale.to(d_hidden_ND.dtype),
            None if d_head_VD is None else (d_head_VD * scale).to(ctx.head_dtype),
            None,
            None,
            None,
        )
