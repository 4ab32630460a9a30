"""Documents become token shards: each once, in its split, behind a start token."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bessemer.core.digests import manifest_of
from bessemer.core.errors import DataError, InvalidInput
from bessemer.data.corpus import SPLITS, Document, split_of
from bessemer.data.dataset import write_dataset
from bessemer.data.texts import Texts
from bessemer.data.tokenizing import TokenDataset, start_id, tokenize, write_splits
from bessemer.text.bpe import train_bpe
from bessemer.text.tokenizer import Tokenizer


def documents(count: int = 60) -> list[Document]:
    licences = ("MIT", None, "CC0-1.0")
    return [
        Document(f"file{i}.py", f"value_{i} = 'naïve 東京 <|endoftext|>' * {i}\n", licences[i % 3])
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_bpe((document.text for document in documents()), 300, folder)
    return folder


def test_each_document_is_in_its_split_once_and_reads_as_it_was(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    info = tokenize(documents(), tokenizer_folder, tmp_path / "made", source="files")
    made = TokenDataset.open(tmp_path / "made")
    tokenizer = Tokenizer.load(made.tokenizer_folder)
    assert made.info == info
    found = []
    for split in SPLITS:
        shards = made.split(split)
        shards.verify()
        assert info["counts"][split] == len(shards.documents)
        assert info["tokens"][split] == shards.tokens
        for number in range(len(shards.documents)):
            entry = shards.documents[number]
            ids = shards.window(entry.offset, entry.end).tolist()
            assert (split_of(entry.id), entry.source) == (split, "files")
            assert ids[0] == start_id(tokenizer)
            assert start_id(tokenizer) not in ids[1:]
            text = tokenizer.decode(ids[1:], skip_special=False)
            found.append(Document(entry.id, text, entry.licence))
    assert sorted(found) == sorted(documents())
    assert info["licences"] == {"CC0-1.0": 20, "MIT": 20, "not stated": 20}


def test_batches_do_not_show_in_what_is_written(tokenizer_folder: Path, tmp_path: Path) -> None:
    tokenizer, digests = Tokenizer.load(tokenizer_folder), set()
    for size in (1, 500, 1_000_000):
        folder = tmp_path / str(size)
        write_splits(folder, documents(), tokenizer, source="files", batch_characters=size)
        digests.add(manifest_of(folder).digest)
    assert len(digests) == 1


def test_empty_documents_and_unknown_keys_are_left_out_and_counted(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    lines = [{"text": "some text"}, {"text": " \n"}, {"text": "more", "url": "x"}]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    info = tokenize(Texts(path), tokenizer_folder, tmp_path / "made", source="texts.jsonl")
    assert sum(info["counts"].values()) == 2
    assert info["empty_documents_left_out"] == 1
    assert info["keys_left_out"] == {"url": 1}


def test_only_the_wanted_splits_are_written(tokenizer_folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(tokenizer_folder)
    counts = write_splits(tmp_path, documents(), tokenizer, source="files", splits=("validation",))
    assert [path.name for path in tmp_path.iterdir()] == ["validation"]
    wanted = sum(split_of(document.id) == "validation" for document in documents())
    assert counts.documents == {"validation": wanted}


def test_no_text_is_refused(tokenizer_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="files holds no text"):
        tokenize([Document("a", "\n", None)], tokenizer_folder, tmp_path / "made", source="files")


def test_tokens_of_another_tokenizer_are_refused(tokenizer_folder: Path, tmp_path: Path) -> None:
    tokenize(documents(), tokenizer_folder, tmp_path / "made", source="files")
    made = TokenDataset.open(tmp_path / "made")
    made.check_tokenizer(Tokenizer.load(tokenizer_folder))
    other = train_bpe(["other text"], 280, tmp_path / "other")
    with pytest.raises(InvalidInput, match="made by another tokenizer"):
        made.check_tokenizer(other)


def test_a_dataset_of_chats_has_no_tokens(tmp_path: Path) -> None:
    from bessemer.data.chats import Chat
    from bessemer.data.dataset import Row

    chat = Chat([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    write_dataset(tmp_path / "chats", [Row("train", chat, "d")], [], {"name": "mine"})
    with pytest.raises(InvalidInput, match="mine holds chats; documents in tokens") as caught:
        TokenDataset.open(tmp_path / "chats")
    assert "bessemer data tokenize" in str(caught.value.next_step)


def test_without_a_start_token_the_only_end_token_stands_between(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(tokenizer_folder, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["bos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.load(folder)
    assert start_id(tokenizer) == next(iter(tokenizer.eos_ids))
    del config["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidInput, match="nothing can stand between documents"):
        start_id(Tokenizer.load(folder))


def test_ids_are_kept_as_small_as_the_vocabulary_allows(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    tokenize(documents(), tokenizer_folder, tmp_path / "made", source="files")
    assert TokenDataset.open(tmp_path / "made").split("train").dtype == np.uint16
