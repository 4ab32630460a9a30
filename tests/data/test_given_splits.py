"""Splits that their owner has made: nothing is dropped, and only what is held out is said to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bessemer.core.errors import DataError
from bessemer.data.dataset import Dataset
from bessemer.data.given_splits import MEASURED_LINES, check_shape, import_splits, shape_named


def chats(count: int) -> list[Any]:
    return [
        {"messages": [{"role": r, "content": f"{r} {n // 2}"} for r in ("user", "assistant")]}
        for n in range(count)
    ]


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_line_that_is_there_twice_is_learned_twice(tmp_path: Path) -> None:
    shape = shape_named("chats")
    train = write(tmp_path / "train", chats(40))
    info = import_splits(train, None, tmp_path / "data", shape)
    assert info["counts"] == {"train": 40, "validation": MEASURED_LINES, "test": 0}
    assert info["held_out"] is False
    opened = Dataset.open(tmp_path / "data")
    assert [chat.messages for chat in opened.split("train")] == [c["messages"] for c in chats(40)]
    assert opened.split("validation") == opened.split("train")[:MEASURED_LINES]


def test_a_second_file_is_held_out_whole(tmp_path: Path) -> None:
    shape = shape_named("chats")
    train, other = write(tmp_path / "train", chats(4)), write(tmp_path / "other", chats(30))
    info = import_splits(train, other, tmp_path / "data", shape)
    assert info["counts"] == {"train": 4, "validation": 30, "test": 0}
    assert info["held_out"] is True


def test_another_shape_and_a_fault_are_refused(tmp_path: Path) -> None:
    good = write(tmp_path / "good", chats(3))
    assert check_shape(good, shape_named("chats")) == 3
    with pytest.raises(DataError, match="its lines are chats; prompts are needed"):
        check_shape(good, shape_named("prompts"))
    bad = write(tmp_path / "bad", [*chats(1), {"messages": []}])
    with pytest.raises(DataError, match="line 2: "):
        check_shape(bad, shape_named("chats"))
