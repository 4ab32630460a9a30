"""Examples as tokens, and which of them fit into a row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from bessemer.core.errors import DataError, InvalidInput
from bessemer.core.train_recipe import TrainRecipe
from bessemer.data.chats import Chat, Message
from bessemer.data.corpus import Split
from bessemer.data.packing import Ids, Piece
from bessemer.text.chat_encoding import encode_chat
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer

T = TypeVar("T")
# Splits that a run reads; the third is for evaluations.
LEARNED: tuple[Split, ...] = ("train", "validation")


class Fitting(NamedTuple, Generic[T]):
    """The examples of a split that fit into a row.

    Attributes:
        kept: those.
        lines: which example of the split each of them is, from 0.
        too_long: how many do not fit.
    """

    kept: list[T]
    lines: list[int]
    too_long: int


def fitting(examples: Sequence[T], lengths: Iterable[int], longest: int) -> Fitting[T]:
    """Those of at most `longest` tokens."""
    lines = [line for line, length in enumerate(lengths) if length <= longest]
    return Fitting([examples[line] for line in lines], lines, len(examples) - len(lines))


def check_fitting(
    recipe: TrainRecipe,
    found: Mapping[Split, Fitting[Any]],
    *,
    one: str,
    longest: int,
    too_long: str,
    remedy: str,
) -> None:
    """Refuse what cannot be learned from.

    Args:
        one: what an example is called.
        too_long: says of several that they do not fit: "are longer than a row".
        remedy: what helps where none fits, besides longer rows.

    Raises:
        InvalidInput: some are too long and the recipe says refuse, or a split has none.
    """
    count = sum(each.too_long for each in found.values())
    if count and recipe.dataset.over_long == "refuse":
        raise InvalidInput(
            f"{count} {one}s {too_long}",
            next_step='set batch.sequence_length higher, or data.over_long="drop"',
        )
    for split, each in found.items():
        if not each.kept:
            raise InvalidInput(
                f"the {split} split of {recipe.dataset.name} has no {one} of at most {longest}"
                f" tokens ({each.too_long} are longer)",
                next_step=f"set batch.sequence_length higher, or {remedy}",
            )


def encode_chats(
    chats: Sequence[Chat], tokenizer: Tokenizer, template: ChatTemplate, roles: Sequence[str]
) -> list[Piece]:
    """Chats in tokens, taught on the messages of `roles`.

    Raises:
        DataError: naming the chat that the template cannot write.
    """
    pieces = []
    for number, chat in enumerate(chats, start=1):
        with at_line(number):
            pieces.append(piece_of(chat.messages, tokenizer, template, chat.tools, roles))
    return pieces


def piece_of(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    tools: Sequence[Message] | None = None,
    roles: Sequence[str] = ("assistant",),
) -> Piece:
    """One chat in tokens; see `encode_chat`."""
    ids, is_target = encode_chat(messages, tokenizer, template, roles, tools)
    return Piece(np.array(ids, dtype=np.int64), np.array(is_target, dtype=np.bool_))


@contextmanager
def at_line(number: int) -> Iterator[None]:
    """What is refused within the `with` becomes a DataError that names the line."""
    try:
        yield
    except InvalidInput as fault:
        raise DataError(fault.message, line=number, next_step=fault.next_step) from fault


def digest_of(ids: Iterable[Ids]) -> str:
    """SHA-256 of token ids, piece by piece."""
    digest = hashlib.sha256()
    for piece in ids:
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece.tobytes())
    return digest.hexdigest()
