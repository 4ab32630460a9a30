"""Texts from folders and JSON lines: all of them, by name, and nothing that is no text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bessemer.core.errors import DataError, InvalidInput
from bessemer.data.corpus import Document
from bessemer.data.texts import Texts


def write_lines(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_every_visible_file_of_a_folder_is_a_document_called_by_its_path(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/b/c", ".hidden", ".git/config"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}")
    found = list(Texts(tmp_path, licence="MIT"))
    assert found == [Document(n, f"text of {n}", "MIT") for n in ("a/b/c", "a/z.md", "b.txt")]


def test_a_byte_order_mark_is_no_text_and_line_ends_stay(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    assert [text for _, text, _ in Texts(tmp_path)] == ["one\r\ntwo"]


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"image\.png is not UTF-8 text: byte 1 is 0x89"):
        list(Texts(tmp_path))


def test_lines_say_their_own_id_and_licence_or_get_one(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "a.jsonl",
        {"text": "one", "id": "first", "licence": "CC0-1.0"},
        {"text": "two", "meta": {"url": "x"}},
        {"text": "", "id": None, "meta": 1},
    )
    texts = Texts(path, licence="MIT")
    assert list(texts) == [
        Document("first", "one", "CC0-1.0"),
        Document("line-2", "two", "MIT"),
        Document("line-3", "", "MIT"),
    ]
    assert texts.left_out == {"meta": 2}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"content": "x"}, "line 2: has no text; its keys are content"),
        ({"text": 5}, "line 2: text is not a string"),
        ({"text": None}, "line 2: text is not a string"),
        ({"text": "x", "id": 7}, "line 2: id is not a string"),
        (["x"], "line 2: is not an object"),
        ({"text": "x", "id": "first"}, "line 2: the id 'first' is that of an earlier line"),
    ],
)
def test_a_line_that_is_no_document_is_named(tmp_path: Path, line: Any, said: str) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"text": "one", "id": "first"}, line)
    with pytest.raises(DataError, match=said):
        list(Texts(path))


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="neither a folder nor a file"):
        Texts(tmp_path / "none")
