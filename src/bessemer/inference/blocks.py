"""Remembered prefixes: blocks of 16 tokens by a hash chain, the least recently used go first.

A block's digest is of all tokens up to its end, so equal digests mean equal prefixes, and what a
thousand conversations have in common is held once (as in vLLM; Kwon et al., 2023). A block is
used no later than the one before it, so the oldest block of all has none after it and can go
alone: the order of use does what counting references would.

    N blocks   L layers   B tokens of a block   R rows   S context length
    K key-value heads   E head size   2: keys, then values
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bessemer.inference.memory import Memory

BLOCK_TOKENS = 16


def extend_chain(chain: list[bytes], ids: Sequence[int], salt: bytes = b"") -> None:
    """Append the digests of the whole blocks of `ids` that `chain` does not have yet.

    Args:
        salt: what else keys and values depend on, such as an adapter.
    """
    for block in range(len(chain), len(ids) // BLOCK_TOKENS):
        tokens = array("q", ids[block * BLOCK_TOKENS : (block + 1) * BLOCK_TOKENS])
        before = chain[-1] if chain else salt
        chain.append(hashlib.blake2b(before + tokens.tobytes(), digest_size=16).digest())


def common_blocks(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    """How many first blocks are equal. Equal digests have equal ones before them: a bisection."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[middle - 1] == other[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass
class Block:
    """`scores[i]` is log p of token i given all before it, or NaN where it is not known."""

    index: int
    scores: np.ndarray[Any, Any] = field(default_factory=lambda: np.full(BLOCK_TOKENS, np.nan))


class BlockStore:
    """At most `blocks` of them; fewer are kept when the cache's owner drops the oldest."""

    def __init__(
        self,
        shape_L2KE: tuple[int, int, int, int],
        dtype: torch.dtype,
        blocks: int,
        device: torch.device,
        *,
        elastic: bool,
    ) -> None:
        *parts, size = shape_L2KE
        shape = (blocks, *parts, BLOCK_TOKENS, size)
        self._block_bytes = math.prod(shape[1:]) * dtype.itemsize
        self._memory = Memory(blocks * self._block_bytes, device, elastic=elastic)
        self._blocks_NL2KBE = self._memory.tensor(shape, dtype)
        self.blocks = OrderedDict[bytes, Block]()  # the next to go is first
        self.free = list(range(blocks - 1, -1, -1))

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def held_tokens(self) -> int:
        return len(self) * BLOCK_TOKENS

    def longest(self, chain: Sequence[bytes]) -> int:
        """How many first blocks of `chain` are here."""
        missing = (i for i, digest in enumerate(chain) if digest not in self.blocks)
        return next(missing, len(chain))

    def scores(self, chain: Sequence[bytes]) -> np.ndarray[Any, Any]:
        """Those of the tokens of blocks that are all here."""
        parts = [self.blocks[digest].scores for digest in chain]
        return np.concatenate(parts) if parts else np.full(0, np.nan)

    def read(self, chain: Sequence[bytes], row_L2KSE: Tensor) -> None:
        """Copy blocks that are all here to the beginning of a row, and mark them as used."""
        for start, digest in enumerate(chain):
            begin = start * BLOCK_TOKENS
            block_L2KBE = self._blocks_NL2KBE[self.blocks[digest].index]
            row_L2KSE[..., begin : begin + BLOCK_TOKENS, :].copy_(block_L2KBE)
        self._use(chain)

    def write(
        self, chain: Sequence[bytes], row_L2KSE: Tensor, scores: np.ndarray[Any, Any]
    ) -> None:
        """Remember what of a row is not here yet. `scores` are of the row's tokens."""
        chain = chain[: self._blocks_NL2KBE.shape[0]]
        known = self.longest(chain)
        self._use(chain[:known])
        while len(self.free) < len(chain) - known:
            self.drop_oldest()
        for start, digest in enumerate(chain):
            begin, end = start * BLOCK_TOKENS, (start + 1) * BLOCK_TOKENS
            if start >= known:
                block = self.blocks[digest] = Block(self.free.pop())
                self._blocks_NL2KBE[block.index].copy_(row_L2KSE[..., begin:end, :])
            found, told = self.blocks[digest].scores, scores[begin:end]
            found[: len(told)] = np.where(np.isnan(told), found[: len(told)], told)
        self._use(chain)

    def drop_oldest(self) -> None:
        """Forget the block that was used longest ago, and give its memory back."""
        _, block = self.blocks.popitem(last=False)
        self.free.append(block.index)
        self._memory.give_back(block.index * self._block_bytes, self._block_bytes)

    def clear(self) -> None:
        while self.blocks:
            self.drop_oldest()
        self.free.sort(reverse=True)

    def _use(self, chain: Sequence[bytes]) -> None:
        """The last block first: each is used no later than the one before it."""
        for digest in reversed(chain):
            self.blocks.move_to_end(digest)
