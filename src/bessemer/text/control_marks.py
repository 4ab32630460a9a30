"""Marks control tokens that somebody wrote into a message, while the template renders.

A message may hold the characters `<|im_end|>`. In the rendered text they could not be told from
the template's own, so before rendering they are put between two characters the chat does not use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

PRIVATE_USE = range(0x100000, 0x10FFFE)


class Piece(NamedTuple):
    """A run of rendered text, and whether it is a control token's name that somebody wrote."""

    text: str
    is_written: bool


class Marks(NamedTuple):
    """The marked `values`, and how to find the marks again (None: nothing was marked)."""

    values: list[Any]
    pattern: re.Pattern[str] | None

    def split(self, text: str) -> Iterator[Piece]:
        """The non-empty pieces of a rendered text, without the marks."""
        end = 0
        for found in self.pattern.finditer(text) if self.pattern else ():
            if found.start() > end:
                yield Piece(text[end : found.start()], is_written=False)
            if written := found["both"] or found["one"]:
                yield Piece(written, is_written=True)
            end = found.end()
        if end < len(text):
            yield Piece(text[end:], is_written=False)


def mark_control_tokens(values: list[Any], control_texts: Sequence[str]) -> Marks:
    """Enclose each of `control_texts` in every string of the JSON `values`, names included.

    Args:
        values: JSON values; they are not changed.
        control_texts: longest first, so that a token wins over the tokens it contains.
    """
    names = "|".join(map(re.escape, control_texts)) or "(?!)"
    written = re.compile(names)
    if not any(written.search(text) for text in _strings(values)):
        return Marks(values, None)
    used = set().union(*_strings(values))
    free = (chr(code) for code in PRIVATE_USE if chr(code) not in used)
    opening, closing = next(free), next(free)
    # A template that cuts strings may leave one mark of a pair, or a mark alone.
    pattern = f"{opening}?(?P<both>{names}){closing}|{opening}(?P<one>{names})?|{closing}"
    marked = _mark(values, written, f"{opening}\\g<0>{closing}")
    return Marks(marked, re.compile(pattern))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _mark(value: Any, written: re.Pattern[str], marked: str) -> Any:
    if isinstance(value, str):
        return written.sub(marked, value)
    if isinstance(value, dict):
        return {
            _mark(name, written, marked): _mark(item, written, marked)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_mark(item, written, marked) for item in value]
    return value
