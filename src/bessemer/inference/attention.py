"""Attention over the KV cache for one step's mix of decoding and prefilling sequences.

Decoding sequences are one batched product over their rows, read in place; each prefilling
sequence is one product over its own row.

    T tokens   R rows   C tokens of a chunk   L places looked at
    H heads    K kv heads   E head size   G = H + 2K
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bessemer.inference.cache import KVCache
from bessemer.models.config import ModelConfig


class Span(NamedTuple):
    """`fresh` new tokens of the sequence in row `row`, after `past` computed ones."""

    row: int
    past: int
    fresh: int


class BatchAttention:
    """An `AttendFused` for one step.

    Args:
        decodes: spans of one token, sorted by row; their tokens come first among the T.
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
        self._decodes = len(decodes)
        size = cache.context_length
        self._places_T = torch.tensor(
            [s.row * size + s.past + i for s in (*decodes, *chunks) for i in range(s.fresh)]
        )
        if decodes:
            self._first, last = decodes[0].row, decodes[-1].row
            rows, lengths = last - self._first + 1, [s.past + 1 for s in decodes]
            self._longest = max(lengths)
            self._slots = torch.tensor([s.row - self._first for s in decodes])
            self._gaps = rows != len(decodes)
            self._rows = rows
            self._mask = _decode_mask(rows, self._slots.tolist(), lengths, dtype)

    def __call__(self, layer: int, qkv_TGE: Tensor) -> Tensor:
        cache_RSGE = self._cache.layers_RSGE[layer]
        cache_RSGE.view(-1, *cache_RSGE.shape[2:]).index_copy_(
            0, self._places_T, qkv_TGE[:, self._heads :]
        )
        q_THE = qkv_TGE[:, : self._heads]
        parts = [self._decode(cache_RSGE, q_THE[: self._decodes])] if self._decodes else []
        start = self._decodes
        for span in self._chunks:
            parts.append(self._prefill(cache_RSGE, q_THE[start : start + span.fresh], span))
            start += span.fresh
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _decode(self, cache_RSGE: Tensor, q_RHE: Tensor) -> Tensor:
        """The heads that share a key-value head stand in for the query length, so that each
        key is read once for all of them."""
        keys = cache_RSGE[self._first : self._first + self._rows, : self._longest]
        queries = q_RHE.view(len(q_RHE), self._kv_heads, -1, q_RHE.shape[-1])
        if self._gaps:
            queries = queries.new_zeros(self._rows, *queries.shape[1:]).index_copy_(
                0, self._slots, queries
            )
        mixed = F.scaled_dot_product_attention(
            queries,
            keys[:, :, : self._kv_heads].transpose(1, 2),
            keys[:, :, self._kv_heads :].transpose(1, 2),
            attn_mask=self._mask,
        )
        if self._gaps:
            mixed = mixed[self._slots]
        return mixed.flatten(1, 2)

    def _prefill(self, cache_RSGE: Tensor, q_CHE: Tensor, span: Span) -> Tensor:
        kv_LGE = cache_RSGE[span.row, : span.past + span.fresh]
        mixed = F.scaled_dot_product_attention(
            q_CHE.transpose(0, 1)[None],
            kv_LGE[:, : self._kv_heads].transpose(0, 1)[None],
            kv_LGE[:, self._kv_heads :].transpose(0, 1)[None],
            attn_mask=_chunk_mask(span, q_CHE.dtype) if span.past else None,
            is_causal=span.past == 0,
            enable_gqa=self._heads != self._kv_heads,
        )
        return mixed[0].transpose(0, 1)


def _decode_mask(
    rows: int, slots: Sequence[int], lengths: Sequence[int], dtype: torch.dtype
) -> Tensor | None:
    """(R, 1, 1, L): zero where a row may look, minus infinity beyond its length."""
    longest = max(lengths)
    if rows == len(lengths) and min(lengths) == longest:
        return None
    length_R = torch.ones(rows, dtype=torch.long)  # an idle row looks at one place, unread
    length_R[list(slots)] = torch.tensor(lengths)
    hidden_RL = torch.arange(longest) >= length_R[:, None]
    mask_RL = torch.zeros(rows, longest, dtype=dtype).masked_fill_(hidden_RL, float("-inf"))
    return mask_RL[:, None, None, :]


def _chunk_mask(span: Span, dtype: torch.dtype) -> Tensor:
    """(C, L): causal, with the chunk at the end of the row."""
    hidden_CL = torch.ones(span.fresh, span.past + span.fresh, dtype=torch.bool).triu(span.past + 1)
    return torch.zeros(hidden_CL.shape, dtype=dtype).masked_fill_(hidden_CL, float("-inf"))
