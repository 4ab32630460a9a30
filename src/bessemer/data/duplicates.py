"""Finds near-duplicate texts: MinHash signatures, LSH bands, then the true Jaccard similarity.

A text is its set of 5-character shingles, lower-cased and with white space squeezed. Broder,
"On the resemblance and containment of documents" (1997); banding as in Leskovec, Rajaraman and
Ullman, "Mining of Massive Datasets", chapter 3.

With 64 hashes in 16 bands of 4, a pair at similarity 0.8 becomes a candidate with probability
0.9998, at 0.9 with 1 - 4e-8. Every candidate is checked, so no pair is joined that is not alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]

WIDTH = 5
HASHES = 64
ROWS = 4  # of a band
THRESHOLD = 0.8
CROWD = 16  # neighbors compared in a bucket; a bound for files where everything looks alike
MARGIN = 0.15  # three standard deviations of the estimate that 64 hashes give at 0.8
_NO_CHARACTER = 0x110000  # fills up short texts; a NUL is a character
BLOCK = 4096  # shingles hashed at once; bounds memory for long texts


def group_near_duplicates(
    texts: Iterable[str],
    text_of: Callable[[int], str],
    threshold: float = THRESHOLD,
) -> list[int]:
    """For each text the index of the first text of its group.

    Two texts are in one group if a chain of texts connects them, each as similar to the next as
    `threshold`. Memory: 256 bytes for a text; `text_of` is asked for the texts of candidates.

    >>> texts = ["Return the sum of the numbers.", "return the sum of the numbers!", "Close it."]
    >>> group_near_duplicates(texts, texts.__getitem__)
    [0, 0, 2]
    """
    signatures = [_signature(shingles(text)) for text in texts]
    if not signatures:
        return []
    groups = _Groups(len(signatures))
    cached = lru_cache(maxsize=4096)(lambda index: shingles(text_of(index)))
    for left, right in _candidates(np.stack(signatures), groups, threshold):
        if jaccard(cached(left), cached(right)) >= threshold:
            groups.join(left, right)
    return groups.first


def shingles(text: str) -> U64:
    """Sorted distinct 64-bit hashes of the 5-character shingles; a shorter text is one shingle."""
    squeezed = " ".join(text.lower().split())
    codes = np.frombuffer(squeezed.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    if len(codes) < WIDTH:
        codes = np.pad(codes, (0, WIDTH - len(codes)), constant_values=_NO_CHARACTER)
    count = len(codes) - WIDTH + 1
    mixed = np.zeros(count, dtype=np.uint64)
    for place, power in enumerate(_POWERS):
        mixed += codes[place : place + count] * power
    return np.unique(_mix(mixed))


def jaccard(left: U64, right: U64) -> float:
    """|A and B| / |A or B| of two sorted sets."""
    common = len(np.intersect1d(left, right, assume_unique=True))
    return common / (len(left) + len(right) - common)


class _Groups:
    """Union-find whose `first[i]` is always right: the smallest index of the group of i."""

    def __init__(self, count: int) -> None:
        self.first = list(range(count))
        self._members = {index: [index] for index in range(count)}

    def join(self, left: int, right: int) -> None:
        low, high = sorted((self.first[left], self.first[right]))
        if low == high:
            return
        for member in self._members[high]:
            self.first[member] = low
        self._members[low] += self._members.pop(high)


def _candidates(
    signatures: NDArray[np.uint32], groups: _Groups, threshold: float
) -> Iterator[tuple[int, int]]:
    """Pairs that agree on a band, seem alike by all hashes, and are not in one group yet."""
    for start in range(0, HASHES, ROWS):
        for bucket in _buckets(np.roll(signatures, -start, axis=1)):
            for place, left in enumerate(bucket[:-1]):
                near = bucket[place + 1 : place + 1 + CROWD]
                near = [right for right in near if groups.first[right] != groups.first[left]]
                if near:
                    for right in _promising(signatures, left, near, start, threshold):
                        yield left, right


def _promising(
    signatures: NDArray[np.uint32], left: int, near: list[int], start: int, threshold: float
) -> list[int]:
    """Those of `near` not met in an earlier band, whose estimate is not far below `threshold`."""
    equal = signatures[near] == signatures[left]
    is_met = equal[:, :start].reshape(len(near), -1, ROWS).all(axis=2).any(axis=1)
    is_like = equal.mean(axis=1) >= threshold - MARGIN
    return [right for right, keep in zip(near, is_like & ~is_met, strict=True) if keep]


def _buckets(signatures: NDArray[np.uint32]) -> Iterator[list[int]]:
    """Indices whose first band is equal, for every band that occurs more than once.

    They come sorted by the whole signature, so that in a crowd the most alike are neighbors.
    """
    keys = signatures.view(np.dtype((np.void, signatures.itemsize * HASHES))).ravel()
    order = np.argsort(keys, kind="stable")
    bands = signatures[order, :ROWS]
    changes = np.flatnonzero((bands[1:] != bands[:-1]).any(axis=1)) + 1
    bounds = [0, *changes.tolist(), len(order)]
    for start, end in pairwise(bounds):
        if end - start > 1:
            yield order[start:end].tolist()


def _signature(hashes: U64) -> NDArray[np.uint32]:
    lowest = np.full(HASHES, np.iinfo(np.uint64).max, dtype=np.uint64)
    for start in range(0, len(hashes), BLOCK):
        block = hashes[start : start + BLOCK, None] * _MULTIPLIERS + _OFFSETS
        lowest = np.minimum(lowest, block.min(axis=0))
    return (lowest >> np.uint64(32)).astype(np.uint32)


def _mix(values: U64) -> U64:
    """SplitMix64's finalizer: the same numbers on every machine and in every version."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: U64 = values ^ (values >> np.uint64(31))
    return mixed


def _constants(count: int, start: int) -> U64:
    steps = np.arange(start, start + count, dtype=np.uint64)
    return _mix(steps * np.uint64(0x9E3779B97F4A7C15)) | np.uint64(1)


_POWERS = _constants(WIDTH, 1)
_MULTIPLIERS = _constants(HASHES, 100)
_OFFSETS = _constants(HASHES, 1000)
