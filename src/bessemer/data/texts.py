"""Reads texts to pretrain on: a folder of text files, or a file of JSON lines, one at a time.

    {"text": "Once upon a time", "id": "tale-1", "licence": "CC0-1.0"}

`id` and `licence` may be absent: a line is then called `line-17`, and has the licence that is
given for all. Every file of a folder is a document, called by its path; names that begin with a
dot are left out. All text is UTF-8; what is not, or is no such line, stops the reading by name.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bessemer.core.errors import DataError, InvalidInput
from bessemer.data.corpus import Document
from bessemer.data.jsonl import Line, read_lines

KEYS = ("text", "id", "licence")


class Texts:
    """The documents of a folder or of a JSONL file, in the order of their paths or lines.

    Args:
        source: the folder or file.
        licence: an SPDX expression for documents that do not state their own.

    Attributes:
        left_out: keys of JSON lines that mean nothing here, and how many lines had each; complete
            when all documents were read.
    """

    def __init__(self, source: Path, licence: str | None = None) -> None:
        if not source.exists():
            raise InvalidInput(
                f"{source} is neither a folder nor a file",
                next_step="name python-stdlib, a folder of text files, or a .jsonl file",
            )
        self.source = source
        self.left_out: Counter[str] = Counter()
        self._licence = licence

    def __iter__(self) -> Iterator[Document]:
        return self._files() if self.source.is_dir() else self._lines()

    def _files(self) -> Iterator[Document]:
        for path in sorted(_visible_files(self.source), key=lambda path: path.as_posix()):
            name = path.relative_to(self.source).as_posix()
            yield Document(name, _read(path), self._licence)

    def _lines(self) -> Iterator[Document]:
        seen: set[bytes] = set()
        for line in read_lines(self.source):
            document = self._document(line)
            key = hashlib.blake2b(document.id.encode(), digest_size=16).digest()
            if key in seen:
                raise DataError(
                    f"the id {document.id!r} is that of an earlier line",
                    line=line.number,
                    next_step="give every document an id of its own, or none an id",
                )
            seen.add(key)
            yield document

    def _document(self, line: Line) -> Document:
        if fault := line.fault or _fault_of(line.value):
            raise DataError(
                fault,
                line=line.number,
                next_step='write one {"text": "...", "id": "...", "licence": "..."} a line',
            )
        self.left_out.update(key for key in line.value if key not in KEYS)
        id_ = line.value.get("id") or f"line-{line.number}"
        return Document(id_, line.value["text"], line.value.get("licence") or self._licence)


def _fault_of(value: Any) -> str | None:
    if not isinstance(value, dict):
        return "is not an object"
    if "text" not in value:
        return f"has no text; its keys are {', '.join(value) or 'none'}"
    for key in KEYS:
        if not isinstance(value.get(key) or "", str):
            return f"{key} is not a string"
    return "text is not a string" if value["text"] is None else None


def _visible_files(folder: Path) -> Iterator[Path]:
    for here, inside, names in os.walk(folder):
        inside[:] = [name for name in inside if not name.startswith(".")]
        yield from (Path(here, name) for name in names if not name.startswith("."))


def _read(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")  # a byte order mark is no text
    except UnicodeDecodeError as fault:
        raise DataError(
            f"{path} is not UTF-8 text: byte {fault.start + 1:,} is 0x{data[fault.start]:02X}",
            next_step="convert it, or move it out of the folder",
        ) from None
