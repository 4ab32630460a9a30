"""`manifest.json` of token shards: what the folder holds, to the byte. See `shards`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pydantic

from bessemer.core.digests import canonical_json, sha256_bytes
from bessemer.core.errors import IntegrityError, NotFound
from bessemer.core.recipes import Frozen
from bessemer.core.runs import write_atomically

MANIFEST, TABLE, LEAVES = "manifest.json", "documents.arrow", "leaves.sha256"

Count = Annotated[int, pydantic.Field(ge=0)]
Sha256 = Annotated[str, pydantic.Field(pattern="^[0-9a-f]{64}$")]
# A plain name: a manifest from elsewhere never leads out of its folder.
Name = Annotated[str, pydantic.Field(pattern="^[a-z0-9][a-z0-9.-]*$")]


class FileFacts(Frozen):
    """One file of the folder."""

    path: Name
    size_bytes: Count
    sha256: Sha256


class Manifest(Frozen):
    """The whole folder.

    Attributes:
        vocab_size: every token is below it.
        tokens, documents: how many the stream has.
        leaf_bytes: bytes of every leaf but the last.
        merkle_root: over the leaves of the stream, across its files.
        shards: the files of tokens, in the order of the stream.
        table, leaves: the other two files.
    """

    format: Literal[1] = 1
    dtype: Literal["uint16", "uint32"]
    vocab_size: Count
    tokens: Count
    documents: Count
    leaf_bytes: Annotated[int, pydantic.Field(gt=0, multiple_of=4)]
    merkle_root: Sha256
    shards: tuple[FileFacts, ...]
    table: FileFacts
    leaves: FileFacts

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: binds every byte of every file."""
        return sha256_bytes(canonical_json(self.model_dump(mode="json")))

    def write(self, folder: Path) -> None:
        write_atomically(folder / MANIFEST, self.model_dump_json(indent=1).encode() + b"\n")


def is_finished(folder: Path) -> bool:
    """Whether a writer has finished here."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        NotFound: there is none.
        IntegrityError: it is damaged, or of a later format.
    """
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise NotFound(
            f"{folder} has no token shards, or their writer did not finish: no {MANIFEST}",
            next_step="bessemer data tokenize SOURCE --tokenizer MODEL --name NAME",
        ) from None
    except pydantic.ValidationError as fault:
        first = fault.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise IntegrityError(
            f"{path} is no manifest of token shards: {where} {first['msg']}"
        ) from None
