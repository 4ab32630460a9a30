"""Mixtures: whose turn it is at each position, evenly spread, and back. No random numbers.

Weights become integer shares of a period (Fraction arithmetic, so 0.1 means a tenth). Within the
period the turn goes to the source whose next deadline is the earliest among those that are due:
item j of a source with share s of a period P is due from floor(j P / s) and late after
ceil((j + 1) P / s) - 1 (Tijdeman, 1980, "The chairman assignment problem"). So at every position k
each source has had its share of k, less or more than one. The period repeats, so any position is
looked up and nothing is replayed.

    >>> turns = Interleaving([3, 1])
    >>> [turns.at(position).source for position in range(8)]
    [0, 0, 0, 1, 0, 0, 0, 1]
    >>> turns.at(7), turns.position(1, 1)
    (Turn(source=1, index=1), 7)
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

LONGEST_PERIOD = 100_000


class Turn(NamedTuple):
    """A source, and how many times it had its turn before."""

    source: int
    index: int


class Interleaving:
    """An endless fixed schedule over sources.

    Args:
        weights: positive, in any unit. Shares finer than one in 100,000 are rounded to that.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        assert weights and all(0 < weight < math.inf for weight in weights), weights
        self.shares = _shares(weights)
        self.period = sum(self.shares)
        self._turns: list[Turn] = []
        self._places: list[list[int]] = [[] for _ in self.shares]
        for place, source in enumerate(_one_period(self.shares)):
            self._turns.append(Turn(source, len(self._places[source])))
            self._places[source].append(place)

    def at(self, position: int) -> Turn:
        """Whose turn it is at `position`, counted from 0."""
        rounds, place = divmod(position, self.period)
        source, index = self._turns[place]
        return Turn(source, rounds * self.shares[source] + index)

    def position(self, source: int, index: int) -> int:
        """Where `source` has its turn number `index`: the inverse of `at`."""
        rounds, place = divmod(index, self.shares[source])
        return rounds * self.period + self._places[source][place]


def _shares(weights: Sequence[float]) -> list[int]:
    # Through text: Fraction(0.1) is the binary number, which has a period of 2^55.
    exact = [Fraction(str(weight)) for weight in weights]
    unit = math.lcm(*(weight.denominator for weight in exact))
    shares = [int(weight * unit) for weight in exact]
    common = math.gcd(*shares)
    shares = [share // common for share in shares]
    if sum(shares) <= LONGEST_PERIOD:
        return shares
    total = sum(exact)
    return [max(1, round(weight / total * LONGEST_PERIOD)) for weight in exact]


def _one_period(shares: Sequence[int]) -> list[int]:
    """The earliest deadline first, among the items that are due."""
    period = sum(shares)
    waiting = [(0, source, 0) for source in range(len(shares))]  # (due, source, index)
    heapq.heapify(waiting)
    ready: list[tuple[int, int, int]] = []  # (deadline, source, index)
    order = []
    for place in range(period):
        while waiting and waiting[0][0] <= place:
            _, source, index = heapq.heappop(waiting)
            deadline = -(-(index + 1) * period // shares[source]) - 1
            heapq.heappush(ready, (deadline, source, index))
        deadline, source, index = heapq.heappop(ready)
        assert place <= deadline, (place, deadline, shares)
        order.append(source)
        if index + 1 < shares[source]:
            due = (index + 1) * period // shares[source]
            heapq.heappush(waiting, (due, source, index + 1))
    return order
