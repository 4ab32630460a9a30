"""A dataset folder: what is in it, written and read.

    train.jsonl validation.jsonl test.jsonl   OpenAI's fine-tuning formats, nothing else
    index.jsonl        a row for each example, in order: split, line, kind, symbol, document
    documents.jsonl    where the texts come from: id, source, version, licence, SHA-256, split
    dataset.json       kind (chats where it names none), name, counts, licence, how it was made

The same content gives the same bytes, so a dataset has one digest wherever it is made.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypeVar

from bessemer.core.errors import Conflict, DataError, InvalidInput, NotFound
from bessemer.data.chats import Chat
from bessemer.data.checking import checked_lines
from bessemer.data.corpus import SPLITS, Split
from bessemer.data.jsonl import read_lines
from bessemer.data.preferences import Preference
from bessemer.data.prompts import Prompt
from bessemer.data.shapes import CHATS, PREFERENCES, PROMPTS, Example, Shape

FORMAT = 1
E = TypeVar("E", bound=Example)


class Row(NamedTuple):
    """One example, its split, and the id of the document it was made from."""

    split: Split
    example: Example
    document: str


@dataclass(frozen=True)
class Dataset:
    """A dataset folder opened for reading."""

    folder: Path
    info: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Dataset:
        """Raises NotFound when `folder` is no dataset, DataError when it is a later kind."""
        try:
            info = json.loads((folder / "dataset.json").read_bytes())
        except OSError:
            raise NotFound(
                f"{folder} is not a dataset (it has no dataset.json)",
                next_step="bessemer data import FILE.jsonl makes one",
            ) from None
        if info.get("format") != FORMAT:
            raise DataError(f"{folder} has dataset format {info.get('format')}, not {FORMAT}")
        return cls(folder, info)

    def split(self, name: Split) -> list[Chat]:
        """The chats of "train", "validation" or "test", in the order of the file."""
        return list(self.iterate(name))

    def iterate(self, name: Split) -> Iterator[Chat]:
        """The same, one in memory at a time.

        Raises:
            InvalidInput: the dataset holds something else than chats.
        """
        return self._examples(name, CHATS)

    def preferences(self, name: Split) -> Iterator[Preference]:
        """The pairs of a split, one in memory at a time; raises as `iterate` does."""
        return self._examples(name, PREFERENCES)

    def prompts(self, name: Split) -> Iterator[Prompt]:
        """The prompts of a split, one in memory at a time; raises as `iterate` does."""
        return self._examples(name, PROMPTS)

    @property
    def kind(self) -> str:
        """What its lines are: "chats", "preferences" or "prompts"."""
        return str(self.info.get("kind", CHATS.name))

    def documents(self) -> list[dict[str, Any]]:
        """Where the texts come from."""
        return [line.value for line in read_lines(self.folder / "documents.jsonl")]

    def _examples(self, name: Split, shape: Shape[E]) -> Iterator[E]:
        if self.kind != shape.name:
            raise InvalidInput(
                f"{self.info.get('name', self.folder)} holds {self.kind}; {shape.name} are needed",
                next_step="name another dataset: bessemer data list",
            )
        return self._read(name, shape)

    def _read(self, name: Split, shape: Shape[E]) -> Iterator[E]:
        if not self.info["counts"][name]:
            return
        rows = (row for row in self._index() if row["split"] == name)
        lines = checked_lines(self.folder / f"{name}.jsonl", shape)
        for line, row in zip(lines, rows, strict=True):
            yield shape.parse(line, row["kind"], row["symbol"])

    def _index(self) -> Iterator[dict[str, Any]]:
        for line in read_lines(self.folder / "index.jsonl"):
            yield line.value


def write_dataset(
    folder: Path,
    rows: Iterable[Row],
    documents: Iterable[dict[str, Any]],
    info: dict[str, Any],
    shape: Shape[Example] = CHATS,
) -> dict[str, Any]:
    """Write a dataset and return what `Dataset.open(folder).info` will be.

    Args:
        folder: new or empty; made if it is not there.
        rows: the examples in order; each split's file keeps that order.
        documents: JSON objects in order.
        info: what to say about it: name, licence, how it was made.
        shape: of all the examples.

    Raises:
        Conflict: the folder is not empty.
        DataError: there are no rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise Conflict(f"{folder} is not empty", next_step="name a new folder for the dataset")
    counts = dict.fromkeys(SPLITS, 0)
    kinds: dict[str, int] = {}
    with ExitStack() as stack:
        files = {name: stack.enter_context(_create(folder / f"{name}.jsonl")) for name in SPLITS}
        index = stack.enter_context(_create(folder / "index.jsonl"))
        for split, one, document in rows:
            counts[split] += 1
            kinds[one.kind or shape.one] = kinds.get(one.kind or shape.one, 0) + 1
            _write(files[split], one.as_line())
            place = {"split": split, "line": counts[split]}
            _write(index, place | {"kind": one.kind, "symbol": one.symbol, "document": document})
    if not sum(counts.values()):
        raise DataError("the dataset would be empty", next_step="give it at least one example")
    number = _write_all(folder / "documents.jsonl", documents)
    kind = {} if shape is CHATS else {"kind": shape.name}
    facts = {"format": FORMAT, **kind, **info, shape.name: sum(counts.values()), "counts": counts}
    facts |= {"kinds": dict(sorted(kinds.items())), "documents": number}
    (folder / "dataset.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return facts


def _create(path: Path) -> TextIO:
    return path.open("x", encoding="utf-8", newline="\n")


def _write(file: TextIO, value: dict[str, Any]) -> None:
    file.write(json.dumps(value, ensure_ascii=False) + "\n")


def _write_all(path: Path, values: Iterable[dict[str, Any]]) -> int:
    count = 0
    with _create(path) as file:
        for value in values:
            _write(file, value)
            count += 1
    return count
