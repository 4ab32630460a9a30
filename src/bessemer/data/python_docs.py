"""The default dataset, made on the machine: chats about the interpreter's own standard library.

Every public symbol with a docstring becomes up to two chats:

- *describe*: its kind and signature -> the first paragraph of its docstring;
- *name*: that paragraph with the name masked -> the symbol's own name, so that exact match means
  something. (A constructor's docstring does not tell its name; it has only the first kind.)

Nothing is imported or run. Symbols whose texts are near-duplicates are left out but the first,
and a symbol is in one split by the hash of its name within its module: what two modules both
export under one name is never on both sides.

    >>> build(Path("python-docs"))["chats"]                                   # doctest: +SKIP
    10070
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bessemer.core.errors import DataError
from bessemer.data.chats import Chat
from bessemer.data.corpus import (
    LICENCE,
    Split,
    read_source,
    source_files,
    source_name,
    split_of,
    split_order,
)
from bessemer.data.dataset import Row, write_dataset
from bessemer.data.duplicates import THRESHOLD, group_near_duplicates
from bessemer.data.paragraphs import count_words, first_paragraph, mask
from bessemer.data.symbols import Symbol, module_name, symbols_of

NAME = "python-docs"
FEWEST_WORDS_TO_GUESS = 4


class Entry(NamedTuple):
    """A symbol that made it into the dataset: where it is from and what it says."""

    symbol: Symbol
    source: str
    text: str

    @property
    def masked(self) -> str:
        return mask(self.text, self.symbol.own_name)

    @property
    def key(self) -> str:
        """What decides the split; the module is left out because of re-exports."""
        return self.symbol.path or self.symbol.module

    @property
    def split(self) -> Split:
        return split_of(self.key)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.symbol.docstring.encode()).hexdigest()

    @property
    def id(self) -> str:
        bound = f"{self.symbol.dotted}\0{self.sha256}"
        return "doc_" + hashlib.sha256(bound.encode()).hexdigest()[:16]


def build(folder: Path, modules: Collection[str] | None = None) -> dict[str, Any]:
    """Make the dataset in `folder`; the same Python makes the same bytes.

    Args:
        folder: new or empty.
        modules: top-level modules to take; None for the whole library.

    Returns:
        What dataset.json holds: counts, kinds, licence, and what was left out and why.

    Raises:
        Missing: this Python came without its source.
        DataError: none of `modules` has a documented symbol.
    """
    found = list(_read(modules))
    prose = [entry for entry in found if entry.text]
    distinct = _distinct(_distinct(prose, lambda entry: entry.text), lambda entry: entry.masked)
    if not distinct:
        raise DataError(f"no documented symbol in {sorted(modules or [])}")
    rows = [Row(entry.split, chat, entry.id) for entry in distinct for chat in _chats(entry)]
    # By hash, so that the first hundred of a split are a fair sample of it.
    rows.sort(key=lambda row: (split_order(f"{row.example.kind} {row.document}"), row.document))
    return write_dataset(
        folder,
        rows,
        map(_document, distinct),
        {
            "name": NAME,
            "licence": LICENCE,
            "copyright": " ".join(sys.copyright.split()),
            "made_from": f"the standard library of Python {platform.python_version()}",
            "made_by": "docstrings and signatures by ast; two kinds of chats for a symbol",
            "split_by": "SHA-256 of the symbol's name within its module, 90/5/5",
            "symbols": len(distinct),
            "left_out": {
                "without_prose": len(found) - len(prose),
                "near_duplicates": len(prose) - len(distinct),
                "jaccard_threshold": THRESHOLD,
            },
        },
    )


def _read(modules: Collection[str] | None) -> Iterator[Entry]:
    """Every public documented symbol; the text is empty where there is no prose to use."""
    seen: set[str] = set()
    for path in source_files():
        source = source_name(path)
        module = module_name(source)
        if module is None or (modules is not None and module.split(".")[0] not in modules):
            continue
        for symbol in symbols_of(read_source(path), module):
            if symbol.dotted not in seen:
                seen.add(symbol.dotted)
                yield Entry(symbol, source, first_paragraph(symbol.docstring) or "")


def _distinct(entries: list[Entry], text_of: Callable[[Entry], str]) -> list[Entry]:
    """The first entry of each group of near-duplicates."""
    texts = [text_of(entry) for entry in entries]
    groups = group_near_duplicates(texts, texts.__getitem__)
    return [entries[index] for index, first in enumerate(groups) if index == first]


def _chats(entry: Entry) -> Iterator[Chat]:
    symbol = entry.symbol
    yield _chat("describe", symbol, _describe_question(symbol), entry.text)
    if symbol.own_name != "__init__" and count_words(entry.masked) >= FEWEST_WORDS_TO_GUESS:
        yield _chat("name", symbol, _name_question(symbol, entry.masked), symbol.own_name)


def _chat(kind: str, symbol: Symbol, question: str, answer: str) -> Chat:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Chat(messages, kind=kind, symbol=symbol.dotted)


def _describe_question(symbol: Symbol) -> str:
    return f"What is this {symbol.kind} of Python's standard library for?\n\n{symbol.signature}"


def _name_question(symbol: Symbol, masked: str) -> str:
    # `timeit.timeit`: where it is may tell what it is called.
    container = mask(symbol.container, symbol.own_name)
    place = f"`{container}`" if symbol.path else "Python's standard library"
    return (
        f"Which {symbol.kind} of {place} does this describe? Answer with its name only.\n\n{masked}"
    )


def _document(entry: Entry) -> dict[str, Any]:
    symbol = entry.symbol
    return {
        "id": entry.id,
        "module": symbol.module,
        "symbol": symbol.dotted,
        "kind": symbol.kind,
        "source": f"{entry.source}:{symbol.line}",
        "python": platform.python_version(),
        "licence": LICENCE,
        "sha256": entry.sha256,
        "split": entry.split,
    }
