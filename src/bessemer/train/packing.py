"""Rows: documents side by side in a fixed number of tokens, unable to see each other.

The row at position k is a pure function of (seed, k): a run that stops needs to remember one
integer, and any process can make any row. No torch here; `batch` turns rows into tensors.

A chat is never cut; a row holds whole chats (first fit). A pretraining document is cut where a
row ends; the pieces of one document in two rows are strangers to each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Columns = Mapping[str, NDArray[Any]]
NO_COLUMNS: Columns = MappingProxyType({})


class Row(NamedTuple):
    """Tokens of several pieces, and what is to be predicted.

    Attributes:
        ids: all tokens, one piece after another.
        lengths: tokens of each piece; they sum to `len(ids)`.
        sources: index within `ids` of the token that sees up to, and predicts, each target.
        targets: the token ids to predict.
        columns: what an objective knows besides, one entry a piece or one a target.
    """

    ids: Ids
    lengths: tuple[int, ...]
    sources: Ids
    targets: Ids
    columns: Columns = NO_COLUMNS


class Rows(Protocol):
    """An endless sequence of rows in a fixed order."""

    def row(self, position: int) -> Row: ...


class Piece(NamedTuple):
    """One chat as tokens; `is_target[i]` says whether token i is taught.

    `columns` have one entry (for the piece) or one for each target that can be predicted.
    """

    ids: Ids
    is_target: NDArray[np.bool_]
    columns: Columns = NO_COLUMNS


def shuffled(count: int, seed: int, epoch: int) -> list[int]:
    """A permutation of range(count) that is the same on every machine and library version."""
    keys = [hashlib.sha256(f"{seed}/{epoch}/{i}".encode()).digest() for i in range(count)]
    return sorted(range(count), key=keys.__getitem__)


def first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put each item into the first bin with room for it; bins list item indices.

    >>> first_fit([5, 4, 3, 2], capacity=7)
    [[0, 3], [1, 2]]
    """
    room = np.zeros(len(lengths), dtype=np.int64)
    bins: list[list[int]] = []
    for item, length in enumerate(lengths):
        assert 0 < length <= capacity, (item, length, capacity)
        fits = room[: len(bins)] >= length
        place = int(fits.argmax()) if fits.any() else len(bins)
        if place == len(bins):
            bins.append([])
            room[place] = capacity
        bins[place].append(item)
        room[place] -= length
    return bins


class ChatRows:
    """Rows of whole chats; each epoch visits every chat once, in an order of its own.

    Args:
        pieces: the chats, none longer than `sequence_length`.
        shuffle: False keeps the given order (for validation).
    """

    def __init__(
        self, pieces: Sequence[Piece], sequence_length: int, seed: int, *, shuffle: bool = True
    ) -> None:
        assert pieces, "no chats"
        self._pieces = pieces
        self._capacity = sequence_length
        self._seed = seed
        self._shuffle = shuffle
        self._epochs: list[list[list[int]]] = []

    def epoch(self, number: int) -> list[list[int]]:
        """Which chats make up each row of an epoch."""
        while len(self._epochs) <= number:
            self._epochs.append(self._pack(len(self._epochs)))
        return self._epochs[number]

    def row(self, position: int) -> Row:
        epoch = 0
        while position >= len(self.epoch(epoch)):
            position -= len(self.epoch(epoch))
            epoch += 1
        return join([self._pieces[i] for i in self.epoch(epoch)[position]])

    def _pack(self, epoch: int) -> list[list[int]]:
        count = len(self._pieces)
        order = shuffled(count, self._seed, epoch) if self._shuffle else list(range(count))
        bins = first_fit([len(self._pieces[i].ids) for i in order], self._capacity)
        return [[order[k] for k in chosen] for chosen in bins]


def join(pieces: Sequence[Piece]) -> Row:
    """Pieces side by side. The first token of a piece is never predicted: nothing comes before."""
    ids = np.concatenate([piece.ids for piece in pieces])
    predicted = np.concatenate([_after_first(piece.is_target) for piece in pieces])
    places = predicted.nonzero()[0]
    lengths = tuple(len(piece.ids) for piece in pieces)
    return Row(
        ids, lengths, places - 1, ids[places], side_by_side([piece.columns for piece in pieces])
    )


def side_by_side(columns: Sequence[Columns]) -> Columns:
    """Columns of several pieces or rows, joined along the first axis."""
    assert all(each.keys() == columns[0].keys() for each in columns), [set(c) for c in columns]
    return {name: np.concatenate([each[name] for each in columns]) for name in columns[0]}


def _after_first(is_target: NDArray[np.bool_]) -> NDArray[np.bool_]:
    predicted = is_target.copy()
    predicted[:1] = False
    return predicted


class DocumentRows:
    """Rows cut from a stream of documents; every token is a target.

    Each document begins with `start_id`, which the last token of the document before it has to
    predict: that is how the model learns to end.

    Args:
        documents: token ids of each document, without `start_id`.
        shuffle: False keeps the given order (for validation).
    """

    def __init__(
        self,
        documents: Sequence[Ids],
        sequence_length: int,
        seed: int,
        start_id: int,
        *,
        shuffle: bool = True,
    ) -> None:
        tokens = sum(map(len, documents)) + len(documents)
        self.rows_per_epoch = (tokens - 1) // sequence_length
        assert self.rows_per_epoch > 0, f"{tokens} tokens make no row of {sequence_length}"
        self._documents = documents
        self._length = sequence_length
        self._seed = seed
        self._start_id = start_id
        self._shuffle = shuffle
        self._cached_epoch: int | None = None

    def row(self, position: int) -> Row:
        epoch, index = divmod(position, self.rows_per_epoch)
        if epoch != self._cached_epoch:
            self._lay_out(epoch)
            self._cached_epoch = epoch
        begin = self._order[index] * self._length
        end = begin + self._length
        inner = self._starts[(self._starts > begin) & (self._starts < end)]
        lengths = np.diff(np.concatenate(([begin], inner, [end])))
        return Row(
            self._stream[begin:end],
            tuple(int(length) for length in lengths),
            np.arange(self._length),
            self._stream[begin + 1 : end + 1],
        )

    def _lay_out(self, epoch: int) -> None:
        count = len(self._documents)
        order = shuffled(count, self._seed, epoch) if self._shuffle else list(range(count))
        start = np.array([self._start_id], dtype=np.int64)
        parts = [part for i in order for part in (start, self._documents[i])]
        self._stream = np.concatenate(parts)
        lengths = [len(self._documents[i]) + 1 for i in order]
        self._starts = np.cumsum([0, *lengths[:-1]])
        # Rows of one long file would follow each other; mixing them makes each step see many.
        rows = self.rows_per_epoch
        self._order = shuffled(rows, ~self._seed, epoch) if self._shuffle else list(range(rows))
