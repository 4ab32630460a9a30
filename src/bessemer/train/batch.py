"""A micro-batch: rows flattened to one vector of tokens, as tensors.

T tokens   N target tokens
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bessemer.data.packing import Row, side_by_side
from bessemer.models.attention import positions

NO_COLUMNS: Mapping[str, Tensor] = MappingProxyType({})


class MicroBatch(NamedTuple):
    """What one forward pass takes.

    Attributes:
        ids_T: int64 token ids of all pieces of all rows.
        positions_T: position of each within its piece.
        lengths: tokens of each piece.
        sources_N: where in T the hidden state that predicts each target is.
        targets_N: token ids to predict.
        columns: what the objective knows besides; the first axis is pieces or targets.
    """

    ids_T: Tensor
    positions_T: Tensor
    lengths: tuple[int, ...]
    sources_N: Tensor
    targets_N: Tensor
    columns: Mapping[str, Tensor] = NO_COLUMNS

    @property
    def pieces_N(self) -> Tensor:
        """Which piece each target is in, int64."""
        ends_P = torch.tensor(self.lengths).cumsum(0)
        return torch.searchsorted(ends_P, self.sources_N, right=True)

    @property
    def tokens(self) -> int:
        return len(self.ids_T)

    @property
    def targets(self) -> int:
        return len(self.targets_N)


def micro_batch(rows: Sequence[Row]) -> MicroBatch:
    """Rows side by side."""
    offsets = np.cumsum([0, *(len(row.ids) for row in rows[:-1])])
    lengths = tuple(length for row in rows for length in row.lengths)
    sources = [row.sources + offset for row, offset in zip(rows, offsets, strict=True)]
    return MicroBatch(
        torch.from_numpy(np.concatenate([row.ids for row in rows])),
        positions(lengths),
        lengths,
        torch.from_numpy(np.concatenate(sources)),
        torch.from_numpy(np.concatenate([row.targets for row in rows])),
        {
            name: torch.from_numpy(column)
            for name, column in side_by_side([row.columns for row in rows]).items()
        },
    )


def micro_batches(rows: Sequence[Row], rows_at_once: int) -> list[MicroBatch]:
    """The rows of a step, at most `rows_at_once` in each micro-batch."""
    cuts = range(0, len(rows), rows_at_once)
    return [micro_batch(rows[cut : cut + rows_at_once]) for cut in cuts]
