"""Attention for training: packed documents in blocks of matrix products.

What `models.attention.PackedAttention` computes, computed another way. The library's fused CPU
kernel reaches a tenth of this machine's matmul speed at these sizes; plain batched products over
blocks of queries reach three times that (`benchmarks/train_step.py`), and documents of any length
pack without padding. Scores are rounded to the input's precision before the softmax, as in every
eager implementation; sums inside it are float32.

    T tokens   B queries of a block   S tokens that a block can see   H heads   K kv heads
    G heads per kv head   D head size
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Queries of a block: short documents waste less in small ones, long ones need fewer large ones.
SMALL_BLOCK, LARGE_BLOCK = 128, 256
# Above this the probabilities, which grow with the square, are computed again in the backward
# pass (a fifth more attention time) instead of being kept.
LONGEST_KEPT = 1024


class Span(NamedTuple):
    """Queries `begin:end` see tokens `first:end`, those from `masked_from` on through a mask."""

    begin: int
    end: int
    first: int
    masked_from: int
    mask_BS: Tensor  # 0 where a query sees the token, -inf where it does not


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


def _spans(lengths: Sequence[int], dtype: torch.dtype, window: int | None) -> list[Span]:
    ends = list(accumulate(lengths))
    starts = torch.tensor([0, *ends[:-1]])
    document_T = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    block = SMALL_BLOCK if max(lengths) <= LARGE_BLOCK else LARGE_BLOCK
    spans = []
    for begin in range(0, ends[-1], block):
        end = min(begin + block, ends[-1])
        # Rounded down, so that few different shapes occur: each costs the library some set-up.
        first = int(starts[document_T[begin]])
        if window is not None:
            first = max(first, begin - window + 1)
        first = first // SMALL_BLOCK * SMALL_BLOCK
        query_B1, token_S = torch.arange(begin, end)[:, None], torch.arange(first, end)
        visible_BS = (token_S <= query_B1) & (document_T[token_S] == document_T[query_B1])
        if window is not None:
            visible_BS &= query_B1 - token_S < window
        hidden = int((~visible_BS).any(0).to(torch.uint8).argmax())
        mask_BS = torch.zeros(visible_BS.shape, dtype=dtype).masked_fill_(~visible_BS, -torch.inf)
        spans.append(Span(begin, end, first, first + hidden, mask_BS[:, hidden:].contiguous()))
    return spans


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, spans: list[Span], keep: bool
    ) -> Tensor:
        heads, kv_heads = q_THD.shape[1], k_TKD.shape[1]
        q_HTD = _heads_first(q_THD * q_THD.shape[2] ** -0.5)
        k_HTD = _heads_first(k_TKD, heads // kv_heads)
        v_HTD = _heads_first(v_TKD, heads // kv_heads)
        mixed_HTD = q_HTD.new_empty(*q_HTD.shape[:2], v_HTD.shape[2])
        kept = []
        for span in spans:
            p_HBS = _probabilities(q_HTD, k_HTD, span)
            seen, asked = slice(span.first, span.end), slice(span.begin, span.end)
            mixed_HTD[:, asked] = torch.bmm(p_HBS, v_HTD[:, seen])
            if keep and any(ctx.needs_input_grad):
                kept.append(p_HBS)
        ctx.save_for_backward(q_HTD, k_HTD, v_HTD, *kept)
        ctx.spans, ctx.kv_heads = spans, kv_heads
        return mixed_HTD.transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, *d_mixed: Tensor) -> tuple[Tensor | None, ...]:
        q_HTD, k_HTD, v_HTD, *kept = ctx.saved_tensors
        d_mixed_HTD = _heads_first(d_mixed[0])
        d_q_HTD = torch.empty_like(q_HTD)
        d_k_HTD, d_v_HTD = torch.zeros_like(k_HTD), torch.zeros_like(v_HTD)
        for index, span in enumerate(ctx.spans):
            seen, asked = slice(span.first, span.end), slice(span.begin, span.end)
            p_HBS = kept[index] if kept else _probabilities(q_HTD, k_HTD, span)
            d_p_HBS = torch.bmm(d_mixed_HTD[:, asked], v_HTD[:, seen].mT)
            d_v_HTD[:, seen] += torch.bmm(p_HBS.mT, d_mixed_HTD[:, asked])
            d_s_HBS = torch._softmax_backward_data(d_p_HBS, p_HBS, -1, p_HBS.dtype)
            d_q_HTD[:, asked] = torch.bmm(d_s_HBS, k_HTD[:, seen])
            d_k_HTD[:, seen] += torch.bmm(d_s_HBS.mT, q_HTD[:, asked])
        d_q_HTD *= q_HTD.shape[2] ** -0.5
        d_k_TKD = _sum_groups(d_k_HTD, ctx.kv_heads)
        d_v_TKD = _sum_groups(d_v_HTD, ctx.kv_heads)
        return d_q_HTD.transpose(0, 1), d_k_TKD, d_v_TKD, None, None


def _probabilities(q_HTD: Tensor, k_HTD: Tensor, span: Span) -> Tensor:
    # `bmm` takes slices as they are; the `@` operator would copy them first.
    k_HDS = k_HTD[:, span.first : span.end].mT
    scores_HBS = torch.bmm(q_HTD[:, span.begin : span.end], k_HDS)
    scores_HBS[:, :, span.masked_from - span.first :] += span.mask_BS
    return scores_HBS.softmax(-1)


def _heads_first(x_TKD: Tensor, times: int = 1) -> Tensor:
    """(K * times, T, D), contiguous: each kv head repeated for its group of query heads."""
    x_KTD = x_TKD.transpose(0, 1)
    if times == 1:
        return x_KTD.contiguous()
    return x_KTD.repeat_interleave(times, dim=0)


def _sum_groups(x_HTD: Tensor, kv_heads: int) -> Tensor:
    """(T, K, D): the gradients of the heads that share a kv head, added."""
    if len(x_HTD) != kv_heads:
        x_HTD = x_HTD.view(kv_heads, -1, *x_HTD.shape[1:]).sum(1)
    return x_HTD.transpose(0, 1)
