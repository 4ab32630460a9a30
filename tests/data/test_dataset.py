"""A dataset folder gives back what was put in, and the same content the same bytes."""

import json
from pathlib import Path

import pytest

from bessemer.core.digests import manifest_of
from bessemer.core.errors import Conflict, DataError, NotFound
from bessemer.data.chats import Chat
from bessemer.data.corpus import SPLITS, Split
from bessemer.data.dataset import Dataset, Row, write_dataset


def row(split: Split, number: int, kind: str | None = "ask") -> Row:
    messages = [
        {"role": "user", "content": f"Question {number}? 東京\u2028"},
        {"role": "assistant", "content": f"Answer {number}."},
    ]
    return Row(split, Chat(messages, kind=kind, symbol=f"m.s{number}"), f"doc_{number}")


ROWS = [row("train", 1), row("test", 2), row("train", 3, None), row("train", 4)]
DOCUMENTS = [{"id": f"doc_{number}", "licence": "CC0-1.0"} for number in range(1, 5)]


def test_chats_come_back_by_split_in_order(tmp_path: Path) -> None:
    info = write_dataset(tmp_path, ROWS, DOCUMENTS, {"name": "small", "licence": "CC0-1.0"})
    dataset = Dataset.open(tmp_path)
    assert dataset.info == info
    assert info["counts"] == {"train": 3, "validation": 0, "test": 1}
    assert info["kinds"] == {"ask": 3, "chat": 1}
    for name in SPLITS:
        assert dataset.split(name) == [entry.example for entry in ROWS if entry.split == name]
    assert dataset.documents() == DOCUMENTS


def test_split_files_are_strictly_openais_format(tmp_path: Path) -> None:
    write_dataset(tmp_path, ROWS, DOCUMENTS, {})
    for line in (tmp_path / "train.jsonl").read_text().split("\n")[:-1]:
        value = json.loads(line)
        assert set(value) == {"messages"}
        assert all(set(message) == {"role", "content"} for message in value["messages"])
    index = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text().splitlines()]
    assert index[1] == {
        "split": "test", "line": 1, "kind": "ask", "symbol": "m.s2", "document": "doc_2",
    }  # fmt: skip
    assert [entry["line"] for entry in index if entry["split"] == "train"] == [1, 2, 3]


def test_the_same_content_has_the_same_digest(tmp_path: Path) -> None:
    for name in "ab":
        write_dataset(tmp_path / name, iter(ROWS), iter(DOCUMENTS), {"name": "x"})
    assert manifest_of(tmp_path / "a").digest == manifest_of(tmp_path / "b").digest


def test_an_empty_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="empty"):
        write_dataset(tmp_path, [], [], {})


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(Conflict, match="not empty"):
        write_dataset(tmp_path, ROWS, DOCUMENTS, {})
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_what_is_no_dataset_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="not a dataset"):
        Dataset.open(tmp_path)
    (tmp_path / "dataset.json").write_text('{"format": 2}')
    with pytest.raises(DataError, match="format 2"):
        Dataset.open(tmp_path)
