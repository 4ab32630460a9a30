"""Token shards: a stream of token ids in flat files, memory-mapped, every byte accounted for.

    tokens-00000.bin ...   the ids, little-endian uint16 (a vocabulary up to 65,536) or uint32
    documents.arrow        whose tokens they are (`document_table`)
    leaves.sha256          32 bytes for each leaf: 256 KiB of the stream, the last one shorter
    manifest.json          sizes and SHA-256 of these files; the root over the leaves (`merkle`)

The manifest is written last and atomically, so a folder that its writer (`shard_writer`) did not
finish is never opened. Opening reads the manifest and looks at sizes: milliseconds, however much
there is. A leaf is compared with its hash when something of it is first read, so nothing that was
changed is ever handed out. A file that shrinks while it is mapped would kill the process (SIGBUS);
sizes are looked at before each reading, which leaves only the moment between.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bessemer.core.digests import sha256_file
from bessemer.core.errors import IntegrityError, NotFound
from bessemer.data import merkle
from bessemer.data.document_table import DocumentTable
from bessemer.data.shard_manifest import FileFacts, read_manifest

Tokens = NDArray[np.unsignedinteger[Any]]
REMEDY = "restore it from a copy, or make the tokens again: bessemer data tokenize"


class _Shard(NamedTuple):
    """A mapped file, and the offset of its first token in the stream."""

    file: FileFacts
    begin: int
    tokens: Tokens


class TokenShards:
    """A stream of tokens, opened for reading.

    Args:
        folder: that a `ShardWriter` has finished.
        remedy: what a person is told to do when a file is not what it was.

    Attributes:
        manifest: what the folder holds.
        documents: whose tokens they are.
        tokens: how many there are.

    Raises:
        NotFound: there is no manifest, or a file that it names is gone.
        IntegrityError: a file has another size, or the manifest is damaged.
    """

    def __init__(self, folder: Path, remedy: str = REMEDY) -> None:
        self.folder, self._remedy = folder, remedy
        self.manifest = read_manifest(folder)
        self.tokens = self.manifest.tokens
        self.dtype = np.dtype(self.manifest.dtype).newbyteorder("<")
        self._files = (*self.manifest.shards, self.manifest.table, self.manifest.leaves)
        for file in self._files:
            self._check_size(file)
        self._shards = list(self._map())
        self._begins = np.array([shard.begin for shard in self._shards], dtype=np.int64)
        self.documents = DocumentTable(folder / self.manifest.table.path)
        self._is_checked = np.zeros(self.leaves, dtype=np.bool_)

    @property
    def leaves(self) -> int:
        """How many leaves the stream has."""
        return -(-self.tokens // self._leaf_tokens)

    def window(self, begin: int, end: int) -> Tokens:
        """The tokens of [begin, end) of the stream, read only.

        Copied only where a window lies across files.

        Raises:
            NotFound, IntegrityError: a file is not what the manifest says.
        """
        assert 0 <= begin <= end <= self.tokens, (begin, end, self.tokens)
        parts = [shard.tokens[low:high] for shard, low, high in self._parts(begin, end)]
        self._check_leaves(begin, end)
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([np.zeros(0, dtype=self.dtype), *parts])

    def verify(self) -> None:
        """Read every byte again and compare it with the manifest.

        Raises:
            NotFound, IntegrityError: naming the first file, and the leaf, that differs.
        """
        for leaf in range(self.leaves):
            self.verify_leaf(leaf)
        for file in self._files:
            self._verify_file(file)

    def verify_table(self) -> None:
        """The same for the table of documents alone."""
        self._verify_file(self.manifest.table)

    def verify_leaf(self, leaf: int) -> None:
        """The same for one leaf; nothing else of the stream is read."""
        # Against its hash alone: when the hashes were read, they gave the root.
        if merkle.leaf_hash(self.leaf(leaf)) != self._leaf_hashes[leaf]:
            file = next(self._parts(*self._tokens_of(leaf)))[0].file
            raise self._changed(file, f"has other bytes in leaf {leaf} of {self.leaves}")
        self._is_checked[leaf] = True

    def leaf(self, number: int) -> bytes:
        """The bytes of a leaf as they are on the disk now."""
        parts = self._parts(*self._tokens_of(number))
        return b"".join(shard.tokens[low:high].tobytes() for shard, low, high in parts)

    def prove(self, leaf: int) -> merkle.Proof:
        """That a leaf belongs to the root: `proof.root(data)` is the root for its bytes alone."""
        return merkle.prove(self._leaf_hashes, leaf)

    @property
    def _leaf_tokens(self) -> int:
        return self.manifest.leaf_bytes // self.dtype.itemsize

    @cached_property
    def _leaf_hashes(self) -> list[bytes]:
        data = (self.folder / self.manifest.leaves.path).read_bytes()
        hashes = [data[i : i + 32] for i in range(0, len(data), 32)]
        if len(hashes) != self.leaves or merkle.root_of(hashes).hex() != self.manifest.merkle_root:
            raise self._changed(self.manifest.leaves, "does not give the manifest's root")
        return hashes

    def _check_leaves(self, begin: int, end: int) -> None:
        first, last = begin // self._leaf_tokens, -(-end // self._leaf_tokens)
        for leaf in range(first, last):
            if not self._is_checked[leaf]:
                self.verify_leaf(leaf)

    def _tokens_of(self, leaf: int) -> tuple[int, int]:
        return leaf * self._leaf_tokens, min((leaf + 1) * self._leaf_tokens, self.tokens)

    def _parts(self, begin: int, end: int) -> Iterator[tuple[_Shard, int, int]]:
        """The shards that hold [begin, end), each with the part of it in the shard's own tokens."""
        first = max(0, int(np.searchsorted(self._begins, begin, side="right")) - 1)
        for shard in self._shards[first:]:
            if shard.begin >= end:
                return
            self._check_size(shard.file)
            low, high = max(0, begin - shard.begin), min(len(shard.tokens), end - shard.begin)
            yield shard, low, high

    def _map(self) -> Iterator[_Shard]:
        begin = 0
        for file in self.manifest.shards:
            tokens = np.memmap(self.folder / file.path, dtype=self.dtype, mode="r")
            yield _Shard(file, begin, tokens)
            begin += len(tokens)
        if begin != self.tokens:
            raise IntegrityError(
                f"{self.folder} has {begin:,} tokens in its files, {self.tokens:,} in its manifest",
                next_step=self._remedy,
            )

    def _check_size(self, file: FileFacts) -> None:
        path = self.folder / file.path
        try:
            size_bytes = path.stat().st_size
        except FileNotFoundError:
            raise NotFound(
                f"{path} is gone; the manifest names it with {file.size_bytes:,} bytes",
                next_step=self._remedy,
            ) from None
        if size_bytes != file.size_bytes:
            raise self._changed(
                file, f"has {size_bytes:,} bytes, not the {file.size_bytes:,} of the manifest"
            )

    def _verify_file(self, file: FileFacts) -> None:
        self._check_size(file)
        if sha256_file(self.folder / file.path) != file.sha256:
            raise self._changed(file, "has other bytes than when it was written")

    def _changed(self, file: FileFacts, what: str) -> IntegrityError:
        return IntegrityError(f"{self.folder / file.path} {what}", next_step=self._remedy)
