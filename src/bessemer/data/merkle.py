"""A Merkle tree over leaves: one root for all of them, and a short proof for each.

The tree and its hashes are those of RFC 9162, section 2.1 (before it RFC 6962): a leaf is hashed
behind a zero byte and an inner node behind a one byte, so that none can pass for the other. Only
hashes are handled here; what a leaf is, and where hashes are kept, is the caller's affair.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes | memoryview) -> bytes:
    """SHA-256 of 0x00 and the leaf, 32 bytes."""
    digest = hashlib.sha256(b"\0")
    digest.update(data)
    return digest.digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root above these leaf hashes, 32 bytes."""
    level = list(leaves)
    while len(level) > 1:
        level = _parents(level)
    return level[0] if level else EMPTY_ROOT


class Proof(NamedTuple):
    """That a leaf is in a tree.

    Attributes:
        leaf: its number, from 0.
        leaves: how many the tree has.
        path: the hashes beside the way from the leaf to the root.
    """

    leaf: int
    leaves: int
    path: tuple[bytes, ...]

    def root(self, data: bytes | memoryview) -> bytes:
        """The root of the tree whose leaf `self.leaf` is `data` (RFC 9162, section 2.1.3.2)."""
        found, number, last = leaf_hash(data), self.leaf, self.leaves - 1
        beside = iter(self.path)
        while last:
            if number % 2:
                found = _node(next(beside), found)
            elif number < last:
                found = _node(found, next(beside))
            number, last = number // 2, last // 2
        return found


def prove(leaves: Sequence[bytes], leaf: int) -> Proof:
    """The proof for one of these leaf hashes."""
    assert 0 <= leaf < len(leaves), (leaf, len(leaves))
    level, number, path = list(leaves), leaf, list[bytes]()
    while len(level) > 1:
        if number ^ 1 < len(level):
            path.append(level[number ^ 1])
        level, number = _parents(level), number // 2
    return Proof(leaf, len(leaves), tuple(path))


def _parents(level: list[bytes]) -> list[bytes]:
    parents = [_node(*level[i : i + 2]) for i in range(0, len(level) - 1, 2)]
    return parents + level[len(parents) * 2 :]  # an odd one out rises as it is


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()
