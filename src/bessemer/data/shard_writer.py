"""Writes token shards (`shards`) in a stream: one leaf of tokens, one batch of rows in memory.

    >>> with ShardWriter(folder, vocab_size=50_000) as writer:                # doctest: +SKIP
    ...     writer.add("a.txt", [0, 5, 7], source="mine", licence="CC0-1.0")

The same documents in the same order give the same bytes. When the `with` ends well, every file is
on the disk and the manifest is written last; when it does not, there is no manifest, and the next
writer begins anew.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bessemer.core.digests import sha256_file
from bessemer.core.errors import Conflict, OutOfSpace
from bessemer.data.document_table import Entry, TableWriter
from bessemer.data.merkle import leaf_hash, root_of
from bessemer.data.shard_manifest import LEAVES, TABLE, FileFacts, Manifest, is_finished

LEAF_BYTES = 256 * 1024
SHARD_BYTES = 256 * 1024 * 1024
MOST_UINT16 = 2**16


class ShardWriter:
    """Writes one stream of tokens and its documents.

    Args:
        folder: of the writer alone; what an unfinished writer left there is removed.
        vocab_size: every id is below it; up to 65,536 an id takes two bytes, else four.
        shard_bytes: of the largest file; a multiple of `leaf_bytes`.

    Raises:
        Conflict: the folder holds finished shards, or something else.
        OutOfSpace: the disk is full.
    """

    def __init__(
        self,
        folder: Path,
        vocab_size: int,
        *,
        shard_bytes: int = SHARD_BYTES,
        leaf_bytes: int = LEAF_BYTES,
    ) -> None:
        assert shard_bytes % leaf_bytes == 0 and leaf_bytes % 4 == 0, (shard_bytes, leaf_bytes)
        _clear(folder)
        self.folder = folder
        self.tokens = 0
        self._vocab_size = vocab_size
        self._dtype = np.dtype("<u2" if vocab_size <= MOST_UINT16 else "<u4")
        self._shard_bytes, self._leaf_bytes = shard_bytes, leaf_bytes
        self._pending = bytearray()
        self._leaves: list[bytes] = []
        self._shards: list[FileFacts] = []
        self._shard: _OpenShard | None = None
        self._table = TableWriter(folder / TABLE)

    def add(
        self, id_: str, tokens: Sequence[int] | NDArray[Any], *, source: str, licence: str | None
    ) -> None:
        """Append a document, at least one token.

        Args:
            id_: that no other document of this stream has; the caller sees to it.
            source: of the text, as a person calls it.
            licence: an SPDX expression, None where it is not known.
        """
        ids = np.asarray(tokens, dtype=np.int64)
        assert ids.size, f"{id_} has no tokens"
        assert ids.min() >= 0 and ids.max() < self._vocab_size, (id_, ids.max(), self._vocab_size)
        self._table.add(Entry(id_, source, licence, self.tokens, len(ids)))
        self.tokens += len(ids)
        self._pending += ids.astype(self._dtype).tobytes()
        whole = len(self._pending) // self._leaf_bytes * self._leaf_bytes
        for begin in range(0, whole, self._leaf_bytes):
            self._write_leaf(bytes(self._pending[begin : begin + self._leaf_bytes]))
        del self._pending[:whole]

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._table.__exit__(kind, fault, trace)
            if kind is None:
                self._finish()
        except OSError as failed:
            self._tell_if_full(failed)
            raise
        finally:
            if self._shard is not None:
                self._shard.file.close()
        self._tell_if_full(fault)

    def _tell_if_full(self, fault: BaseException | None) -> None:
        if isinstance(fault, OSError) and fault.errno == errno.ENOSPC:
            raise OutOfSpace(
                f"no space left for token shards in {self.folder}"
                f" after {self.tokens * self._dtype.itemsize:,} bytes",
                next_step="free some space and try again",
            ) from fault

    def _finish(self) -> None:
        if self._pending:
            self._write_leaf(bytes(self._pending))
        self._close_shard()
        (self.folder / LEAVES).write_bytes(b"".join(self._leaves))
        table, leaves = (_facts(self.folder / name) for name in (TABLE, LEAVES))
        Manifest(
            dtype="uint16" if self._dtype.itemsize == 2 else "uint32",
            vocab_size=self._vocab_size,
            tokens=self.tokens,
            documents=self._table.count,
            leaf_bytes=self._leaf_bytes,
            merkle_root=root_of(self._leaves).hex(),
            shards=tuple(self._shards),
            table=table,
            leaves=leaves,
        ).write(self.folder)

    def _write_leaf(self, data: bytes) -> None:
        if self._shard is None:
            name = f"tokens-{len(self._shards):05}.bin"
            self._shard = _OpenShard((self.folder / name).open("wb"))
        self._shard.write(data)
        self._leaves.append(leaf_hash(data))
        if self._shard.size_bytes == self._shard_bytes:
            self._close_shard()

    def _close_shard(self) -> None:
        if self._shard is not None:
            self._shard.file.close()
            path = Path(self._shard.file.name)
            self._shards.append(_facts(path, self._shard.digest.hexdigest()))
            self._shard = None


class _OpenShard:
    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size_bytes = 0
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.size_bytes += len(data)


def _facts(path: Path, sha256: str | None = None) -> FileFacts:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)  # before the manifest says that it is there
    finally:
        os.close(handle)
    size_bytes = path.stat().st_size
    return FileFacts(path=path.name, size_bytes=size_bytes, sha256=sha256 or sha256_file(path))


def _clear(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if is_finished(folder):
        raise Conflict(f"{folder} holds token shards already", next_step="name a new folder")
    for path in sorted(folder.iterdir()):
        if path.name not in (TABLE, LEAVES) and path.suffix not in (".bin", ".tmp"):
            raise Conflict(f"{folder} holds {path.name}", next_step="name a new folder")
        path.unlink()
