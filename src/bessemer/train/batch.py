"""A micro-batch: rows flattened to one vector of tokens, as tensors.

T tokens   N target tokens
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bessemer.models.attention import positions
from bessemer.train.packing import Row


class MicroBatch(NamedTuple):
    """What one forward pass takes.

    Attributes:
        ids_T: int64 token ids of all pieces of all rows.
        positions_T: position of each within its piece.
        lengths: tokens of each piece.
        sources_N: where in T the hidden state that predicts each target is.
        targets_N: token ids to predict.
    """

    ids_T: Tensor
    positions_T: Tensor
    lengths: tuple[int, ...]
    sources_N: Tensor
    targets_N: Tensor

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
    )


def micro_batches(rows: Sequence[Row], rows_at_once: int) -> list[MicroBatch]:
    """The rows of a step, at most `rows_at_once` in each micro-batch."""
    cuts = range(0, len(rows), rows_at_once)
    return [micro_batch(rows[cut : cut + rows_at_once]) for cut in cuts]
