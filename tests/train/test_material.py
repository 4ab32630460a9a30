"""Documents and chats as tokens: what is counted, what is kept apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bessemer.core.errors import InvalidInput
from bessemer.core.recipes import load, loads
from bessemer.data.corpus import Document, split_of
from bessemer.text.bpe import train_bpe
from bessemer.text.tokenizer import Tokenizer
from bessemer.train.material import Material, chat_material, corpus, document_material
from bessemer.train.objectives.language import bytes_of_tokens
from bessemer.train.recipe import TrainRecipe
from tests.train.tiny import make_run

PRETRAIN = """
objective = "pretrain"
minutes = 1
model.depth = 1
model.vocab_size = 300
data.name = "python-stdlib"
batch.sequence_length = 16
evaluation.rows = 100000
"""


def documents(count: int = 60) -> list[Document]:
    return [
        Document(f"file{i}.py", f"value_{i} = 'naïve 東京' * {i}\n" * 4, "X") for i in range(count)
    ]


def made_of(found: list[Document], folder: Path) -> Material:
    """As a new model's run reads them, with a tokenizer trained on the first 60."""
    recipe = loads(PRETRAIN, TrainRecipe).recipe
    if not folder.exists():
        train_bpe((document.text for document in documents()), 300, folder)
    return document_material(recipe, found, Tokenizer.load(folder))


def test_every_validation_byte_is_counted_once(tmp_path: Path) -> None:
    made = made_of(documents(), tmp_path / "tokenizer")
    counted = sum(
        int(bytes_of_tokens(made.tokenizer)[row.targets].sum()) for row in made.validation
    )
    texts = [d.text for d in documents() if split_of(d.id) == "validation"]
    assert texts
    everything = sum(len(text.encode()) for text in texts)
    # All but the end of the stream that does not fill a row.
    cut_off = everything - counted
    assert (
        0
        <= cut_off
        <= 16 * max(len(made.tokenizer.token_bytes(i)) for i in range(made.tokenizer.vocab_size))
    )
    ids = np.concatenate([row.targets for row in made.validation])
    text = b"".join(made.tokenizer.token_bytes(i) for i in ids if not made.tokenizer.is_special(i))
    assert len(text) == counted


def test_other_documents_have_another_digest(tmp_path: Path) -> None:
    first, again = (made_of(documents(), tmp_path / "tokenizer") for _ in range(2))
    assert first.digest == again.digest
    assert first.facts["vocab_size"] == first.tokenizer.vocab_size <= 300
    assert made_of(documents(59), tmp_path / "tokenizer").digest != first.digest


def test_only_the_built_in_corpus_is_known() -> None:
    with pytest.raises(InvalidInput, match="'my-files' is not known"):
        corpus("my-files")


def test_chats_are_taught_on_their_answers_only(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    recipe = load(run.recipe, TrainRecipe).recipe
    made = chat_material(recipe, tmp_path / "dataset", tmp_path / "model")
    for row in made.validation:
        taught = made.tokenizer.decode(row.targets.tolist(), skip_special=False)
        assert taught.count("It is ") == taught.count("<|endoftext|>") == len(row.lengths)
        assert "Which" not in taught
    assert sum(len(row.lengths) for row in made.validation) == 6
    assert made.facts["train_chats"] == 48
    assert made.tokenizer.decode(made.prompt).endswith("assistant: ")
