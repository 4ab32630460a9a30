"""Pairs that need no person to judge: the right answer, and the one to another question.

Made from the chats of python-docs. Within each split, the chats of one kind about symbols of one
kind (functions, methods, ...) of one module family stand in a circle, in the order of their
hashes; the rejected answer to each is the next one that differs. So a text is as often preferred
as rejected, and only the question tells which it is. A chat whose circle holds no other answer is
put into one for its kinds alone, whatever the family.

    >>> build(Dataset.open(python_docs), Path("pairs"))["preferences"]        # doctest: +SKIP
    10069
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bessemer.data.chats import Chat
from bessemer.data.corpus import SPLITS, Split, split_order
from bessemer.data.dataset import Dataset, Row, write_dataset
from bessemer.data.preferences import Preference
from bessemer.data.shapes import PREFERENCES

NAME = "python-docs-preferences"


class _Asked(NamedTuple):
    """A chat of python-docs, its place among all, and the document it was made from."""

    number: int
    split: Split
    chat: Chat
    document: dict[str, Any]

    @property
    def answer(self) -> str:
        return str(self.chat.messages[-1]["content"])

    @property
    def kinds(self) -> tuple[Hashable, ...]:
        return self.split, self.chat.kind, self.document["kind"]

    @property
    def family(self) -> tuple[Hashable, ...]:
        return *self.kinds, self.document["module"].partition(".")[0]


def build(chats: Dataset, folder: Path) -> dict[str, Any]:
    """Make the dataset in `folder` from python-docs; the same chats make the same bytes.

    Returns:
        What dataset.json holds: counts, kinds, licence, how the rejected answers were chosen.
    """
    asked = list(_read(chats))
    near = _next_answers(asked, lambda one: one.family)
    rest = [one for one in asked if one.number not in near]
    far = _next_answers(rest, lambda one: one.kinds)
    return write_dataset(
        folder,
        _rows(asked, {**near, **far}),
        chats.documents(),
        {
            "name": NAME,
            **{key: chats.info[key] for key in ("licence", "copyright") if key in chats.info},
            "made_from": f"{chats.info['name']}, that is {chats.info['made_from']}",
            "made_by": "preferred: the right answer; rejected: the right answer about another"
            " symbol of the same kind and module family, in the same split",
            "split_by": chats.info["split_by"],
            "rejected_from": {"same_family": len(near), "another_family": len(far)},
            "left_out": {"without_another_answer": len(rest) - len(far)},
        },
        PREFERENCES,
    )


def _read(chats: Dataset) -> Iterator[_Asked]:
    documents = {document["symbol"]: document for document in chats.documents()}
    number = 0
    for split in SPLITS:
        for chat in chats.iterate(split):
            yield _Asked(number, split, chat, documents[chat.symbol])
            number += 1


def _next_answers(
    asked: Sequence[_Asked], circle_of: Callable[[_Asked], Hashable]
) -> dict[int, str]:
    """For each chat whose circle has another answer, the next one around."""
    circles: dict[Hashable, list[_Asked]] = {}
    for one in asked:
        circles.setdefault(circle_of(one), []).append(one)
    found = {}
    for circle in circles.values():
        circle.sort(key=lambda one: (split_order(f"{one.document['id']}"), one.number))
        for place, one in enumerate(circle):
            after = circle[place + 1 :] + circle[:place]
            other = next((two.answer for two in after if two.answer != one.answer), None)
            if other is not None:
                found[one.number] = other
    return found


def _rows(asked: Sequence[_Asked], rejected: Mapping[int, str]) -> Iterator[Row]:
    for one in asked:
        if one.number in rejected:
            *before, preferred = one.chat.messages
            other = {"role": "assistant", "content": rejected[one.number]}
            pair = Preference(before, preferred, other, one.chat.kind, one.chat.symbol)
            yield Row(one.split, pair, one.document["id"])
