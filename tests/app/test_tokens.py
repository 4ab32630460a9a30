"""Texts become a named dataset of tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from bessemer.app.datasets import describe, find_dataset, list_datasets
from bessemer.app.platform import Platform
from bessemer.app.tokens import tokenize_source
from bessemer.core.errors import DataError, InvalidInput, NotFound
from bessemer.core.principal import Principal
from bessemer.data.tokenizing import TokenDataset
from bessemer.text.bpe import train_bpe


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    train_bpe(["some text to learn from"], 280, tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


def write_texts(folder: Path, count: int = 40) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.txt").write_text(f"The text of number {number}. " * 5)
    return folder


def test_a_folder_becomes_a_dataset_and_the_same_texts_the_same_digest(
    platform: Platform, owner: Principal, tokenizer: str, tmp_path: Path
) -> None:
    source = str(write_texts(tmp_path / "texts"))
    made = tokenize_source(platform, owner, source, tokenizer, "mine", licence="MIT")
    again = tokenize_source(platform, owner, source, tokenizer, "again", licence="MIT")
    assert made.digest == again.digest == find_dataset(platform, owner, "mine").digest
    assert made.artifact.licence == "MIT"
    assert sum(describe(made)["counts"].values()) == 40
    assert TokenDataset.open(made.path).split("train").tokens > 0
    assert made.artifact.provenance["source"] == "texts"


def test_a_text_that_cannot_be_read_leaves_nothing_behind(
    platform: Platform, owner: Principal, tokenizer: str, tmp_path: Path
) -> None:
    texts = write_texts(tmp_path / "texts")
    (texts / "zebra.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"zebra\.png"):
        tokenize_source(platform, owner, str(texts), tokenizer, "mine")
    assert list(platform.home.artifacts.iterdir()) == []
    assert list_datasets(platform, owner) == []


def test_a_tokenizer_that_is_not_there_is_refused(
    platform: Platform, owner: Principal, tmp_path: Path
) -> None:
    source = str(write_texts(tmp_path / "texts", 2))
    with pytest.raises(NotFound, match="there is no model 'none'"):
        tokenize_source(platform, owner, source, "none", "mine")
    with pytest.raises(InvalidInput, match=r"has no tokenizer\.json"):
        tokenize_source(platform, owner, source, str(tmp_path), "mine")


def test_the_name_of_the_built_in_corpus_is_not_given_away(
    platform: Platform, owner: Principal, tokenizer: str
) -> None:
    with pytest.raises(InvalidInput, match="python-stdlib always means"):
        tokenize_source(platform, owner, "python-stdlib", tokenizer, "python-stdlib")


@pytest.mark.slow
def test_the_standard_library_is_tokenized(
    platform: Platform, owner: Principal, tokenizer: str
) -> None:
    made = tokenize_source(platform, owner, "python-stdlib", tokenizer, "library")
    assert made.artifact.licence == "PSF-2.0"
    shards = TokenDataset.open(made.path).split("train")
    assert shards.documents.find("argparse.py") is not None
