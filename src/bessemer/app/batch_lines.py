"""The input of a batch: one request a line, each of them checked before the first is asked.

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {...}}

What is checked here is a line's own shape, as OpenAI does: strict UTF-8 and JSON, the four fields,
an id that no other line has, the batch's own endpoint. What a `body` says is left to the endpoint,
whose answer (400, 404) is then the line's result. Blank lines are no requests. No line stays in
memory: `Lines` knows where each begins.
"""

from __future__ import annotations

import hashlib
import os
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
from msgspec import Raw

# As in OpenAI's API; a line is as long as a body may be over HTTP.
MAX_LINES = 50_000
MAX_LINE_BYTES = 10 * 2**20
MAX_CUSTOM_ID = 512
MAX_MODEL = 500
# Of a file in which every line is wrong, so many are told.
MOST_FAULTS = 1_000
MOST_SAID = 200  # characters, where the name of a field is the file's
_FIELD = re.compile(r"field `(.*?)`|at `\$\.(.*?)`", re.DOTALL)
_BOM = b"\xef\xbb\xbf"
_TOO_MANY = f"The file has more than {MAX_LINES:,} requests, which is the limit of a batch."


class Fault(msgspec.Struct, omit_defaults=True):
    """What is wrong with a batch's input; `line` counts the file's lines from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """A request of a batch; nobody has looked at its `body`."""

    custom_id: str
    method: str
    url: str
    body: Raw


class Lines:
    """The requests of a file by number, from 0; each is read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._starts, self._lengths = array("q"), array("q")

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> Line:
        raw = os.pread(self._file.fileno(), self._lengths[number], self._starts[number])
        return _decoder.decode(raw)

    def append(self, start: int, length: int) -> None:
        self._starts.append(start)
        self._lengths.append(length)

    def close(self) -> None:
        self._file.close()


class Checked(NamedTuple):
    """The lines that are right, and what is wrong with the others, one fault a line.

    `model` is the one that all of them name, or None.
    """

    lines: Lines
    faults: list[Fault]
    model: str | None


def check(path: Path, endpoint: str) -> Checked:
    """Read every line. With any fault nothing of the file is to be asked."""
    lines, faults = Lines(path), list[Fault]()
    seen: dict[bytes, int] = {}
    models: set[str | None] = set()
    more = 0
    for number, start, raw in _raw_lines(path):
        found = _line(raw, endpoint)
        if isinstance(found, Line):
            found = _not_seen(found, number, seen) or found
        if isinstance(found, Line):
            lines.append(start, len(raw))
            if len(models) < 2:
                models.add(model_of(found))
            if len(lines) > MAX_LINES:
                faults.append(Fault("too_many_requests", _TOO_MANY))
                break
        elif len(faults) < MOST_FAULTS:
            found.line = number
            faults.append(found)
        else:
            more += 1
    if more:
        faults.append(Fault("too_many_errors", f"{more:,} more lines have faults."))
    if not lines and not faults:
        faults.append(Fault("empty_file", "The file has no request."))
    return Checked(lines, faults, models.pop() if len(models) == 1 else None)


def model_of(line: Line) -> str | None:
    """The model that a line's body names, if it does."""
    try:
        model = _model_decoder.decode(line.body).model
    except (msgspec.DecodeError, RecursionError):
        return None
    return model if len(model) <= MAX_MODEL and model.isprintable() else None


class _Model(msgspec.Struct):
    model: str


_decoder = msgspec.json.Decoder(Line)
_model_decoder = msgspec.json.Decoder(_Model)


def _raw_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number from 1, offset and bytes of every line that is not blank. One that is too long is cut
    one byte behind the limit."""
    start, number = 0, 0
    with path.open("rb") as file:
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            at, start = start, start + len(raw)
            if number == 1 and raw.startswith(_BOM):
                at, raw = at + len(_BOM), raw.removeprefix(_BOM)
            if len(raw) > MAX_LINE_BYTES:
                start += _skip_rest(file)
            if raw.strip():
                yield number, at, raw


def _skip_rest(file: BinaryIO) -> int:
    skipped = 0
    while piece := file.readline(1 << 20):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return skipped


def _line(raw: bytes, endpoint: str) -> Line | Fault:
    if len(raw) > MAX_LINE_BYTES:
        return Fault("line_too_long", f"This line has more than {MAX_LINE_BYTES:,} bytes.")
    try:
        raw.decode()
        line = _decoder.decode(raw)
    except UnicodeDecodeError as fault:
        return Fault("invalid_utf8", f"Byte {fault.start + 1} of this line is not UTF-8.")
    except msgspec.ValidationError as fault:
        said, field = str(fault), _FIELD.search(str(fault))
        # A field may have the empty name, so what was found is asked for, not whether it is true.
        names = [] if field is None else [name for name in field.groups() if name is not None]
        param = names[0][:MOST_SAID] if names else None
        return Fault(
            "invalid_request", f"This line is no request: {said[:MOST_SAID]}.", param=param
        )
    except msgspec.DecodeError as fault:
        return Fault("invalid_json_line", f"This line is not parseable as valid JSON: {fault}.")
    except RecursionError:
        return Fault("invalid_json_line", "This line is nested too deeply.")
    return _wrong(line, endpoint) or line


def _wrong(line: Line, endpoint: str) -> Fault | None:
    if not 0 < len(line.custom_id) <= MAX_CUSTOM_ID:
        return Fault(
            "invalid_custom_id",
            f"'custom_id' has 1 to {MAX_CUSTOM_ID} characters, not {len(line.custom_id):,}.",
            param="custom_id",
        )
    if line.method != "POST":
        return Fault(
            "invalid_method", f"'method' is {line.method[:100]!r}; it is 'POST'.", param="method"
        )
    if line.url != endpoint:
        return Fault(
            "invalid_url",
            f"'url' is {line.url[:100]!r}; this batch is for {endpoint!r}.",
            param="url",
        )
    if not bytes(line.body).lstrip().startswith(b"{"):
        return Fault("invalid_request", "'body' is no object.", param="body")
    return None


def _not_seen(line: Line, number: int, seen: dict[bytes, int]) -> Fault | None:
    # 16 bytes of a hash instead of an id of any length: 50,000 of them are a few megabytes.
    digest = hashlib.blake2b(line.custom_id.encode(), digest_size=16).digest()
    first = seen.setdefault(digest, number)
    if first == number:
        return None
    return Fault(
        "duplicate_custom_id",
        f"The custom_id {line.custom_id[:100]!r} is that of line {first} already.",
        param="custom_id",
    )
