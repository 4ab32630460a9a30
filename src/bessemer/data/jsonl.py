"""Reads JSON lines from a file nobody has vouched for, one line in memory at a time.

A byte order mark, CRLF and blank lines change no meaning and are passed over. Everything else
that is not strict JSON in UTF-8 is a fault with a line number: Python's own reader would accept
NaN, numbers too large to hold, and a key given twice, of which the first value is lost.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from bessemer.core.errors import DataError

LONGEST_LINE = 16 * 1024 * 1024  # bytes


class Place(NamedTuple):
    """Where a line begins: its number from 1, and bytes before it."""

    number: int
    offset: int


BEGIN = Place(1, 0)


class Line(NamedTuple):
    """A line's number from 1, where it starts in the file, and its value or its fault."""

    number: int
    offset: int
    value: Any
    fault: str | None = None


# Where `str.splitlines` ends a line as well, and JSON may have them as they are in strings.
_LINE_ENDS = {end.encode(): f"\\u{ord(end):04x}".encode() for end in "\x85\u2028\u2029"}


def one_line(value: bytes) -> bytes:
    """A JSON value in UTF-8 as a line, and as one line to whoever splits texts by Unicode's rules,
    as `text.splitlines()` does."""
    for end, escaped in _LINE_ENDS.items():
        value = value.replace(end, escaped)
    return value + b"\n"


def read_lines(path: Path, place: Place = BEGIN) -> Iterator[Line]:
    """Every line that is not blank, from one on that begins at `place`.

    Raises:
        DataError: there is no such file, it cannot be read, or it is UTF-16.
    """
    try:
        with path.open("rb") as file:
            yield from _lines(file, path, place)
    except OSError as fault:
        raise DataError(
            f"cannot read {path}: {fault.strerror}", next_step="name a file of JSON lines"
        ) from fault


def parse_line(data: bytes) -> Any:
    """The strict JSON value of one line.

    Raises:
        ValueError: whose text says what is wrong and where.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise ValueError(
            f"byte {fault.start + 1} is not UTF-8 (0x{data[fault.start]:02X})"
        ) from None
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as fault:
        raise ValueError(f"not JSON: {fault.msg} at column {fault.colno}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if "\\ud" in text.lower():
        _check_surrogates(value)
    return value


def _lines(file: BinaryIO, path: Path, place: Place) -> Iterator[Line]:
    offset, number = file.seek(place.offset), place.number - 1
    while data := file.readline(LONGEST_LINE + 1):
        number += 1
        start, offset = offset, offset + len(data)
        if number == 1:
            data = _without_mark(data, path)
        if len(data) > LONGEST_LINE and not data.endswith(b"\n"):
            offset += _skip_rest(file)
            yield Line(number, start, None, f"longer than {LONGEST_LINE:,} bytes")
        elif data.strip():
            yield _line(number, start, data)


def _line(number: int, offset: int, data: bytes) -> Line:
    try:
        return Line(number, offset, parse_line(data.strip(b" \t\r\n")))
    except ValueError as fault:
        return Line(number, offset, None, str(fault))


def _without_mark(data: bytes, path: Path) -> bytes:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(
            f"{path.name} is UTF-16", line=1, next_step="save it as UTF-8 and try again"
        )
    return data.removeprefix(codecs.BOM_UTF8)


def _skip_rest(file: BinaryIO) -> int:
    skipped = 0
    while data := file.readline(1024 * 1024):
        skipped += len(data)
        if data.endswith(b"\n"):
            break
    return skipped


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is given twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text} is too large")
    return number


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a \\ud800-\\udfff escape without its pair is no character") from None


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
)
