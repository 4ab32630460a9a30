"""Where adapters lie in memory: side by side with those of the same shape.

R ranks of a site's layers, summed   I inputs   O outputs   P places of a shelf
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Pair(NamedTuple):
    """One site's factors of one adapter, scaled, with zeros where two layers do not meet."""

    a_RI: Tensor
    b_OR: Tensor


class Stack(NamedTuple):
    """One site's factors of a shelf's adapters; places that are not taken hold anything."""

    a_PRI: Tensor
    b_POR: Tensor


class Shelf:
    """Adapters whose sites have the same ranks. Memory of places never taken is never touched."""

    def __init__(self, like: Sequence[Pair | None], places: int) -> None:
        self.stacks = [_stack(pair, places) if pair else None for pair in like]
        self.shape = shape_of(like)
        self._places = places
        self._free = list(range(places))

    @property
    def full(self) -> bool:
        return not self._free

    @property
    def empty(self) -> bool:
        return len(self._free) == self._places

    def put(self, pairs: Sequence[Pair | None]) -> Place:
        """Copy an adapter to the lowest free place, so that those in use lie close together."""
        index = min(self._free)
        self._free.remove(index)
        for stack, pair in zip(self.stacks, pairs, strict=True):
            if stack is not None and pair is not None:
                stack.a_PRI[index].copy_(pair.a_RI)
                stack.b_POR[index].copy_(pair.b_OR)
        return Place(self, index)

    def give_back(self, index: int) -> None:
        self._free.append(index)


@dataclass(frozen=True)
class Place:
    """Where one adapter lies."""

    shelf: Shelf
    index: int


def shape_of(pairs: Sequence[Pair | None]) -> tuple[int, ...]:
    """Of each site the summed rank."""
    return tuple(len(pair.a_RI) if pair else 0 for pair in pairs)


def _stack(pair: Pair, places: int) -> Stack:
    return Stack(
        pair.a_RI.new_empty(places, *pair.a_RI.shape), pair.b_OR.new_empty(places, *pair.b_OR.shape)
    )
