"""Documents and chats as tokens: what is counted, what is kept apart."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bessemer.core.errors import IntegrityError, InvalidInput
from bessemer.core.recipes import load, loads
from bessemer.core.train_recipe import TrainRecipe
from bessemer.data.chats import chat_of
from bessemer.data.corpus import Document, split_of
from bessemer.data.document_splits import DocumentSplits, open_documents, open_tokenizer
from bessemer.data.material import Material, chat_material, document_material
from bessemer.data.pieces import encode_chats
from bessemer.data.shards import TokenShards
from bessemer.data.tokenizing import tokenize, write_splits
from bessemer.text.bpe import train_bpe
from bessemer.text.chat_encoding import encode_prompt
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer
from bessemer.train.objectives.language import bytes_of_tokens
from tests.text.model_folder import CHATML, write_model_folder
from tests.text.templates import BLOCKS
from tests.train.tiny import make_dataset, make_run

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
    """As a run reads them, with a tokenizer trained on the first 60."""
    recipe = loads(PRETRAIN, TrainRecipe).recipe
    if not (folder / "tokenizer").exists():
        train_bpe((document.text for document in documents()), 300, folder / "tokenizer")
    tokenizer = Tokenizer.load(folder / "tokenizer")
    tokens = folder / f"tokens of {len(found)}"
    if not tokens.exists():
        write_splits(tokens, found, tokenizer, source="test")
    shards = (TokenShards(tokens / split) for split in ("train", "validation"))
    return document_material(recipe, DocumentSplits(*shards), tokenizer)


def test_every_validation_byte_is_counted_once(tmp_path: Path) -> None:
    made = made_of(documents(), tmp_path)
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
    first, again = (made_of(documents(), tmp_path) for _ in range(2))
    assert first.digest == again.digest
    assert first.facts["vocab_size"] == first.tokenizer.vocab_size <= 300
    assert made_of(documents(59), tmp_path).digest != first.digest


def test_validation_rows_do_not_depend_on_the_seed(tmp_path: Path) -> None:
    one = made_of(documents(), tmp_path)
    assert len({row.ids.tobytes() for row in one.validation}) == len(one.validation) > 1
    tokens = tmp_path / "tokens of 60"
    shards = DocumentSplits(*(TokenShards(tokens / s) for s in ("train", "validation")))
    recipe = loads(PRETRAIN, TrainRecipe, ["seed=5"]).recipe
    other = document_material(recipe, shards, one.tokenizer)
    assert [row.ids.tolist() for row in other.validation] == [
        row.ids.tolist() for row in one.validation
    ]
    assert other.train.row(0).ids.tolist() != one.train.row(0).ids.tolist()


def named(folder: Path, *overrides: str) -> tuple[TrainRecipe, dict[str, Any]]:
    """A recipe over the dataset in `folder`, and the plan's datasets."""
    recipe = loads(PRETRAIN, TrainRecipe, ['data.name="mine"', *overrides]).recipe
    return recipe, {"mine": {"path": str(folder), "digest": "sha256:1", "name": "mine"}}


def test_a_new_model_takes_the_tokenizer_of_its_dataset(tmp_path: Path) -> None:
    train_bpe((document.text for document in documents()), 300, tmp_path / "tokenizer")
    tokenize(documents(), tmp_path / "tokenizer", tmp_path / "mine", source="files")
    recipe, datasets = named(tmp_path / "mine")
    tokenizer = open_tokenizer(recipe, None, tmp_path / "run", datasets)
    assert tokenizer.folder == tmp_path / "mine" / "tokenizer"
    found = open_documents(recipe, datasets, tmp_path / "run", tokenizer)
    assert document_material(recipe, found, tokenizer).facts["train_documents"] > 0
    assert not (tmp_path / "run").exists()
    other = train_bpe(["other text"], 280, tmp_path / "other")
    with pytest.raises(InvalidInput, match="made by another tokenizer"):
        open_documents(recipe, datasets, tmp_path / "run", other)


def test_a_dataset_of_chats_cannot_be_pretrained_on(tmp_path: Path) -> None:
    recipe, datasets = named(make_dataset(tmp_path / "chats"))
    with pytest.raises(InvalidInput, match="holds chats; documents in tokens are needed"):
        open_tokenizer(recipe, None, tmp_path, datasets)


def test_the_library_is_tokenized_into_the_run_once_and_then_mapped(tmp_path: Path) -> None:
    recipe = loads(PRETRAIN, TrainRecipe, ["model.vocab_size=400"]).recipe
    tokenizer = train_bpe(["def f(self): return None\n"], 300, tmp_path / "tokenizer")
    first = open_documents(recipe, {}, tmp_path, tokenizer)
    train, validation = tmp_path / "tokens" / "train", tmp_path / "tokens" / "validation"
    written_ns = (train / "manifest.json").stat().st_mtime_ns
    again = open_documents(recipe, {}, tmp_path, tokenizer)
    assert again.digest == first.digest
    assert (train / "manifest.json").stat().st_mtime_ns == written_ns
    assert first.train.documents.find("argparse.py") is not None
    # A start that was killed half way left no manifest of the second split.
    (validation / "manifest.json").unlink()
    assert open_documents(recipe, {}, tmp_path, tokenizer).digest == first.digest
    shard = next(train.glob("*.bin"))
    os.truncate(shard, 1000)
    with pytest.raises(IntegrityError, match="has 1,000 bytes, not the") as caught:
        open_documents(recipe, {}, tmp_path, tokenizer)
    assert f"remove {tmp_path / 'tokens' / 'train'}" not in str(caught.value.next_step)
    assert f"remove {tmp_path / 'tokens'}" in str(caught.value.next_step)


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


@pytest.mark.parametrize("template", [CHATML, BLOCKS])
def test_a_chat_with_tools_is_taught_as_it_will_be_asked(tmp_path: Path, template: str) -> None:
    tokenizer, found = Tokenizer.load(write_model_folder(tmp_path)), ChatTemplate(template)
    tool = {"type": "function", "function": {"name": "get", "parameters": {"type": "object"}}}
    call = {"id": "c1", "type": "function", "function": {"name": "get", "arguments": '{"a":1}'}}
    asked = {"role": "user", "content": "Hi"}
    called = {"role": "assistant", "content": None, "tool_calls": [call]}
    chat = chat_of({"messages": [asked, called], "tools": [tool]})
    (piece,) = encode_chats([chat], tokenizer, found, ["assistant"])
    # As the gateway hands on what a client sends.
    prompt = encode_prompt([asked], tokenizer, found, [tool])
    assert piece.ids[: len(prompt)].tolist() == prompt
    taught = tokenizer.decode(piece.ids[piece.is_target].tolist(), skip_special=False)
    assert taught.startswith("<tool_call>") and taught.endswith("</tool_call><|im_end|>")
    assert '{"name": "get", "arguments": {"a": 1}}' in taught
