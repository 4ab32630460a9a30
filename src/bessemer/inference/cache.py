"""The KV cache: rows of one memory map, each long enough for a whole context.

A row belongs to one sequence and lies in one piece, so that a step's attention reads the rows of
all running sequences in place; on a CPU, gathering scattered blocks would cost as much as the
attention itself. Memory is not wasted for that: the map is virtual, the system backs only pages
that were written, and `forget` hands a row's pages back.

A row that nobody uses still remembers its tokens. A new sequence that begins with the same
tokens starts from a copy of them: the prefix cache.

    R rows   S context length   K key-value heads   E head size   G = 2K (keys, then values)
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bessemer.models.config import ModelConfig

Reuse = Literal["prefix", "scored prefix", "nothing"]
"""What of an earlier sequence is of use: its keys and values, also its scores, or neither."""


@dataclass
class Row:
    """What one row holds: `tokens[:computed]` have their keys and values in the cache.

    `scores[i]` is log p(tokens[i] | tokens[:i]) where it is known, else NaN.
    """

    index: int
    tokens: list[int] = field(default_factory=list)
    computed: int = 0
    scores: np.ndarray[Any, Any] = field(default_factory=lambda: np.full(0, np.nan))
    busy: bool = False
    used_at: int = 0

    def common_prefix(self, ids: Sequence[int]) -> int:
        """How many first tokens of `ids` are computed here."""
        limit = min(self.computed, len(ids))
        for place in range(limit):
            if self.tokens[place] != ids[place]:
                return place
        return limit

    def known_scores(self) -> int:
        """Length of the prefix whose scores are all known (the first token has none)."""
        unknown = np.flatnonzero(np.isnan(self.scores[1 : self.computed]))
        return self.computed if not len(unknown) else int(unknown[0]) + 1


class KVCache:
    """`rows` x `context_length` places per layer; about `kv_bytes` kept in all."""

    def __init__(
        self,
        config: ModelConfig,
        dtype: torch.dtype,
        *,
        rows: int,
        context_length: int,
        kv_bytes: int,
    ) -> None:
        self.context_length = context_length
        self.rows = [Row(index) for index in range(rows)]
        self._clock = 0
        shape = (config.layers, rows, context_length, 2 * config.kv_heads, config.head_dim)
        self.bytes_per_token = config.layers * math.prod(shape[3:]) * dtype.itemsize
        # One sequence may always use its whole row.
        self.budget_tokens = max(context_length, kv_bytes // self.bytes_per_token)
        self._row_bytes = math.prod(shape[2:]) * dtype.itemsize
        # Private: the system keeps the pages of a shared map when they are given back.
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._map = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=private)
        self.layers_RSGE: tuple[Tensor, ...] = (
            torch.frombuffer(self._map, dtype=dtype, count=math.prod(shape)).view(shape).unbind(0)
        )

    @property
    def held_tokens(self) -> int:
        """Tokens whose keys and values are in memory now, running and idle."""
        return sum(row.computed for row in self.rows)

    @property
    def busy_tokens(self) -> int:
        return sum(row.computed for row in self.rows if row.busy)

    def acquire(self, ids: Sequence[int], reuse: Reuse = "prefix") -> Row | None:
        """A row for a sequence that begins with `ids`, with its known prefix already computed.

        At least the last token of `ids` is left to compute, since its logits are wanted. None
        if every row is busy.
        """
        free = [row for row in self.rows if not row.busy]
        if not free:
            return None
        best, length = self._longest_prefix(ids, reuse)
        row = min(free, key=lambda r: (r.computed > 0, r.used_at, r.index))
        if best is not None and not best.busy and 2 * length >= best.computed:
            row = best  # most of what it remembers is of use: continue in place
        elif best is not None and length and best is not row:
            self._copy_prefix(best, row, length)
        scores = np.full(len(ids), np.nan)
        if best is not None:
            known = best.scores[: length + 1 if reuse == "scored prefix" else length]
            scores[: len(known)] = known
        row.tokens, row.computed, row.scores = list(ids), length, scores
        row.busy = True
        self._touch(row)
        return row

    def release(self, row: Row) -> None:
        """The sequence ended. The row remembers it until it is needed or memory is short."""
        row.busy = False
        row.tokens = row.tokens[: row.computed]
        self._touch(row)
        idle = sorted((r for r in self.rows if not r.busy and r.computed), key=lambda r: r.used_at)
        while idle and self.held_tokens > self.budget_tokens:
            self.forget(idle.pop(0))

    def forget(self, row: Row) -> None:
        """Give a row's memory back to the system."""
        assert not row.busy, row
        row.tokens, row.computed, row.scores = [], 0, np.full(0, np.nan)
        page = mmap.PAGESIZE
        for layer in range(len(self.layers_RSGE)):
            start = (layer * len(self.rows) + row.index) * self._row_bytes
            first = -(-start // page) * page  # a page shared with a neighbor stays
            length = (start + self._row_bytes) // page * page - first
            if length > 0 and hasattr(mmap, "MADV_DONTNEED"):
                self._map.madvise(mmap.MADV_DONTNEED, first, length)

    def clear(self) -> None:
        """Forget every row, and when it was used: as new, whatever came before."""
        for row in self.rows:
            self.forget(row)
            row.used_at = 0

    def _longest_prefix(self, ids: Sequence[int], reuse: Reuse) -> tuple[Row | None, int]:
        best, length = None, 0
        for row in self.rows if reuse != "nothing" else ():
            common = min(row.common_prefix(ids), len(ids) - 1)
            if reuse == "scored prefix":
                # The last common place is computed again: its output scores the token after it,
                # which may be another one here.
                common = min(common, row.known_scores()) - 1
            if common > length:
                best, length = row, common
        return best, length

    def _copy_prefix(self, source: Row, target: Row, length: int) -> None:
        for layer_RSGE in self.layers_RSGE:
            layer_RSGE[target.index, :length] = layer_RSGE[source.index, :length]

    def _touch(self, row: Row) -> None:
        self._clock += 1
        row.used_at = self._clock
