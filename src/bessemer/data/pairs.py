"""Preference pairs as tokens, and rows of whole pairs.

In a row the pieces come in twos: a preferred answer behind its prompt, then the rejected answer
behind the same prompt. A pair is never divided between rows, so `view(-1, 2)` of anything that has
one value a piece is preferred and rejected, pair by pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bessemer.core.train_recipe import TrainRecipe
from bessemer.core.train_sections import Packing
from bessemer.data.chats import as_context
from bessemer.data.corpus import Split
from bessemer.data.dataset import Dataset
from bessemer.data.packing import ChatRows, Ids, Piece, Row, join
from bessemer.data.pieces import (
    LEARNED,
    Fitting,
    at_line,
    check_fitting,
    digest_of,
    fitting,
    piece_of,
)
from bessemer.data.preferences import Preference
from bessemer.text.chat_encoding import encode_prompt
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer


class Pair(NamedTuple):
    """Two answers to one prompt, each behind the prompt."""

    chosen: Piece
    rejected: Piece

    @property
    def whole(self) -> Piece:
        """Both side by side, for what only needs to know how long they are."""
        ids, is_target = zip(*(piece[:2] for piece in self), strict=True)
        return Piece(np.concatenate(ids), np.concatenate(is_target))


class PairRows:
    """An endless sequence of rows of whole pairs; see `packing.ChatRows`."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        sequence_length: int,
        seed: int,
        *,
        shuffle: bool = True,
        packing: Packing = "first-fit",
    ) -> None:
        self.pairs = pairs
        wholes = [pair.whole for pair in pairs]
        self._packing = ChatRows(wholes, sequence_length, seed, shuffle=shuffle, packing=packing)

    @property
    def rows_per_epoch(self) -> int:
        return self._packing.rows_per_epoch

    def members(self, position: int) -> list[int]:
        """Which pairs make up the row at a position."""
        return self._packing.members(position)

    def positions(self, pairs: Sequence[int], end: int) -> Ids:
        """The positions below `end` whose rows hold any of these pairs, ascending."""
        return self._packing.positions(pairs, end)

    def row(self, position: int) -> Row:
        return join([piece for i in self.members(position) for piece in self.pairs[i]])


class PairMaterial(NamedTuple):
    """What a run over pairs learns from and is judged on.

    Attributes:
        train: in the recipe's order.
        train_lines: which pair of the split each pair of `train` is, from 0.
        validation: as many rows as the recipe says, in the order of the file.
        prompt: token ids of the first validation prompt.
        digest: SHA-256 of the tokens.
        facts: counts for the plan event.
    """

    train: PairRows
    train_lines: list[int]
    validation: PairRows
    prompt: list[int]
    digest: str
    facts: dict[str, Any]


def pair_material(recipe: TrainRecipe, dataset: Path, model: Path) -> PairMaterial:
    """The pairs of a dataset, as the model at `model` writes them.

    Raises:
        InvalidInput: the dataset holds no preferences, a split is empty, or a pair is longer than
            a row and the recipe says refuse.
    """
    opened, length = Dataset.open(dataset), recipe.batch.sequence_length
    tokenizer, template = Tokenizer.load(model), ChatTemplate.load(model)
    found: dict[Split, Fitting[Pair]] = {}
    for split in LEARNED:
        every = _encode(opened.preferences(split), tokenizer, template)
        found[split] = fitting(every, (len(pair.whole.ids) for pair in every), length)
    check_fitting(
        recipe,
        found,
        one="pair",
        longest=length,
        too_long=f"are longer than a row of {length} tokens (both answers together)",
        remedy="name a larger dataset",
    )
    train, validation = found["train"].kept, found["validation"].kept
    packing = recipe.batch.packing
    held_out = PairRows(validation, length, 0, shuffle=False, packing=packing)
    judged = _first_rows(held_out, recipe.evaluation.rows)
    first = next(opened.preferences("validation"))
    return PairMaterial(
        train=PairRows(train, length, recipe.seed, packing=packing),
        train_lines=found["train"].lines,
        validation=PairRows(judged, length, 0, shuffle=False, packing=packing),
        prompt=encode_prompt(first.messages, tokenizer, template, first.tools),
        digest=digest_of(piece.ids for pair in (*train, *judged) for piece in pair),
        facts={
            "train_pairs": len(train),
            "train_tokens": sum(len(pair.whole.ids) for pair in train),
            "validation_pairs": len(judged),
            "over_long_pairs_dropped": sum(each.too_long for each in found.values()),
        },
    )


def _encode(
    preferences: Iterable[Preference], tokenizer: Tokenizer, template: ChatTemplate
) -> list[Pair]:
    pairs = []
    for number, each in enumerate(preferences, start=1):
        before = as_context(each.messages)
        with at_line(number):
            chosen, rejected = (
                piece_of([*before, answer], tokenizer, template, each.tools)
                for answer in (each.preferred, each.rejected)
            )
        pairs.append(Pair(chosen, rejected))
    return pairs


def _first_rows(rows: PairRows, count: int) -> list[Pair]:
    wanted = range(min(count, rows.rows_per_epoch))
    return [rows.pairs[i] for position in wanted for i in sorted(rows.members(position))]
