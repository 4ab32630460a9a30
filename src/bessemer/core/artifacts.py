"""The artifact store: folders named by the digest of their manifest, never changed.

    artifacts/<64 hex>/            the files, exactly as listed
    artifacts/<64 hex>.json        manifest, kind, name, licence, provenance, parents

The sidecar is outside the folder so that the folder stays a plain Hugging Face folder.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from bessemer.core.digests import DIGEST_PREFIX, Entry, Manifest, manifest_of
from bessemer.core.errors import IntegrityError, NotFound, OutOfSpace
from bessemer.core.ids import new_id
from bessemer.core.runs import sync_folder, write_atomically

Kind = Literal["dataset", "tokenizer", "model", "adapter", "evaluation", "policy", "licence"]


@dataclass(frozen=True)
class Artifact:
    """What the store knows of one artifact.

    `licence` is an SPDX expression; `provenance` says where the bytes came from.
    """

    digest: str
    kind: Kind
    name: str
    path: Path
    size_bytes: int
    licence: str | None = None
    parents: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)


class ArtifactStore:
    """Content-addressed folders below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def workspace(self) -> Path:
        """A new folder on the store's file system to build an artifact in, for `put`."""
        folder = self.root / f".{new_id('new')}"
        folder.mkdir(parents=True, mode=0o700)
        return folder

    def put(
        self,
        folder: Path,
        *,
        kind: Kind,
        name: str,
        licence: str | None = None,
        parents: tuple[str, ...] = (),
        provenance: dict[str, Any] | None = None,
    ) -> Artifact:
        """Move `folder` into the store. Putting the same bytes twice keeps the first.

        The files are on disk before the folder gets its name, and the sidecar comes last, so a
        crash at any moment leaves either a whole artifact or none.
        """
        manifest = manifest_of(folder)
        if not manifest.entries:
            raise IntegrityError(f"{folder} is empty; an artifact needs at least one file")
        digest = manifest.digest
        target = self._folder(digest)
        facts = {
            "digest": digest,
            "kind": kind,
            "name": name,
            "licence": licence,
            "parents": list(parents),
            "provenance": provenance or {},
            "size_bytes": manifest.size_bytes,
            "manifest": [entry._asdict() for entry in manifest.entries],
        }
        try:
            for entry in manifest.entries:
                _sync_file(folder / entry.path)
            _move_unless_there(folder, target)
            sync_folder(self.root)
            if not self._sidecar(digest).exists():
                write_atomically(self._sidecar(digest), json.dumps(facts, indent=1).encode())
        except OSError as fault:
            if fault.errno == errno.ENOSPC:
                raise OutOfSpace(
                    f"no space left to store {name} ({manifest.size_bytes:,} bytes)",
                    next_step=f"free some space below {self.root} and try again",
                ) from fault
            raise
        return self.get(digest)

    def get(self, digest: str) -> Artifact:
        """Raises NotFound when there is no such artifact."""
        try:
            facts = json.loads(self._sidecar(digest).read_text())
        except OSError:
            raise NotFound(
                f"no artifact {digest}", next_step="bessemer pull smollm2-135m-instruct"
            ) from None
        return Artifact(
            digest=facts["digest"],
            kind=facts["kind"],
            name=facts["name"],
            path=self._folder(digest),
            size_bytes=facts["size_bytes"],
            licence=facts["licence"],
            parents=tuple(facts["parents"]),
            provenance=facts["provenance"],
        )

    def list(self) -> list[Artifact]:
        """Every whole artifact."""
        names = sorted(path.stem for path in self.root.glob("*.json"))
        return [self.get(DIGEST_PREFIX + name) for name in names]

    def manifest(self, digest: str) -> Manifest:
        """The manifest as it was stored."""
        facts = json.loads(self._sidecar(digest).read_text())
        return Manifest(tuple(Entry(**entry) for entry in facts["manifest"]))

    def verify(self, digest: str) -> None:
        """Read every byte again.

        Raises:
            IntegrityError: naming the files that changed, appeared or went.
        """
        found = manifest_of(self._folder(digest))
        if found.digest == digest:
            return
        changed = sorted({e.path for e in set(found.entries) ^ set(self.manifest(digest).entries)})
        raise IntegrityError(
            f"artifact {digest[:19]} is not what was stored; changed: {', '.join(changed)}",
            next_step="remove it and make or pull it again",
        )

    def _folder(self, digest: str) -> Path:
        name = digest.removeprefix(DIGEST_PREFIX)
        if len(name) != 64 or not set(name) <= set("0123456789abcdef"):
            raise NotFound(f"{digest!r} is not a digest (sha256: and 64 hex digits)")
        return self.root / name

    def _sidecar(self, digest: str) -> Path:
        return self._folder(digest).with_suffix(".json")


def sidecar_facts(artifact: Artifact) -> dict[str, Any]:
    """An artifact as plain JSON values, for `--json` and API answers."""
    return {**asdict(artifact), "path": str(artifact.path), "parents": list(artifact.parents)}


def _move_unless_there(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError as fault:
        if fault.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        # The same bytes are there already; another process may have put them just now.
        shutil.rmtree(folder)


def _sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
