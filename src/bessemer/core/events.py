"""`events.jsonl`: one JSON object a line, append only. What a run says about itself.

Every line has `t` (Unix seconds), `kind`, and the kind's own fields. A line is written with one
`write` and is whole or absent for a reader; a torn last line (the writer was killed) is skipped
until its end arrives.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

Event = dict[str, Any]


class EventLog:
    """The writer. One process writes one log."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, kind: str, **fields: Any) -> Event:
        """Append one event and return it. NaN and infinity are written as strings, not lost."""
        event: Event = {"t": round(time.time(), 3), "kind": kind, **_plain(fields)}
        line = msgspec.json.encode(event) + b"\n"
        self._heal()
        written = os.write(self._handle, line)
        if written != len(line):
            raise OSError(f"wrote {written} of {len(line)} bytes of an event")
        return event

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        os.fsync(self._handle)

    def close(self) -> None:
        os.close(self._handle)

    def _heal(self) -> None:
        # A writer that was killed, or met a full disk, left half a line; ours must start fresh.
        size = os.fstat(self._handle).st_size
        if size and os.pread(self._handle, 1, size - 1) != b"\n":
            os.write(self._handle, b"\n")


class Slice(NamedTuple):
    """Events read, and the byte offset from which to read on."""

    events: list[Event]
    offset: int


def read_events(path: Path, offset: int = 0) -> Slice:
    """Events from byte `offset` on; lines that are not whole JSON objects are passed over."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return Slice([], 0)
    end = data.rfind(b"\n") + 1
    return Slice(list(_parse(data[:end])), offset + end)


def _parse(data: bytes) -> Iterator[Event]:
    for line in data.splitlines():
        try:
            event = msgspec.json.decode(line)
        except msgspec.DecodeError:
            continue
        if isinstance(event, dict):
            yield event


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
