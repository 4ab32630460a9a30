"""Mixtures: whose turn it is at position k, evenly spread, for any k at once, and back.

Each source has a share. After k positions a source with share w has had n(k) turns, and

    |n(k) - w k| < 1        for every source and every k:

never a whole turn ahead or behind, so every stretch of the mixture has the recipe's proportions.
With three sources or more no formula gives such a sequence at a single k, so the schedule repeats:
shares are whole turns in a period, one period is laid out when the mixture is opened, and a query
is a table lookup. Turn j of a source with c turns in a period of P must fall into the window
[floor((j-1) P/c), ceil(j P/c)); taking the window that closes first fills all of them in time
(P-fair windows: Baruah, Cohen, Plaxton and Varvel, 1996), and this is the bound above.

Weights whose shares have a common denominator of at most 16,384 are met exactly. Others are
rounded to whole turns in that many, one at least: m sources are off by less than m/16,384.

    >>> mixture = Interleaving([3, 1])
    >>> [mixture.at(position).source for position in range(8)]
    [0, 0, 0, 1, 0, 0, 0, 1]
    >>> mixture.at(1_000_003), mixture.position(1, 250_000)
    (Turn(source=1, number=250000), 1000003)
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bessemer.core.errors import InvalidInput

LONGEST_PERIOD = 2**14
MOST_SOURCES = 256


class Turn(NamedTuple):
    """Which source, and which of its turns it is, counted from 0."""

    source: int
    number: int


class Interleaving:
    """A fixed endless sequence of turns.

    Args:
        weights: one for each source, above 0; only their ratios matter. A float means the decimal
            that it prints as: 0.1 is a tenth.

    Attributes:
        turns: whole turns of each source in a period; `turns[i] / period` is its share.
        period: length of what repeats.

    Raises:
        InvalidInput: a weight is not a finite number above 0, or there are too many sources.
    """

    def __init__(self, weights: Sequence[float | Fraction]) -> None:
        self.turns = _whole_turns([_exact(weight) for weight in weights])
        self.period = sum(self.turns)
        self._sources = _lay_out(self.turns)
        self._places = [np.flatnonzero(self._sources == i) for i in range(len(self.turns))]
        self._indices = np.empty(self.period, dtype=np.int64)
        for places in self._places:
            self._indices[places] = np.arange(len(places))

    def at(self, position: int) -> Turn:
        """Whose turn it is at a position, and which of its turns."""
        periods, place = divmod(position, self.period)
        source = int(self._sources[place])
        return Turn(source, periods * self.turns[source] + int(self._indices[place]))

    def position(self, source: int, index: int) -> int:
        """Where a turn of a source is: the inverse of `at`."""
        return int(self.positions(source, [index])[0])

    def positions(self, source: int, indices: ArrayLike) -> NDArray[np.int64]:
        """`position` of each index, int64."""
        periods, indices = np.divmod(np.asarray(indices, dtype=np.int64), self.turns[source])
        return periods * self.period + self._places[source][indices]

    def count(self, source: int, end: int) -> int:
        """How many turns a source has had before position `end`."""
        periods, place = divmod(end, self.period)
        within = np.searchsorted(self._places[source], place)
        return periods * self.turns[source] + int(within)


def _exact(weight: float | Fraction) -> Fraction:
    try:
        exact = weight if isinstance(weight, Fraction) else Fraction(repr(weight))
    except ValueError:  # nan and inf
        exact = Fraction(0)
    if exact <= 0:
        raise InvalidInput(
            f"a mixture has the weight {weight}", next_step="give each part a weight above 0"
        )
    return exact


def _whole_turns(weights: Sequence[Fraction]) -> list[int]:
    """The shortest period in which every source has its share in whole turns.

    Where that is too long, the longest one, its turns dealt out by largest remainder.
    """
    if not 0 < len(weights) <= MOST_SOURCES:
        raise InvalidInput(f"a mixture of {len(weights)} parts; 1 to {MOST_SOURCES} are taken")
    total = sum(weights, Fraction(0))
    shares = [weight / total for weight in weights]
    period = math.lcm(*(share.denominator for share in shares))
    if period <= LONGEST_PERIOD:
        return [int(share * period) for share in shares]
    wanted = [share * LONGEST_PERIOD for share in shares]
    turns = [max(1, math.floor(each)) for each in wanted]
    while (missing := LONGEST_PERIOD - sum(turns)) != 0:
        step = 1 if missing > 0 else -1
        # Whoever is furthest from what it should have; nobody loses the only turn.
        may = [i for i, count in enumerate(turns) if count + step > 0]
        turns[max(may, key=lambda i: (wanted[i] - turns[i]) * step)] += step
    return turns


def _lay_out(turns: Sequence[int]) -> NDArray[np.int64]:
    """The source of each place in one period: of the open windows, the one that closes first."""
    period = sum(turns)
    opening = [(0, i, 0) for i in range(len(turns))]  # (opens at, source, turn)
    is_open: list[tuple[int, int, int]] = []  # (closes at, source, turn)
    sources = np.empty(period, dtype=np.int64)
    for place in range(period):
        while opening and opening[0][0] <= place:
            _, source, turn = heapq.heappop(opening)
            closes_at = -(-(turn + 1) * period // turns[source])
            heapq.heappush(is_open, (closes_at, source, turn))
        closes_at, source, turn = heapq.heappop(is_open)
        assert place < closes_at, (place, closes_at, turns)
        sources[place] = source
        if turn + 1 < turns[source]:
            heapq.heappush(opening, ((turn + 1) * period // turns[source], source, turn + 1))
    return sources
