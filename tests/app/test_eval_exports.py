"""Files that were exported from OpenAI: whatever wrote them, their objects are found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bessemer.app.eval_exports import read_objects
from bessemer.core.errors import DataError
from tests.app.test_eval_importing import EVAL, RUN, output


@pytest.mark.parametrize("text", ["[]", '{"object": "list", "data": [], "has_more": false}'])
def test_an_eval_without_runs_has_an_empty_list_of_them(tmp_path: Path, text: str) -> None:
    one, none = tmp_path / "eval.json", tmp_path / "runs.json"
    one.write_text(json.dumps(EVAL))
    none.write_text(text)
    assert list(read_objects([one, none])) == [EVAL]


def test_files_hold_one_object_a_list_or_lines(tmp_path: Path) -> None:
    one, many, lines = (tmp_path / name for name in ("one.json", "many.json", "lines.jsonl"))
    one.write_text(json.dumps(EVAL, indent=2))
    many.write_text(json.dumps({"object": "list", "data": [RUN], "has_more": False}))
    lines.write_text("\n".join(json.dumps(output(n, True)) for n in range(2)) + "\n\n")
    kinds = [found["object"] for found in read_objects([one, many, lines])]
    assert kinds == ["eval", "eval.run", "eval.run.output_item", "eval.run.output_item"]
    lines.write_text(json.dumps(EVAL) + '\n{"object": "file"}\n')
    with pytest.raises(DataError, match=r"line 2: lines\.jsonl holds 'file'"):
        list(read_objects([lines]))
    lines.write_text(json.dumps(EVAL) + "\n{broken\n")
    with pytest.raises(DataError, match=r"line 2: lines\.jsonl is no JSON"):
        list(read_objects([lines]))


def test_texts_may_have_any_character_and_objects_any_lines(tmp_path: Path) -> None:
    """U+2028 is no end of a line, and indented objects may follow each other."""
    named = {**EVAL, "name": "a\u2028b\x85c"}
    file = tmp_path / "raw.jsonl"
    lines = [json.dumps(one, ensure_ascii=False, indent=n) for n, one in ((None, named), (2, RUN))]
    file.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    assert list(read_objects([file])) == [named, RUN]
    text = json.dumps(EVAL, indent=2) + "\n\n"
    file.write_text(text + '["x"]')
    with pytest.raises(
        DataError, match=rf"line {len(text.splitlines()) + 1}: raw\.jsonl holds 'str'"
    ):
        list(read_objects([file]))
    file.write_bytes(b'{"object": "eval\xff"}')
    with pytest.raises(DataError, match="is no UTF-8"):
        list(read_objects([file]))
    file.write_text("[" * 100_000)
    with pytest.raises(DataError, match="nested too deeply"):
        list(read_objects([file]))


def test_half_of_a_character_is_a_question_mark(tmp_path: Path) -> None:
    file = tmp_path / "cut.json"
    file.write_text('{"object": "eval", "name": "\\ud83d\\ude00 \\ud83d"}')
    (found,) = read_objects([file])
    assert found["name"] == "\U0001f600 ?"


def test_objects_may_stand_in_somebodys_own(tmp_path: Path) -> None:
    file = tmp_path / "all.json"
    run = {**RUN, "output_items": [output(0, True)]}
    file.write_text(json.dumps({"exported_at": 1, "evals": [{"eval": EVAL, "runs": [run]}]}))
    kinds = [found["object"] for found in read_objects([file])]
    assert kinds == ["eval", "eval.run", "eval.run.output_item"]
    file.write_text('{"evals": []}')
    with pytest.raises(DataError, match=r"all\.json holds none of eval, eval\.run"):
        list(read_objects([file]))
