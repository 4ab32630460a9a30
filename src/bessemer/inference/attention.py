"""Attention over the KV cache for one step's mix of decoding and prefilling sequences.

Decoding sequences are one batched product over their rows, read in place; each prefilling
sequence is one product over its own row. A decoding sequence may bring proposed tokens along; all
rows are then as wide as the widest.

    T tokens   R rows   W tokens of a decoding row   C tokens of a chunk   L places looked at
    H heads    K kv heads   M = H / K heads that share one   E head size   G = H + 2K
    S places of a row   B = R K matrices   N = W M queries of one   2: keys, then values
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bessemer.inference.cache import KVCache
from bessemer.models.config import ModelConfig

BLOCK = 64  # queries of a chunk at a time
MANY_ROWS = 6  # from so many on, products of all rows beat torch's fused attention (logbook)


class Span(NamedTuple):
    """`fresh` new tokens of the sequence in row `row`, after `past` computed ones."""

    row: int
    past: int
    fresh: int


class BatchAttention:
    """An `AttendFused` for one step.

    Args:
        decodes: spans of few tokens, sorted by row; their tokens come first among the T.
        chunks: prefill spans; their tokens follow in this order.
    """

    def __init__(
        self,
        config: ModelConfig,
        cache: KVCache,
        decodes: Sequence[Span],
        chunks: Sequence[Span],
        dtype: torch.dtype,
    ) -> None:
        self._heads, self._kv_heads = config.heads, config.kv_heads
        self._cache = cache
        self._chunks = chunks
        self._decodes = sum(span.fresh for span in decodes)
        self._places = places((*decodes, *chunks), cache)
        if decodes:
            self._first = decodes[0].row
            self._rows = decodes[-1].row - self._first + 1
            self._width = max(span.fresh for span in decodes)
            self._longest = max(span.past + span.fresh for span in decodes)
            self._fused = self._rows < MANY_ROWS or not _is_slow(dtype, cache.device)
            if not self._fused:
                self._longest = _rounded(self._longest, cache)
            slots = [
                (s.row - self._first) * self._width + i for s in decodes for i in range(s.fresh)
            ]
            self._slots = torch.tensor(slots, device=cache.device)
            self._gaps = self._rows * self._width != self._decodes
            shared = self._heads // self._kv_heads
            mask = _decode_mask(decodes, self._rows, self._width, self._longest, shared, dtype)
            self._mask = None if mask is None else mask.to(cache.device)

    def __call__(self, layer: int, qkv_TGE: Tensor) -> Tensor:
        cache_2RKSE = self._cache.layers_2RKSE[layer]
        fresh = qkv_TGE[:, self._heads :].reshape(-1, qkv_TGE.shape[-1])
        cache_2RKSE.view(-1, fresh.shape[-1]).index_copy_(0, self._places, fresh)
        q_THE = qkv_TGE[:, : self._heads]
        parts = [self._decode(cache_2RKSE, q_THE[: self._decodes])] if self._decodes else []
        start = self._decodes
        for span in self._chunks:
            parts.append(self._prefill(cache_2RKSE, q_THE[start : start + span.fresh], span))
            start += span.fresh
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _decode(self, cache_2RKSE: Tensor, q_THE: Tensor) -> Tensor:
        """The heads that share a key-value head stand in for the query length, so that each
        key is read once for all of them, and for all tokens of a row."""
        rows_2RKLE = cache_2RKSE[:, self._first : self._first + self._rows, :, : self._longest]
        queries = q_THE
        if self._gaps:
            queries = q_THE.new_zeros(self._rows * self._width, *q_THE.shape[1:]).index_copy_(
                0, self._slots, q_THE
            )
        queries = queries.view(self._rows, self._width, self._kv_heads, -1, q_THE.shape[-1])
        q_RKNE = queries.transpose(1, 2).flatten(2, 3)
        k_RKLE, v_RKLE = rows_2RKLE.unbind(0)
        if self._fused:
            mixed = F.scaled_dot_product_attention(q_RKNE, k_RKLE, v_RKLE, attn_mask=self._mask)
        else:
            mixed = _by_products(q_RKNE, k_RKLE, v_RKLE, self._mask)
        mixed = mixed.view(self._rows, self._kv_heads, self._width, -1, mixed.shape[-1])
        mixed = mixed.transpose(1, 2).flatten(0, 1).flatten(1, 2)
        return mixed[self._slots] if self._gaps else mixed

    def _prefill(self, cache_2RKSE: Tensor, q_CHE: Tensor, span: Span) -> Tensor:
        end = span.past + span.fresh
        if span.fresh >= BLOCK // 2 and _is_slow(q_CHE.dtype, q_CHE.device):
            k_KLE, v_KLE = cache_2RKSE[:, span.row, :, : _rounded(end, self._cache)].unbind(0)
            return _in_blocks(q_CHE, k_KLE, v_KLE, span.past)
        k_KLE, v_KLE = cache_2RKSE[:, span.row, :, :end].unbind(0)
        mixed = F.scaled_dot_product_attention(
            q_CHE.transpose(0, 1)[None],
            k_KLE[None],
            v_KLE[None],
            attn_mask=_chunk_mask(span, q_CHE) if span.past else None,
            is_causal=span.past == 0,
            enable_gqa=self._heads != self._kv_heads,
        )
        return mixed[0].transpose(0, 1)


def _is_slow(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether torch's fused kernel takes longer than products do, as on processors in bf16."""
    return dtype == torch.bfloat16 and device.type == "cpu"


def _rounded(length: int, cache: KVCache) -> int:
    """To whole blocks: oneDNN compiles, and keeps, a program for every shape of a product, so
    shapes that grow with each token cost more than the places that nobody looks at (logbook)."""
    return min(-(-length // BLOCK) * BLOCK, cache.context_length)


def _in_blocks(q_CHE: Tensor, k_KLE: Tensor, v_KLE: Tensor, past: int) -> Tensor:
    """A chunk's causal attention, a block of queries at a time over the places that they see.

    In bf16 it takes half of the time of torch's fused kernel, as it does in training. The last
    block is filled up with queries whose result is dropped.
    """
    tokens, heads, width = q_CHE.shape
    blocks = -(-tokens // BLOCK)
    q_CHE = F.pad(q_CHE * width**-0.5, (0, 0, 0, 0, 0, blocks * BLOCK - tokens))
    q_KMCE = q_CHE.view(len(q_CHE), len(k_KLE), -1, width).permute(1, 2, 0, 3)
    # Behind a query: the rest of its block, and what makes the places a whole number of blocks.
    hidden_CC = torch.ones(BLOCK, 2 * BLOCK, dtype=torch.bool).triu(1)
    mixed_HCE = q_CHE.new_empty(heads, len(q_CHE), width)
    for start in range(0, len(q_CHE), BLOCK):
        end, first = start + BLOCK, past + start
        seen = min(-(-(first + BLOCK) // BLOCK) * BLOCK, k_KLE.shape[1])
        scores_KNL = torch.bmm(q_KMCE[:, :, start:end].flatten(1, 2), k_KLE[:, :seen].mT)
        scores_HCL = scores_KNL.view(heads, BLOCK, seen)
        scores_HCL[:, :, first:].masked_fill_(hidden_CC[:, : seen - first], float("-inf"))
        weights_KNL = torch.softmax(scores_HCL, -1).view(scores_KNL.shape)
        mixed_HCE[:, start:end] = torch.bmm(weights_KNL, v_KLE[:, :seen]).view(heads, BLOCK, width)
    return mixed_HCE[:, :tokens].transpose(0, 1)


def _by_products(q_RKNE: Tensor, k_RKLE: Tensor, v_RKLE: Tensor, mask: Tensor | None) -> Tensor:
    """Attention as two batched products. For a few queries of many rows in bf16 it takes about
    half of the time of torch's fused kernel, which is made for many queries of one; the first
    product has keys first, which oneDNN does twice as fast."""
    rows, heads, queries, width = q_RKNE.shape
    q_BEN = q_RKNE.reshape(-1, queries, width).transpose(1, 2)
    scores_BLN = torch.bmm(k_RKLE.flatten(0, 1), q_BEN)
    scores_RKNL = scores_BLN.transpose(1, 2).contiguous().view(rows, heads, queries, -1)
    scores_RKNL.mul_(width**-0.5)
    if mask is not None:
        scores_RKNL.add_(mask)
    weights_BNL = torch.softmax(scores_RKNL, -1).flatten(0, 1)
    return torch.bmm(weights_BNL, v_RKLE.flatten(0, 1)).view(q_RKNE.shape)


def places(spans: Sequence[Span], cache: KVCache) -> Tensor:
    """Where the fresh tokens' keys and values go, in a layer seen as one list of places:
    (T 2K,), all heads of a token one after another."""
    halves, rows, heads, size, _ = cache.layers_2RKSE[0].shape
    first_T = torch.tensor(
        [s.row * heads * size + s.past + i for s in spans for i in range(s.fresh)]
    )
    part_2K = torch.arange(halves)[:, None] * rows * heads * size + torch.arange(heads) * size
    return (first_T[:, None] + part_2K.flatten()).flatten().to(cache.device)


def _decode_mask(
    decodes: Sequence[Span], rows: int, width: int, longest: int, shared: int, dtype: torch.dtype
) -> Tensor | None:
    """(R, 1, WM, L): zero where a token may look, minus infinity beyond itself."""
    if width == 1 and rows == len(decodes) and min(s.past for s in decodes) + 1 == longest:
        return None
    seen_RW = torch.ones(rows, width, dtype=torch.long)  # what nobody reads looks at one place
    for span in decodes:
        ends = torch.arange(span.past + 1, span.past + span.fresh + 1)
        seen_RW[span.row - decodes[0].row, : span.fresh] = ends
    hidden_RWL = torch.arange(longest) >= seen_RW[:, :, None]
    mask_RWL = torch.zeros(hidden_RWL.shape, dtype=dtype).masked_fill_(hidden_RWL, float("-inf"))
    if width == 1:
        return mask_RWL[:, None]
    return mask_RWL.repeat_interleave(shared, 1)[:, None]


def _chunk_mask(span: Span, like: Tensor) -> Tensor:
    """(C, L): causal, with the chunk at the end of the row."""
    shape = (span.fresh, span.past + span.fresh)
    hidden_CL = torch.ones(shape, dtype=torch.bool, device=like.device).triu(span.past + 1)
    return like.new_zeros(shape).masked_fill_(hidden_CL, float("-inf"))
