"""Decoding in shapes that repeat: one token for each of the first rows, whoever is in them.

The number of rows and the length they look back are rounded up to a few sizes, so that a step's
kernels can be recorded once for each pair of sizes and replayed (`graphs`). Slot b of a step is
row b of the cache, read in place. A row in between that does not decode comes along: it computes
something nobody reads, and writes it to the place that its own next token will overwrite.

    B rows of a bucket   L places looked at   R rows   S context length   V vocabulary
    H heads   K kv heads   M = H / K   E head size   G = H + 2K
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bessemer.inference.cache import KVCache
from bessemer.inference.graphs import Graph
from bessemer.inference.prepared import PreparedDecoder

SHORTEST = 256


class Bucket(NamedTuple):
    rows: int
    length: int


class _Recorded(NamedTuple):
    graph: Graph
    logits_BV: Tensor


class BucketedDecoder:
    """Decodes for the first rows of `cache`; records each bucket when it is first needed."""

    def __init__(
        self, model: PreparedDecoder, cache: KVCache, make_graph: Callable[[], Graph]
    ) -> None:
        self._model, self._cache, self._make_graph = model, cache, make_graph
        self._inputs_R2 = torch.zeros(len(cache.rows), 2, dtype=torch.long, device=cache.device)
        self.recorded: dict[Bucket, _Recorded] = {}

    def run(self, ids: Sequence[int], positions: Sequence[int]) -> Tensor:
        """(rows, V): scores after these tokens. Overwritten by the next call.

        Args:
            ids, positions: the token and its place, for each of the first rows.
        """
        bucket = self.bucket(len(ids), max(positions) + 1)
        spare = [(0, min(row.computed, self._cache.context_length - 1)) for row in self._cache.rows]
        given = [*zip(ids, positions, strict=True), *spare[len(ids) : bucket.rows]]
        self._inputs_R2[: bucket.rows].copy_(torch.tensor(given), non_blocking=True)
        if bucket not in self.recorded:
            graph = self._make_graph()
            self.recorded[bucket] = _Recorded(graph, graph.capture(lambda: self._work(bucket)))
        recorded = self.recorded[bucket]
        recorded.graph.replay()
        return recorded.logits_BV[: len(ids)]

    def bucket(self, rows: int, length: int) -> Bucket:
        """The smallest that holds both; sizes double."""
        wide, long = 1, SHORTEST
        while wide < rows:
            wide *= 2
        while long < length:
            long *= 2
        return Bucket(min(wide, len(self._cache.rows)), min(long, self._cache.context_length))

    def _work(self, bucket: Bucket) -> Tensor:
        ids_B, positions_B = self._inputs_R2[: bucket.rows].unbind(1)
        attend = RowAttention(self._model, self._cache, positions_B, bucket.length)
        hidden_BD = self._model.forward(ids_B, positions_B, attend)
        return self._model.logits(hidden_BD)


class RowAttention:
    """An `AttendFused` in which token b belongs to row b and looks back over `length` places."""

    def __init__(
        self, model: PreparedDecoder, cache: KVCache, positions_B: Tensor, length: int
    ) -> None:
        self._heads, self._kv_heads = model.config.heads, model.config.kv_heads
        self._cache, self._length = cache, length
        self._slots_B = torch.arange(len(positions_B), device=positions_B.device)
        self._positions_B = positions_B
        places_L = torch.arange(length, device=positions_B.device)
        self._seen_B11L = (places_L <= positions_B[:, None])[:, None, None, :]

    def __call__(self, layer: int, qkv_BGE: Tensor) -> Tensor:
        cache_2RKSE = self._cache.layers_2RKSE[layer]
        rows, _, size = qkv_BGE.shape
        fresh_B2KE = qkv_BGE[:, self._heads :].reshape(rows, 2, self._kv_heads, size)
        cache_2RKSE[:, self._slots_B, :, self._positions_B] = fresh_B2KE
        k_BKLE, v_BKLE = cache_2RKSE[:, :rows, :, : self._length].unbind(0)
        # The heads that share a key-value head stand in for the query length.
        q_BKME = qkv_BGE[:, : self._heads].reshape(rows, self._kv_heads, -1, size)
        mixed_BKME = F.scaled_dot_product_attention(
            q_BKME, k_BKLE, v_BKLE, attn_mask=self._seen_B11L
        )
        return mixed_BKME.flatten(1, 2)
