"""Digests and manifests: what exactly is in a folder, as one SHA-256.

A manifest is the RFC 8785 canonical JSON of the sorted list of `{path, size, sha256}` of every
file. Its digest binds names as well as contents, so a swapped file or a renamed one shows.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import rfc8785

from bessemer.core.errors import IntegrityError

DIGEST_PREFIX = "sha256:"


class Entry(NamedTuple):
    """One file of a manifest: POSIX path relative to the folder, bytes, lower-case hex."""

    path: str
    size: int
    sha256: str


class Manifest(NamedTuple):
    """The sorted files of an artifact."""

    entries: tuple[Entry, ...]

    def canonical(self) -> bytes:
        return canonical_json([entry._asdict() for entry in self.entries])

    @property
    def digest(self) -> str:
        """`sha256:` and 64 hex digits."""
        return DIGEST_PREFIX + hashlib.sha256(self.canonical()).hexdigest()

    @property
    def size_bytes(self) -> int:
        return sum(entry.size for entry in self.entries)


def canonical_json(value: Any) -> bytes:
    """RFC 8785: one byte string per JSON value, whoever writes it."""
    return rfc8785.dumps(value)


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Lower-case hex SHA-256 of a file, read in a stream."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest_of(folder: Path) -> Manifest:
    """The manifest of every regular file below `folder`.

    Raises:
        IntegrityError: on a symbolic link (its target would not be bound) or a special file.
    """
    entries = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise IntegrityError(f"{path} is a symbolic link; an artifact holds only files")
        if path.is_dir():
            continue
        if not path.is_file():
            raise IntegrityError(f"{path} is not a regular file")
        name = path.relative_to(folder).as_posix()
        entries.append(Entry(name, path.stat().st_size, sha256_file(path)))
    return Manifest(tuple(sorted(entries)))


def check_file(path: Path, sha256: str) -> None:
    """Raise IntegrityError unless the bytes of `path` have this digest."""
    found = sha256_file(path)
    if found != sha256:
        raise IntegrityError(
            f"{path.name} has SHA-256 {found} ({path.stat().st_size:,} bytes); expected {sha256}",
            next_step="delete the file and fetch it again; do not use these bytes",
        )
