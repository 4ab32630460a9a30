"""The KV cache: rows that sequences run in, and blocks that remember what they left.

A row belongs to one running sequence and lies in one piece, so that a step's attention reads the
rows of all of them in place; on a CPU, gathering scattered blocks would cost as much as the
attention itself. Memory is not wasted for that: rows are virtual, the system backs only pages
that were written, and they are given back.

When a sequence ends, its whole blocks go into the store (`blocks`), each once however many
sequences began with it. A new sequence starts from a copy of what is known of its prefix, from
the store or from a row that still runs: the prefix cache. Decision 0003 has the figures.

    L layers   R rows   S context length   K key-value heads   E head size
    2: keys, then values
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bessemer.inference.blocks import BLOCK_TOKENS, BlockStore, common_blocks, extend_chain
from bessemer.inference.memory import Memory
from bessemer.models.config import ModelConfig

Reuse = Literal["prefix", "scored prefix", "nothing"]
"""What of an earlier sequence is of use: its keys and values, also its scores, or neither."""

_CPU = torch.device("cpu")
Scores = np.ndarray[Any, Any]


@dataclass
class Row:
    """What one row holds: `tokens[:computed]` have their keys and values in the cache.

    `scores[i]` is log p(tokens[i] | tokens[:i]) where it is known, else NaN. `backed` is how many
    places have pages in memory, of this sequence or of those before it. `salt` is what else keys
    and values depend on. `tokens` and `computed` may also go back, when a guess was wrong.
    """

    index: int
    tokens: list[int] = field(default_factory=list)
    computed: int = 0
    scores: Scores = field(default_factory=lambda: np.full(0, np.nan))
    busy: bool = False
    backed: int = 0
    salt: bytes = b""
    _hashed: list[int] = field(default_factory=list)
    _chain: list[bytes] = field(default_factory=list)

    @property
    def needed(self) -> int:
        """How many of its places somebody reads."""
        return self.computed if self.busy else 0

    def whole_blocks(self) -> list[bytes]:
        """Digests of its whole computed blocks."""
        whole = self.tokens[: self.computed // BLOCK_TOKENS * BLOCK_TOKENS]
        if whole[: len(self._hashed)] != self._hashed:
            self._chain = []
        self._hashed = whole
        extend_chain(self._chain, whole, self.salt)
        return self._chain

    def begin(self, ids: Sequence[int], computed: int, scores: Scores, salt: bytes) -> None:
        """Become a running sequence's."""
        self.tokens, self.computed, self.scores = list(ids), computed, scores
        self.salt, self._hashed, self._chain = salt, [], []
        self.busy = True

    def end(self) -> None:
        self.backed = max(self.backed, self.computed)
        self.begin([], 0, np.full(0, np.nan), b"")
        self.busy = False


class Known(NamedTuple):
    """The longest known prefix of a sequence; `source` is a row, or None for the store."""

    blocks: int
    source: Row | None


class KVCache:
    """`rows` x `context_length` places per layer; about `kv_bytes` kept in all.

    Memory that is not `elastic` (any device's but the CPU's) is allocated at once: there are fewer
    rows then if `kv_bytes` asks for it, and the store has what they leave.
    """

    def __init__(
        self,
        config: ModelConfig,
        dtype: torch.dtype,
        *,
        rows: int,
        context_length: int,
        kv_bytes: int,
        device: torch.device = _CPU,
        elastic: bool | None = None,
    ) -> None:
        elastic = device.type == "cpu" if elastic is None else elastic
        self.context_length = context_length
        self.device = device
        shape_L2KE = (config.layers, 2, config.kv_heads, config.head_dim)
        self.bytes_per_token = math.prod(shape_L2KE) * dtype.itemsize
        # One sequence may always use its whole row.
        self.budget_tokens = max(context_length, kv_bytes // self.bytes_per_token)
        stored = self.budget_tokens // BLOCK_TOKENS
        if not elastic:
            rows = max(1, min(rows, self.budget_tokens // context_length))
            stored = (self.budget_tokens - rows * context_length) // BLOCK_TOKENS
        self.rows = [Row(index) for index in range(rows)]
        # Each head of a row lies in one piece, and all heads of all rows one after another: they
        # are one batch of matrices (see `attention`).
        shape_L2RKSE = (config.layers, 2, rows, config.kv_heads, context_length, config.head_dim)
        self._memory = Memory(math.prod(shape_L2RKSE) * dtype.itemsize, device, elastic=elastic)
        self._rows_L2RKSE = self._memory.tensor(shape_L2RKSE, dtype)
        self.layers_2RKSE: tuple[Tensor, ...] = self._rows_L2RKSE.unbind(0)
        self.store = BlockStore(shape_L2KE, dtype, stored, device, elastic=elastic)

    @property
    def held_tokens(self) -> int:
        """Tokens for whose keys and values there is memory now, in rows and in the store."""
        return self.store.held_tokens + sum(max(row.backed, row.needed) for row in self.rows)

    @property
    def busy_tokens(self) -> int:
        return sum(row.needed for row in self.rows)

    def acquire(self, ids: Sequence[int], reuse: Reuse = "prefix", salt: bytes = b"") -> Row | None:
        """A row for a sequence that begins with `ids`, with its known prefix already computed.

        At least the last token of `ids` is left to compute, since its logits are wanted. None
        if every row is busy.
        """
        row = next((row for row in self.rows if not row.busy), None)
        if row is None:
            return None
        chain = self._chain(ids, salt) if reuse != "nothing" else []
        known = self._longest_prefix(chain)
        scores = np.full(len(ids), np.nan)
        found = self._scores_of(chain, known)
        scores[: len(found)] = found
        length = min(len(found), len(ids) - 1)
        if reuse == "scored prefix":
            # The last common place is computed again: its output scores the token after it,
            # which may be another one here.
            length = max(0, min(length, _first_unknown(found)) - 1)
        self._copy(chain, known.source, row, length)
        row.begin(ids, length, scores, salt)
        self.trim()
        return row

    def release(self, row: Row) -> None:
        """The sequence ended. Its whole blocks are remembered until memory is short."""
        chain = self._chain_of(row)
        self.store.write(chain, self._rows_L2RKSE[:, :, row.index], row.scores[: row.computed])
        row.end()
        self.trim()

    def trim(self) -> None:
        """Keep to the budget: pages that no sequence reads go first, then the oldest blocks."""
        if self.held_tokens <= self.budget_tokens:
            return
        for row in self.rows:
            self._give_back(row)
        while len(self.store) and self.held_tokens > self.budget_tokens:
            self.store.drop_oldest()

    def clear(self) -> None:
        """Forget everything: as new, whatever came before. No row may be busy."""
        assert not any(row.busy for row in self.rows), self.rows
        for row in self.rows:
            self._give_back(row)
        self.store.clear()

    def _chain(self, ids: Sequence[int], salt: bytes) -> list[bytes]:
        """Digests of the blocks by which a sequence's prefix is found."""
        chain: list[bytes] = []
        extend_chain(chain, ids, salt)
        return chain

    def _chain_of(self, row: Row) -> list[bytes]:
        """The digests of what a row has that others may begin with."""
        return row.whole_blocks()

    def _longest_prefix(self, chain: list[bytes]) -> Known:
        best = Known(self.store.longest(chain), None)
        for row in self.rows:
            if row.busy and len(chain) > best.blocks:
                blocks = common_blocks(self._chain_of(row), chain)
                best = max(best, Known(blocks, row), key=lambda known: known.blocks)
        return best

    def _scores_of(self, chain: list[bytes], known: Known) -> Scores:
        if known.source is None:
            return self.store.scores(chain[: known.blocks])
        return known.source.scores[: known.blocks * BLOCK_TOKENS]

    def _copy(self, chain: list[bytes], source: Row | None, target: Row, length: int) -> None:
        if source is None:
            blocks = -(-length // BLOCK_TOKENS)
            self.store.read(chain[:blocks], self._rows_L2RKSE[:, :, target.index])
            return
        for layer_2RKSE in self.layers_2RKSE:
            layer_2RKSE[:, target.index, :, :length] = layer_2RKSE[:, source.index, :, :length]

    def _give_back(self, row: Row) -> None:
        """Free the pages behind what the row needs."""
        unread = row.backed - row.needed
        if not self._memory.is_elastic or unread <= 0:
            return
        layers, halves, rows, heads, size, width = self._rows_L2RKSE.shape
        place_bytes = width * self._rows_L2RKSE.itemsize
        for part in range(layers * halves):
            for head in range(heads):
                start = ((part * rows + row.index) * heads + head) * size + row.needed
                self._memory.give_back(start * place_bytes, unread * place_bytes)
        row.backed = row.needed


def _first_unknown(scores: Scores) -> int:
    """Length of the prefix whose scores are all known (the first token has none)."""
    unknown = np.flatnonzero(np.isnan(scores[1:]))
    return len(scores) if not len(unknown) else int(unknown[0]) + 1
