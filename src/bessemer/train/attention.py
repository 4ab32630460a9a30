"""Attention for training: packed documents in blocks of matrix products.

What `models.attention.PackedAttention` computes, computed another way. The library's fused CPU
kernel reaches a tenth of this machine's matmul speed at these sizes; plain batched products over
blocks of queries reach four times that (`benchmarks/train_step.py`). The tokens are cut into equal
segments at ends of documents (the rows of a batch, as a rule), and the same block of every segment
and every head goes into one product; what lies above the diagonal or before a block's first
document is not computed. Scores are rounded to the input's precision before the softmax, as in
every eager implementation; sums inside it are float32.

    T tokens   N segments   L tokens of a segment   B queries of a block
    S tokens that a block can see   H heads   K kv heads   G heads per kv head
    D head size   C pairs of segment and kv head   Q queries of a block, of G heads
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

BLOCK = 128
# Above this the probabilities, which grow with the square, are computed again in the backward
# pass (a fifth more attention time) instead of being kept.
LONGEST_KEPT = 1024


class Span(NamedTuple):
    """Queries `begin:end` of each segment see tokens `first:end`, some through a mask."""

    begin: int
    end: int
    first: int
    masked_from: int
    mask_N1BS: Tensor  # from there on: 0 where a query sees the token, -inf where not; N may be 1


class BlockAttention:
    """An `Attend` for T tokens that are documents of these lengths, causal within each.

    Args:
        lengths: tokens of each document, in the order in which they stand in the T tokens.
        dtype: of queries, keys and values.
        windows: of each layer, how many tokens back it sees, itself counted; None for all.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        dtype: torch.dtype,
        windows: Sequence[int | None] | None = None,
    ) -> None:
        assert lengths and all(length > 0 for length in lengths), lengths
        self.lengths = lengths
        self._windows = windows
        self._spans = {w: _spans(lengths, dtype, w) for w in set(windows or (None,))}
        self._keep = max(lengths) <= LONGEST_KEPT

    def __call__(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> Tensor:
        spans = self._spans[self._windows[layer] if self._windows else None]
        mixed: Tensor = _BlockAttention.apply(q_THD, k_TKD, v_TKD, spans, self._keep)  # type: ignore[no-untyped-call]
        return mixed


def segment_length(lengths: Sequence[int]) -> int:
    """The shortest length that cuts the tokens into equal parts without cutting a document.

    >>> segment_length([512, 100, 412, 512]), segment_length([512, 100, 412])
    (512, 512)
    >>> segment_length([512, 100])
    612
    """
    ends = list(accumulate(lengths))
    for parts in range(len(lengths), 1, -1):
        length, left = divmod(ends[-1], parts)
        if not left and set(ends).issuperset(range(length, ends[-1], length)):
            return length
    return ends[-1]


def _spans(lengths: Sequence[int], dtype: torch.dtype, window: int | None) -> list[Span]:
    length, tokens = segment_length(lengths), sum(lengths)
    starts = torch.tensor([0, *accumulate(lengths)][:-1])
    start_NL = torch.repeat_interleave(starts, torch.tensor(lengths)).view(-1, length)
    start_NL -= torch.arange(0, tokens, length)[:, None]
    spans = []
    for begin in range(0, length, BLOCK):
        end = min(begin + BLOCK, length)
        # Rounded down, so that few different shapes occur: each costs the library some set-up.
        first = int(start_NL[:, begin].min())
        if window is not None:
            first = max(first, begin - window + 1)
        first = first // BLOCK * BLOCK
        query_B1, token_S = torch.arange(begin, end)[:, None], torch.arange(first, end)
        visible_NBS = (token_S <= query_B1) & (token_S >= start_NL[:, begin:end, None])
        if window is not None:
            visible_NBS &= query_B1 - token_S < window
        if (visible_NBS == visible_NBS[:1]).all():
            visible_NBS = visible_NBS[:1]
        hidden = int((~visible_NBS).any(1).any(0).to(torch.uint8).argmax())
        mask_NBS = torch.zeros(visible_NBS.shape, dtype=dtype).masked_fill_(
            ~visible_NBS, -torch.inf
        )
        mask_N1BS = mask_NBS[:, None, :, hidden:].contiguous()
        spans.append(Span(begin, end, first, first + hidden, mask_N1BS))
    return spans


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, spans: list[Span], keep: bool
    ) -> Tensor:
        length, kv_heads = spans[-1].end, k_TKD.shape[1]
        q_NLKGD = _split(q_THD, length, kv_heads)
        k_NLKD, v_NLKD = (x_TKD.view(-1, length, *x_TKD.shape[1:]) for x_TKD in (k_TKD, v_TKD))
        mixed_NLKGD = q_THD.new_empty(*q_NLKGD.shape[:4], v_TKD.shape[2])
        kept = []
        for span in spans:
            seen, asked = slice(span.first, span.end), slice(span.begin, span.end)
            p_CQS = _probabilities(_queries(q_NLKGD[:, asked]), _keys(k_NLKD[:, seen]), span)
            mixed_CQD = torch.bmm(p_CQS, _keys(v_NLKD[:, seen]))
            _put_queries(mixed_NLKGD[:, asked], mixed_CQD)
            if keep and any(ctx.needs_input_grad):
                kept.append(p_CQS)
        ctx.save_for_backward(q_NLKGD, k_NLKD, v_NLKD, *kept)
        ctx.spans = spans
        return mixed_NLKGD.flatten(2, 3).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *d_mixed: Tensor) -> tuple[Tensor | None, ...]:
        q_NLKGD, k_NLKD, v_NLKD, *kept = ctx.saved_tensors
        kv_heads, scale = k_NLKD.shape[2], k_NLKD.shape[3] ** -0.5
        d_mixed_NLKGD = _split(d_mixed[0], q_NLKGD.shape[1], kv_heads)
        d_q_NLKGD = q_NLKGD.new_empty(q_NLKGD.shape)
        d_k_CLD, d_v_CLD = torch.zeros_like(_keys(k_NLKD)), torch.zeros_like(_keys(v_NLKD))
        for index, span in enumerate(ctx.spans):
            seen, asked = slice(span.first, span.end), slice(span.begin, span.end)
            q_CQD, d_mixed_CQD = _queries(q_NLKGD[:, asked]), _queries(d_mixed_NLKGD[:, asked])
            k_CSD, v_CSD = _keys(k_NLKD[:, seen]), _keys(v_NLKD[:, seen])
            p_CQS = kept[index] if kept else _probabilities(q_CQD, k_CSD, span)
            d_p_CQS = torch.bmm(d_mixed_CQD, v_CSD.mT)
            d_v_CLD[:, seen] += torch.bmm(p_CQS.mT, d_mixed_CQD)
            d_s_CQS = torch._softmax_backward_data(d_p_CQS, p_CQS, -1, p_CQS.dtype)
            _put_queries(d_q_NLKGD[:, asked], _scaled(d_s_CQS, k_CSD, scale))
            d_k_CLD[:, seen] += _scaled(d_s_CQS.mT, q_CQD, scale)
        d_q_THD = d_q_NLKGD.flatten(2, 3).flatten(0, 1)
        return (
            d_q_THD,
            _tokens_first(d_k_CLD, kv_heads),
            _tokens_first(d_v_CLD, kv_heads),
            None,
            None,
        )


def _split(x_THD: Tensor, length: int, kv_heads: int) -> Tensor:
    """(N, L, K, G, D), where it is."""
    tokens, heads, size = x_THD.shape
    return x_THD.view(tokens // length, length, kv_heads, heads // kv_heads, size)


def _probabilities(q_CQD: Tensor, k_CSD: Tensor, span: Span) -> Tensor:
    scores_CQS = _scaled(q_CQD, k_CSD.mT, k_CSD.shape[2] ** -0.5)
    # (N, H, B, S): the mask is the same for all heads.
    shape = (len(span.mask_N1BS), -1, span.end - span.begin, k_CSD.shape[1])
    scores_NHBS = scores_CQS.view(shape)
    scores_NHBS[..., span.masked_from - span.first :] += span.mask_N1BS
    return scores_CQS.softmax(-1)


def _scaled(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """left @ right * scale, the factor applied where the sums still are float32."""
    return torch.baddbmm(left.new_empty(()), left, right, beta=0, alpha=scale)


# `bmm` copies an operand that is neither contiguous nor the transpose of one that is, and slowly
# if it is a transpose; so blocks are made contiguous here.
def _queries(x_NBKGD: Tensor) -> Tensor:
    """(N * K, G * B, D): the heads that share a kv head, one after another."""
    return x_NBKGD.permute(0, 2, 3, 1, 4).flatten(0, 1).flatten(1, 2).contiguous()


def _put_queries(out_NBKGD: Tensor, x_CQD: Tensor) -> None:
    segments, size, kv_heads, groups, _ = out_NBKGD.shape
    x_NKGBD = x_CQD.view(segments, kv_heads, groups, size, -1)
    out_NBKGD.copy_(x_NKGBD.permute(0, 3, 1, 2, 4))


def _keys(x_NSKD: Tensor) -> Tensor:
    """(N * K, S, D)."""
    return x_NSKD.transpose(1, 2).flatten(0, 1).contiguous()


def _tokens_first(x_CLD: Tensor, kv_heads: int) -> Tensor:
    """(T, K, D)."""
    x_NKLD = x_CLD.view(-1, kv_heads, *x_CLD.shape[1:])
    return x_NKLD.transpose(1, 2).flatten(0, 1)
