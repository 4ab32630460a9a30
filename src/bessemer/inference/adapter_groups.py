"""Which rows of a step are multiplied together: the fewest products without much waste.

An adapter with many rows (a prompt, or several sequences) is a product of its own. Those with few
rows are one batched product with their neighbors on the shelf, each brought to the same number of
rows.

    T tokens of a step   I inputs   O outputs   K neighbors   N rows of each
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bessemer.inference.adapter_shelf import Place, Shelf

# An adapter with more rows is multiplied alone: its neighbors would be filled up to as many.
FEW_ROWS = 4
# A place between two neighbors that nobody asked for costs less than another product.
HOLE = 1


@dataclass(frozen=True)
class Group:
    """Places of a shelf that lie side by side, and the rows each of them is multiplied with.

    `source` says which rows of the step to read, K times N of them, `target` which to add to;
    `kept` picks the products of the rows that were asked for, where others fill up.
    """

    shelf: Shelf
    places: slice
    source: slice | Tensor
    target: slice | Tensor
    kept: Tensor | None

    @property
    def width(self) -> int:
        count: int = self.places.stop - self.places.start
        return count

    def take(self, x_TI: Tensor) -> Tensor:
        """The rows of each place, (K, N, I)."""
        return _rows(x_TI, self.source).view(self.width, -1, x_TI.shape[1])

    def add(self, y_TO: Tensor, d_KNO: Tensor) -> None:
        """Add what was computed for the rows, in place."""
        d_TO = d_KNO.flatten(0, 1).to(y_TO.dtype)
        if self.kept is not None:
            d_TO = d_TO.index_select(0, self.kept)
        if isinstance(self.target, slice):
            y_TO[self.target].add_(d_TO)
        else:
            y_TO.index_add_(0, self.target, d_TO)


def grouped(rows: Mapping[Place, Sequence[int]]) -> list[Group]:
    """The products for adapters at these places with these rows of the step."""
    groups = [_group([place], rows) for place, own in rows.items() if len(own) > FEW_ROWS]
    narrow = [place for place, own in rows.items() if len(own) <= FEW_ROWS]
    narrow.sort(key=lambda place: (id(place.shelf), place.index))
    run: list[Place] = []
    for place in narrow:
        if run and not _side_by_side(run[-1], place):
            groups.append(_group(run, rows))
            run = []
        run.append(place)
    return [*groups, _group(run, rows)] if run else groups


def _side_by_side(left: Place, right: Place) -> bool:
    return left.shelf is right.shelf and right.index - left.index <= HOLE + 1


def _group(run: Sequence[Place], rows: Mapping[Place, Sequence[int]]) -> Group:
    shelf, first, last = run[0].shelf, run[0].index, run[-1].index
    wanted = {place.index: rows[place] for place in run}
    longest = max(map(len, wanted.values()))
    source: list[int] = []
    kept: list[int] = []
    for index in range(first, last + 1):
        own = wanted.get(index, ())
        kept += range(len(source), len(source) + len(own))
        source += [*own, *[0] * (longest - len(own))]  # any row will do
    whole = len(kept) == len(source)
    return Group(
        shelf=shelf,
        places=slice(first, last + 1),
        source=_slice_if_possible(source),
        target=_slice_if_possible([source[place] for place in kept]),
        kept=None if whole else torch.tensor(kept),
    )


def _slice_if_possible(rows: list[int]) -> slice | Tensor:
    if rows == list(range(rows[0], rows[0] + len(rows))):
        return slice(rows[0], rows[0] + len(rows))
    return torch.tensor(rows)


def _rows(x_TI: Tensor, chosen: slice | Tensor) -> Tensor:
    return x_TI[chosen] if isinstance(chosen, slice) else x_TI.index_select(0, chosen)
