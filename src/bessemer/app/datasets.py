"""Datasets by name: build the default one on this machine, import a file, list and find them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bessemer.app import names
from bessemer.app.platform import Platform
from bessemer.core.artifacts import Artifact
from bessemer.core.digests import sha256_file
from bessemer.core.errors import InvalidInput
from bessemer.core.principal import Principal

if TYPE_CHECKING:
    from bessemer.data.checking import Report

PYTHON_DOCS = "python-docs"
PYTHON_DOCS_PREFERENCES = "python-docs-preferences"
PYTHON_LICENCE = "PSF-2.0"
ARITHMETIC = "arithmetic"
PYTHON_PUZZLES = "python-puzzles"

Summary = dict[str, Any]


@dataclass(frozen=True)
class NamedDataset:
    """A dataset as a person speaks of it."""

    name: str
    digest: str
    path: Path
    artifact: Artifact

    @property
    def is_held_out(self) -> bool:
        """Whether its validation lines are kept from training: see `data.given_splits`."""
        return bool(self.artifact.provenance.get("summary", {}).get("held_out", True))


def list_datasets(platform: Platform, principal: Principal) -> list[NamedDataset]:
    """The datasets this project has names for, sorted by name."""
    principal.require("datasets:read")
    return [_dataset(found) for found in names.list_named(platform, principal, "dataset")]


def find_dataset(platform: Platform, principal: Principal, text: str) -> NamedDataset:
    """By name, by digest, or by the first 12 or more hex digits of a digest.

    Raises:
        NotFound: with the names there are.
    """
    return _dataset(names.find_named(platform, principal, "dataset", text))


def build_python_docs(platform: Platform, principal: Principal) -> NamedDataset:
    """`python-docs`, from the standard library of the interpreter that runs this.

    The same interpreter gives the same digest, so building again changes nothing.
    """
    from bessemer.data.python_docs import build

    return build_dataset(
        platform,
        principal,
        PYTHON_DOCS,
        build,
        licence=PYTHON_LICENCE,
        provenance={"source": "the interpreter's own standard library"},
    )


def build_python_docs_preferences(platform: Platform, principal: Principal) -> NamedDataset:
    """`python-docs-preferences`, from `python-docs`, which is built first if it is not here."""
    from bessemer.data.dataset import Dataset
    from bessemer.data.python_docs_preferences import build

    chats = build_python_docs(platform, principal)
    return build_dataset(
        platform,
        principal,
        PYTHON_DOCS_PREFERENCES,
        lambda folder: build(Dataset.open(chats.path), folder),
        licence=PYTHON_LICENCE,
        provenance={"source": PYTHON_DOCS, "digest": chats.digest},
    )


def build_arithmetic(platform: Platform, principal: Principal) -> NamedDataset:
    """`arithmetic`: sums and word problems with exact answers, made here."""
    from bessemer.data.arithmetic import LICENCE, build

    made_here = {"source": "made here"}
    return build_dataset(
        platform, principal, ARITHMETIC, build, licence=LICENCE, provenance=made_here
    )


def build_python_puzzles(platform: Platform, principal: Principal) -> NamedDataset:
    """`python-puzzles`: small functions to write, with unit tests, made here."""
    from bessemer.data.python_puzzles import LICENCE, build

    made_here = {"source": "made here"}
    return build_dataset(
        platform, principal, PYTHON_PUZZLES, build, licence=LICENCE, provenance=made_here
    )


BUILDERS = {
    PYTHON_DOCS: build_python_docs,
    PYTHON_DOCS_PREFERENCES: build_python_docs_preferences,
    ARITHMETIC: build_arithmetic,
    PYTHON_PUZZLES: build_python_puzzles,
}


def import_file(
    platform: Platform,
    principal: Principal,
    jsonl: Path,
    name: str,
    *,
    seed: int = 0,
    licence: str | None = None,
) -> NamedDataset:
    """A dataset from a file in one of OpenAI's fine-tuning formats, which is recognized.

    Raises:
        DataError: naming the first line at fault.
    """
    from bessemer.data.importing import import_examples

    if not jsonl.is_file():
        raise InvalidInput(f"{jsonl} is not a file")
    return build_dataset(
        platform,
        principal,
        name,
        lambda folder: import_examples(jsonl, folder, seed, licence=licence),
        licence=licence,
        provenance={"source": jsonl.name, "sha256": sha256_file(jsonl), "seed": seed},
    )


def build_dataset(
    platform: Platform,
    principal: Principal,
    name: str,
    build: Callable[[Path], Summary],
    *,
    licence: str | None,
    provenance: dict[str, Any],
) -> NamedDataset:
    """Let `build` fill a folder, store it, and name it. Leaves nothing behind when it fails."""
    principal.require("datasets:write")
    names.check_name(name)
    folder = platform.artifacts.workspace()
    try:
        summary = build(folder)
        artifact = platform.artifacts.put(
            folder,
            kind="dataset",
            name=name,
            licence=licence,
            provenance={**provenance, "summary": summary},
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    names.bind(platform, principal, "dataset", name, artifact.digest)
    return _dataset(names.Named(name, artifact))


def _dataset(found: names.Named) -> NamedDataset:
    return NamedDataset(found.name, found.artifact.digest, found.artifact.path, found.artifact)


def describe(found: NamedDataset) -> Summary:
    """What the dataset says of itself: counts, kinds, licence, how it was made."""
    from bessemer.data.dataset import Dataset

    return Dataset.open(found.path).info


def check_file(jsonl: Path) -> Report:
    """Every fault of a JSONL of examples, without importing it."""
    from bessemer.data import checking

    return checking.check_file(jsonl)
