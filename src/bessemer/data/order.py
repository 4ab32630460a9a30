"""The order of data: which item is at position k, as a pure function of (seed, k), and back.

An epoch visits every one of N items once, in an order of its own: a Feistel network (Luby and
Rackoff, 1988) over the next domain of 4^h numbers, walked along its cycle until it lands below N
(Black and Rogaway, 2002). Nothing is stored and nothing is replayed: any process can say what is
at any position, and at which positions an item is. Mixing is for shuffling, not for secrets.

    >>> order = Order(10, seed=1)
    >>> [order.at(position).item for position in range(10)]
    [1, 5, 0, 9, 3, 7, 2, 6, 4, 8]
    >>> order.at(12), order.position(order.at(12))
    (Place(epoch=1, item=7), 12)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Words = NDArray[np.uint64]
Number = Any  # one int, or Words: numpy cannot say that the arithmetic is the same for both

ROUNDS = 8
FEW = 32
MOST = 2**62  # items; positions are int64
_MASK = 2**64 - 1


class Place(NamedTuple):
    """An item, and how many times all of them were visited before."""

    epoch: int
    item: int


class Permutation:
    """One shuffle of range(count), decided by `key` and `count`; O(1) both ways."""

    def __init__(self, count: int, key: str) -> None:
        assert 0 < count <= MOST, count
        self.count = count
        self._half_bits = max(1, ((count - 1).bit_length() + 1) // 2)
        self._half_mask = (1 << self._half_bits) - 1
        self._keys = _round_keys(f"{key}/{count}")

    def forward(self, index: int) -> int:
        """Where index goes."""
        assert 0 <= index < self.count, (index, self.count)
        return _walk(self._encipher, index, self.count)

    def inverse(self, item: int) -> int:
        """What goes to `item`: forward(inverse(item)) == item."""
        assert 0 <= item < self.count, (item, self.count)
        return _walk(self._decipher, item, self.count)

    def forward_all(self, indices: ArrayLike) -> NDArray[np.int64]:
        """`forward` of each, int64."""
        return _walk_all(self._encipher, _words(indices, self.count), self.count)

    def inverse_all(self, items: ArrayLike) -> NDArray[np.int64]:
        """`inverse` of each, int64."""
        words = _words(items, self.count)
        if len(words) < FEW:  # a pass of numpy over them costs more than they do
            return np.array([self.inverse(int(word)) for word in words], dtype=np.int64)
        return _walk_all(self._decipher, words, self.count)

    def _encipher(self, word: Number) -> Number:
        left, right = word >> self._half_bits, word & self._half_mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right, key) & self._half_mask)
        return (left << self._half_bits) | right

    def _decipher(self, word: Number) -> Number:
        left, right = word >> self._half_bits, word & self._half_mask
        for key in reversed(self._keys):
            left, right = right ^ (_mix(left, key) & self._half_mask), left
        return (left << self._half_bits) | right


class Order:
    """Positions 0, 1, 2 ... without end: every item once an epoch, in a new order each epoch.

    Args:
        count: of the items.
        seed: another seed is another order; so is another `purpose`.
        shuffle: False keeps the items' own order in every epoch.
    """

    def __init__(
        self, count: int, seed: int, *, purpose: str = "rows", shuffle: bool = True
    ) -> None:
        assert count > 0, count
        self.count = count
        self._key = f"{purpose}/{seed}" if shuffle else None

    def at(self, position: int) -> Place:
        """The item at a position."""
        epoch, index = divmod(position, self.count)
        shuffle = self._shuffle(epoch)
        return Place(epoch, index if shuffle is None else shuffle.forward(index))

    def position(self, place: Place) -> int:
        """At which position an item is in an epoch."""
        shuffle = self._shuffle(place.epoch)
        index = place.item if shuffle is None else shuffle.inverse(place.item)
        return place.epoch * self.count + index

    def positions(self, items: ArrayLike, end: int) -> NDArray[np.int64]:
        """All positions below `end` that any of these items is at, ascending.

        Takes a step for each item and epoch, not one for each position.
        """
        wanted = np.unique(np.asarray(items, dtype=np.int64))
        found = [np.zeros(0, dtype=np.int64)]
        for epoch in range(-(-end // self.count)):
            shuffle = self._shuffle(epoch)
            indices = wanted if shuffle is None else np.sort(shuffle.inverse_all(wanted))
            found.append(indices + epoch * self.count)
        positions = np.concatenate(found)
        return positions[positions < end]

    def _shuffle(self, epoch: int) -> Permutation | None:
        return None if self._key is None else _permutation(self.count, f"{self._key}/{epoch}")


@lru_cache(maxsize=64)
def _permutation(count: int, key: str) -> Permutation:
    return Permutation(count, key)


def _round_keys(key: str) -> tuple[int, ...]:
    digests = (
        hashlib.blake2b(f"{key}/{turn}".encode(), digest_size=8, person=b"bessemer order").digest()
        for turn in range(ROUNDS)
    )
    return tuple(int.from_bytes(digest, "little") for digest in digests)


def _mix(word: Number, key: int) -> Number:
    """SplitMix64's finalizer (Steele, Lea and Flood, 2014) of word + key.

    The same for one Python integer and for an array of uint64, which wraps around by itself.
    """
    word = (word + key) & _MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return word ^ (word >> 31)


def _walk(step: Callable[[int], int], word: int, count: int) -> int:
    word = step(word)
    while word >= count:
        word = step(word)
    return word


def _walk_all(step: Callable[[Words], Words], words: Words, count: int) -> NDArray[np.int64]:
    words = step(words)
    outside = np.flatnonzero(words >= count)
    while len(outside):
        words[outside] = step(words[outside])
        outside = outside[words[outside] >= count]
    return words.astype(np.int64)


def _words(numbers: ArrayLike, count: int) -> Words:
    found = np.asarray(numbers, dtype=np.int64)
    assert found.size == 0 or (found.min() >= 0 and found.max() < count), (found, count)
    return found.astype(np.uint64)
