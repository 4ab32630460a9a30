"""Turn texts into a dataset of token shards for pretraining, registered under a name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from bessemer.app.datasets import PYTHON_LICENCE, NamedDataset, build_dataset
from bessemer.app.models import find_model
from bessemer.app.platform import Platform
from bessemer.core.errors import InvalidInput
from bessemer.core.principal import Principal

if TYPE_CHECKING:
    from bessemer.data.corpus import Document

STDLIB = "python-stdlib"


def tokenize_source(
    platform: Platform,
    principal: Principal,
    source: str,
    tokenizer: str,
    name: str,
    *,
    licence: str | None = None,
) -> NamedDataset:
    """A dataset of kind "tokens".

    Args:
        source: `python-stdlib`, a folder of text files, or a file of JSON lines with a `text`.
        tokenizer: a model's name or digest, or the path of a folder with a tokenizer.json.
        licence: an SPDX expression for documents that do not state their own.

    Raises:
        NotFound: there is no such model.
        DataError: a text that cannot be read, by file or line; nothing is kept.
    """
    from bessemer.data.corpus import stdlib_sources
    from bessemer.data.texts import Texts
    from bessemer.data.tokenizing import tokenize

    if name == STDLIB:
        raise InvalidInput(
            f"{STDLIB} always means this interpreter's own library; take another --name",
            param="name",
        )
    folder = _tokenizer_folder(platform, principal, tokenizer)
    documents: Iterable[Document]
    if source == STDLIB:
        label, documents, licence = STDLIB, stdlib_sources(), PYTHON_LICENCE
    else:
        path = Path(source).expanduser().absolute()
        label, documents = path.name, Texts(path, licence)
    return build_dataset(
        platform,
        principal,
        name,
        lambda made: tokenize(documents, folder, made, source=label),
        licence=licence,
        provenance={"source": label, "tokenizer": tokenizer},
    )


def _tokenizer_folder(platform: Platform, principal: Principal, text: str) -> Path:
    if text.startswith((".", "/", "~")):
        return Path(text).expanduser().absolute()
    return find_model(platform, principal, text).path
