"""What the lines of a batch came to: a log that is only appended to, so that a line has one result
whenever the server is killed.

A record is a line of the log: the CRC-32 of what follows, and JSON. It counts once it is on disk
(fsync); a batch that goes on after a kill asks for exactly the lines that have no record. What a
kill left half written behind the last whole record is cut off, since nobody was told of it.
"""

from __future__ import annotations

import asyncio
import os
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Raw

from bessemer.app.files import sync_folder
from bessemer.core.protocols import Usage
from bessemer.core.space import out_of_space
from bessemer.ledger.counts import Counts


class Tokens(msgspec.Struct, array_like=True, frozen=True):
    """What a line used; `cached` is of the prompt's, and `reasoning` of the completion's."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0

    @classmethod
    def of(cls, used: Usage) -> Tokens:
        return cls(
            used.prompt_tokens, used.cached_tokens, used.completion_tokens, used.reasoning_tokens
        )

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(
            self.prompt + other.prompt,
            self.cached + other.cached,
            self.completion + other.completion,
            self.reasoning + other.reasoning,
        )


class Result(msgspec.Struct, array_like=True):
    """What line number `line` came to; `written` is its line of the output, in JSON.

    `ok` says whether it belongs to the output file or to the error file. `charges` are by request
    id, one for each prompt that the line has.
    """

    line: int
    ok: bool
    tokens: Tokens
    charges: dict[str, Counts]
    written: Raw


class Tally(NamedTuple):
    """Lines with results, and the tokens that they took."""

    completed: int
    failed: int
    tokens: Tokens


class ResultLog:
    """The log of one batch. Lives on one event loop, its file work in threads.

    In memory it holds where each result begins, eight bytes a line.

    Args:
        path: of the log; made if it is not there.
        lines: how many the batch has.
    """

    def __init__(self, path: Path, lines: int) -> None:
        self._path = path
        self._starts = array("q", [-1]) * lines
        self._size = 0
        self._completed = self._failed = 0
        self._tokens = Tokens()
        self._waiting: list[tuple[Result, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        sync_folder(path.parent)
        self._read_again()

    @property
    def tally(self) -> Tally:
        return Tally(self._completed, self._failed, self._tokens)

    def __contains__(self, line: int) -> bool:
        return self._starts[line] >= 0

    def read(self) -> Iterator[Result | None]:
        """What each line came to, in their order; None for those without a result."""
        with self._path.open("rb") as file:
            for line, start in enumerate(self._starts):
                if start < 0:
                    yield None
                    continue
                file.seek(start)
                result = _whole(file.readline())
                assert result is not None and result.line == line, (self._path, line)
                yield result

    async def append(self, result: Result) -> None:
        """Return when the result is on disk. All that wait at one time share one fsync.

        Raises:
            OutOfSpace: it is not, and does not count; nothing half written stays.
        """
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((result, done))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        await done

    async def close(self) -> None:
        """Write what waits, then close."""
        while self._writing is not None:
            await asyncio.wait([self._writing])
        os.close(self._file)

    async def _write_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            records = [_record(result) for result, _ in batch]
            try:
                await asyncio.to_thread(self._write, b"".join(records))
            except Exception as fault:
                for _, done in batch:
                    if not done.done():
                        done.set_exception(fault)
                continue
            for (result, done), record in zip(batch, records, strict=True):
                self._count(result, self._size)
                self._size += len(record)
                if not done.done():  # its reader may have been cancelled; it counts all the same
                    done.set_result(None)
        self._writing = None

    def _write(self, data: bytes) -> None:
        try:
            view, at = memoryview(data), self._size
            while view:
                written = os.pwrite(self._file, view, at)
                view, at = view[written:], at + written
            os.fsync(self._file)
        except OSError as fault:
            # The next record has to begin behind a whole one.
            os.ftruncate(self._file, self._size)
            freed = "free some space; the batch goes on by itself"
            raise out_of_space(self._path.parent, len(data), "a batch's result", freed) from fault

    def _read_again(self) -> None:
        """Find what was written before, and cut off what is behind the last whole record."""
        for size_bytes, result in _records(self._path):
            self._count(result, self._size)
            self._size += size_bytes
        os.ftruncate(self._file, self._size)
        os.fsync(self._file)

    def _count(self, result: Result, start: int) -> None:
        assert result.line not in self, f"line {result.line} has two results in {self._path}"
        self._starts[result.line] = start
        self._completed += result.ok
        self._failed += not result.ok
        self._tokens += result.tokens


def charges_of(path: Path) -> dict[str, Counts]:
    """What all results of a log are charged."""
    return {name: used for _, result in _records(path) for name, used in result.charges.items()}


_decoder = msgspec.json.Decoder(Result)


def _records(path: Path) -> Iterator[tuple[int, Result]]:
    """Each whole record with its size in bytes, up to the first that is not whole."""
    with path.open("rb") as file:
        for raw in file:
            result = _whole(raw)
            if result is None:
                return
            yield len(raw), result


def _record(result: Result) -> bytes:
    payload = msgspec.json.encode(result)
    assert b"\n" not in payload, "a record is one line"
    return b"%08x %s\n" % (zlib.crc32(payload), payload)


def _whole(raw: bytes) -> Result | None:
    """The record of a line of the log; None if it is not whole."""
    if not raw.endswith(b"\n") or raw[8:9] != b" ":
        return None
    payload = raw[9:-1]
    return _decoder.decode(payload) if raw[:8] == b"%08x" % zlib.crc32(payload) else None
