"""Preference pairs as tokens, and rows of whole pairs.

In a row the pieces come in twos: a preferred answer behind its prompt, then the rejected answer
behind the same prompt. A pair is never divided between rows, so `view(-1, 2)` of anything that has
one value a piece is preferred and rejected, pair by pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bessemer.core.errors import DataError, InvalidInput
from bessemer.core.train_recipe import TrainRecipe
from bessemer.data.chats import Message
from bessemer.data.corpus import Split
from bessemer.data.dataset import Dataset
from bessemer.data.packing import ChatRows, Ids, Piece, Row, join
from bessemer.data.preferences import Preference
from bessemer.text.chat_encoding import encode_chat, encode_prompt
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer
from bessemer.train.material import digest_of
from bessemer.train.task import Setting


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
        self, pairs: Sequence[Pair], sequence_length: int, seed: int, *, shuffle: bool = True
    ) -> None:
        self.pairs = pairs
        wholes = [pair.whole for pair in pairs]
        self._packing = ChatRows(wholes, sequence_length, seed, shuffle=shuffle)

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


def pair_material(setting: Setting) -> PairMaterial:
    """The pairs of the recipe's dataset, as the model writes them.

    Raises:
        InvalidInput: the dataset holds no preferences, a split is empty, or a pair is longer than
            a row and the recipe says refuse.
    """
    recipe, dataset = setting.recipe, Dataset.open(setting.dataset_path())
    tokenizer, template = setting.tokenizer, ChatTemplate.load(setting.model_path())
    length = recipe.batch.sequence_length

    def fitting(split: Split) -> tuple[list[Pair], list[int], int]:
        every = _encode(dataset.preferences(split), tokenizer, template)
        lines = [i for i, pair in enumerate(every) if len(pair.whole.ids) <= length]
        return [every[i] for i in lines], lines, len(every) - len(lines)

    train, lines, train_dropped = fitting("train")
    validation, _, validation_dropped = fitting("validation")
    _check(recipe, train, validation, train_dropped + validation_dropped)
    judged = _first_rows(PairRows(validation, length, 0, shuffle=False), recipe.evaluation.rows)
    pieces = (piece for pair in (*train, *judged) for piece in pair)
    first = next(dataset.preferences("validation"))
    return PairMaterial(
        train=PairRows(train, length, recipe.seed),
        train_lines=lines,
        validation=PairRows(judged, length, 0, shuffle=False),
        prompt=encode_prompt(first.messages, tokenizer, template, first.tools),
        digest=digest_of(piece.ids for piece in pieces),
        facts={
            "train_pairs": len(train),
            "train_tokens": sum(len(pair.whole.ids) for pair in train),
            "validation_pairs": len(judged),
            "over_long_pairs_dropped": train_dropped + validation_dropped,
        },
    )


def _encode(
    preferences: Iterable[Preference], tokenizer: Tokenizer, template: ChatTemplate
) -> list[Pair]:
    pairs = []
    for number, each in enumerate(preferences, start=1):
        try:
            chosen, rejected = (
                _piece(each, answer, tokenizer, template)
                for answer in (each.preferred, each.rejected)
            )
        except InvalidInput as fault:
            raise DataError(fault.message, line=number, next_step=fault.next_step) from fault
        pairs.append(Pair(chosen, rejected))
    return pairs


def _piece(
    pair: Preference, answer: Message, tokenizer: Tokenizer, template: ChatTemplate
) -> Piece:
    # Answers given before are what both follow; nothing is learned from them.
    before = [m | {"weight": 0} if m["role"] == "assistant" else m for m in pair.messages]
    ids, is_target = encode_chat([*before, answer], tokenizer, template, tools=pair.tools)
    return Piece(np.array(ids, dtype=np.int64), np.array(is_target, dtype=np.bool_))


def _check(
    recipe: TrainRecipe, train: Sequence[Pair], validation: Sequence[Pair], dropped: int
) -> None:
    length = recipe.batch.sequence_length
    if dropped and recipe.dataset.over_long == "refuse":
        raise InvalidInput(
            f"{dropped} pairs are longer than a row of {length} tokens (both answers together)",
            next_step='set batch.sequence_length higher, or data.over_long="drop"',
        )
    for split, found in (("train", train), ("validation", validation)):
        if not found:
            raise InvalidInput(
                f"the {split} split of {recipe.dataset.name} has no pair of at most {length} tokens"
                f" ({dropped} are longer)",
                next_step="set batch.sequence_length higher, or name a larger dataset",
            )


def _first_rows(rows: PairRows, count: int) -> list[Pair]:
    wanted = range(min(count, rows.rows_per_epoch))
    return [rows.pairs[i] for position in wanted for i in sorted(rows.members(position))]
