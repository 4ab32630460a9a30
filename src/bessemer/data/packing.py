"""Rows: documents side by side in a fixed number of tokens, unable to see each other.

The row at position k is a pure function of (seed, k), found without looking at any other
(`data.order`): a run that stops needs to remember one integer, any process can make any row, and
`positions` says at which positions a chat or document is. No torch here; `batch` turns rows into
tensors.

A chat is never cut; a row holds whole chats (first fit). A pretraining document is cut where a
row ends; the pieces of one document in two rows are strangers to each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bessemer.core.errors import InvalidInput
from bessemer.core.train_sections import Packing
from bessemer.data.order import Order
from bessemer.data.shards import TokenShards

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
    """Rows of whole chats; each epoch visits every row once, in an order of its own.

    The chats are packed once, in an order that the seed decides, so the same chats share a row in
    every epoch.

    Args:
        pieces: the chats, none longer than `sequence_length`.
        shuffle: False keeps the given order (for validation).
        packing: "none" gives each chat a row of its own.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        sequence_length: int,
        seed: int,
        *,
        shuffle: bool = True,
        packing: Packing = "first-fit",
    ) -> None:
        assert pieces, "no chats"
        self._pieces = pieces
        shuffled = Order(len(pieces), seed, purpose="packing", shuffle=shuffle)
        order = [shuffled.at(i).item for i in range(len(pieces))]
        lengths = [len(pieces[i].ids) for i in order]
        apart = [[k] for k in range(len(order))]
        bins = apart if packing == "none" else first_fit(lengths, sequence_length)
        self._bins = [[order[k] for k in chosen] for chosen in bins]
        self._bin_of = np.empty(len(pieces), dtype=np.int64)
        for number, chats in enumerate(self._bins):
            self._bin_of[chats] = number
        self._order = Order(len(self._bins), seed, shuffle=shuffle)

    @property
    def rows_per_epoch(self) -> int:
        return len(self._bins)

    def row(self, position: int) -> Row:
        return join([self._pieces[i] for i in self.members(position)])

    def members(self, position: int) -> list[int]:
        """Which chats make up the row at a position."""
        return self._bins[self._order.at(position).item]

    def positions(self, chats: ArrayLike, end: int) -> Ids:
        """The positions below `end` whose rows hold any of these chats, ascending."""
        return self._order.positions(self._bin_of[np.asarray(chats, dtype=np.int64)], end)


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
    """Rows cut from a stream of documents in token shards; every token is a target.

    Row n of an epoch is the tokens [n * sequence_length, (n + 1) * sequence_length) of the stream
    and predicts each one's successor; what is left at the end makes no row. Each document begins
    with the start token, which the last token of the document before it has to predict: that is
    how the model learns to end. Nothing is read but what a row needs.

    Args:
        shuffle: False keeps the order of the stream (for validation).

    Raises:
        InvalidInput: the stream is too short for one row.
    """

    def __init__(
        self, shards: TokenShards, sequence_length: int, seed: int, *, shuffle: bool = True
    ) -> None:
        self.rows_per_epoch = (shards.tokens - 1) // sequence_length
        if self.rows_per_epoch < 1:
            raise InvalidInput(
                f"{shards.tokens:,} tokens in {shards.folder.name} make no row of"
                f" {sequence_length:,}",
                next_step="set batch.sequence_length lower, or name a larger dataset",
            )
        self._shards = shards
        self._length = sequence_length
        self._order = Order(self.rows_per_epoch, seed, shuffle=shuffle)

    def row(self, position: int) -> Row:
        begin = self._order.at(position).item * self._length
        end = begin + self._length
        tokens = self._shards.window(begin, end + 1).astype(np.int64)
        inner = self._shards.documents.starts(begin + 1, end)
        lengths = np.diff(np.concatenate(([begin], inner, [end])))
        return Row(
            tokens[:-1],
            tuple(int(length) for length in lengths),
            np.arange(self._length),
            tokens[1:],
        )

    def rows_of(self, document: int) -> range:
        """The rows of an epoch with tokens of a document, by its number; none for some at the end.

        The first token of a document is also a target of the row before, if a row ends there; that
        row does not count, since the start token says nothing of the document.
        """
        entry = self._shards.documents[document]
        last = min((entry.end - 1) // self._length, self.rows_per_epoch - 1)
        return range(entry.offset // self._length, last + 1)

    def positions(self, document: int, end: int) -> Ids:
        """The positions below `end` whose rows hold tokens of a document, ascending."""
        return self._order.positions(self.rows_of(document), end)
