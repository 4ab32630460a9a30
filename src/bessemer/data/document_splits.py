"""The documents that a run reads, as token shards, and whose tokens they are.

They are those of a dataset, or, for `python-stdlib`, of the interpreter's own library: a run
tokenizes that into its folder when it first starts.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bessemer.core.train_recipe import TrainRecipe
from bessemer.data.corpus import split_of, stdlib_sources
from bessemer.data.pieces import LEARNED
from bessemer.data.shard_manifest import is_finished
from bessemer.data.shards import TokenShards
from bessemer.data.tokenizing import TokenDataset, write_splits
from bessemer.text.bpe import train_bpe
from bessemer.text.tokenizer import Tokenizer

CORPUS = "python-stdlib"


class DocumentSplits(NamedTuple):
    """The token shards that a run over documents reads."""

    train: TokenShards
    validation: TokenShards

    @property
    def digest(self) -> str:
        """SHA-256 over the Merkle roots of both streams."""
        roots = "\n".join(shards.manifest.merkle_root for shards in self)
        return hashlib.sha256(roots.encode()).hexdigest()


def open_documents(
    recipe: TrainRecipe, datasets: Mapping[str, Any], folder: Path, tokenizer: Tokenizer
) -> DocumentSplits:
    """The shards of the recipe's dataset.

    Args:
        datasets: of the run's plan.
        folder: the run's own; `python-stdlib` is tokenized into it if that was not done yet.

    Raises:
        InvalidInput: the dataset holds no tokens, or those of another tokenizer.
        NotFound, IntegrityError: a file of the shards is not what it was.
    """
    if recipe.dataset.name == CORPUS:
        _make_own_shards(folder / "tokens", tokenizer)
    else:
        _dataset(recipe, datasets).check_tokenizer(tokenizer)
    return find_documents(recipe, datasets, folder)


def find_documents(
    recipe: TrainRecipe, datasets: Mapping[str, Any], folder: Path
) -> DocumentSplits:
    """The same for a run that has begun: nothing is written."""
    if recipe.dataset.name == CORPUS:
        tokens = folder / "tokens"
        remedy = f"remove {tokens} and resume the run, which makes it again"
        return DocumentSplits(*(TokenShards(tokens / split, remedy) for split in LEARNED))
    dataset = _dataset(recipe, datasets)
    return DocumentSplits(*(dataset.split(split) for split in LEARNED))


def open_tokenizer(
    recipe: TrainRecipe, base: Path | None, folder: Path, datasets: Mapping[str, Any]
) -> Tokenizer:
    """The model's own; for a new model its dataset's, or a BPE trained on `python-stdlib`.

    That one is read from `folder` if it is there, else trained and written.
    """
    if base is not None:
        return Tokenizer.load(base)
    if recipe.dataset.name != CORPUS:
        return Tokenizer.load(_dataset(recipe, datasets).tokenizer_folder)
    if not (folder / "tokenizer_config.json").exists():  # the last file that training writes
        texts = (found.text for found in stdlib_sources() if split_of(found.id) == "train")
        train_bpe(texts, recipe.model.vocab_size, folder)
    return Tokenizer.load(folder)


def _dataset(recipe: TrainRecipe, datasets: Mapping[str, Any]) -> TokenDataset:
    return TokenDataset.open(Path(datasets[recipe.dataset.name]["path"]))


def _make_own_shards(folder: Path, tokenizer: Tokenizer) -> None:
    if not all(is_finished(folder / split) for split in LEARNED):
        shutil.rmtree(folder, ignore_errors=True)
        write_splits(folder, stdlib_sources(), tokenizer, source=CORPUS, splits=LEARNED)
