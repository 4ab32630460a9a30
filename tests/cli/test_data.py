"""`bessemer data`: bad files are refused by line and fault, and nothing of them is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.calling import Said, say
from tests.tiny.world import chats, write_chats


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_chats(tmp_path / "boxes.jsonl", 60)


def nothing_was_kept(home: Path) -> bool:
    listed = say("data", "list", "--json").json
    return not listed and not list((home / "artifacts").iterdir())


def refused(said: Said, *parts: str) -> bool:
    assert (said.status, said.out) == (1, "")
    assert [part for part in parts if part not in said.err] == []
    return "Traceback" not in said.err


def test_a_file_becomes_a_dataset_with_three_splits(good: Path) -> None:
    imported = say("data", "import", str(good), "--json").json
    counts = imported["info"]["counts"]
    assert imported["name"] == "boxes"
    assert sum(counts.values()) == 60
    assert min(counts.values()) >= 1


def test_importing_again_changes_nothing(good: Path) -> None:
    digests = {say("data", "import", str(good), "--json").json["digest"] for _ in range(2)}
    assert len(digests) == 1
    assert len(say("data", "list", "--json").json) == 1


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff"])
def test_an_empty_file_is_refused(text: str, tmp_path: Path, home: Path) -> None:
    file = tmp_path / "empty.jsonl"
    file.write_text(text)
    assert refused(say("data", "import", str(file)), "empty.jsonl holds no chats", "next: ")
    assert nothing_was_kept(home)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "JSON"),
        ("[]", "object"),
        ('{"messages": []}', "messages"),
        ('{"messages": [{"role": "user", "content": "Hi"}]}', "assistant"),
        ('{"messages": [{"role": "robot", "content": "Hi"}]}', "robot"),
        ('{"prompt": "Hi", "completion": "Yo"}', "messages"),
        ("", None),
    ],
)
def test_a_bad_line_is_named_with_its_fault(
    line: str, fault: str | None, good: Path, home: Path
) -> None:
    lines = good.read_text().splitlines()
    good.write_text("\n".join([*lines[:6], line, *lines[6:]]) + "\n")
    said = say("data", "import", str(good))
    if fault is None:  # a line with nothing on it says nothing wrong
        assert said.status == 0
        return
    assert refused(said, "line 7: ", fault, "nothing was imported")
    assert nothing_was_kept(home)
    checked = say("data", "check", str(good))
    assert checked.status == 1
    assert "line 7: " in checked.out
    assert "60 good chats" in checked.out


def test_every_fault_is_listed_up_to_twenty_and_the_rest_counted(tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text("{}\n" * 25 + json.dumps(chats(1)[0]) + "\n")
    said = say("data", "import", str(file))
    assert refused(said, "bad.jsonl has 25 faults", "line 20: ", "and 5 more")
    assert "line 21: " not in said.err


def test_bytes_that_are_no_text_are_named(tmp_path: Path, home: Path) -> None:
    file = tmp_path / "latin.jsonl"
    file.write_bytes(json.dumps(chats(1)[0]).encode() + b'\n{"messages": "\xe9"}\n')
    assert refused(say("data", "import", str(file)), "line 2: ", "UTF-8")
    assert nothing_was_kept(home)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert refused(say("data", "import", str(tmp_path)), f"{tmp_path} is not a file")
    assert refused(say("data", "check", str(tmp_path)), str(tmp_path))


def test_preferences_are_recognized_by_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "thumbs.jsonl"
    answers = ({"role": "assistant", "content": text} for text in ("Yes.", "No."))
    pair = dict(
        zip(("preferred_output", "non_preferred_output"), ([a] for a in answers), strict=True)
    )
    asked = [{"messages": [{"role": "user", "content": f"Is {n} a number?"}]} for n in range(9)]
    file.write_text("".join(json.dumps({"input": one, **pair}) + "\n" for one in asked))
    assert "9 good preferences, 27 messages, 18 answers" in say("data", "check", str(file)).out
    assert say("data", "import", str(file), "--json").json["info"]["kind"] == "preferences"
    file.write_text(file.read_text() + json.dumps(chats(1)[0]) + "\n")
    assert refused(say("data", "import", str(file)), "line 10: is a chat, but line 1 is a prefer")


def test_prompts_are_recognized_by_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    asked = [{"messages": [{"role": "user", "content": f"Is {n} a number?"}]} for n in range(9)]
    file.write_text("".join(json.dumps({**one, "answer": "yes"}) + "\n" for one in asked))
    assert say("data", "check", str(file)).out == "9 good prompts, 9 messages\n"
    imported = say("data", "import", str(file), "--json").json["info"]
    assert (imported["kind"], imported["prompts"]) == ("prompts", 9)
    file.write_text(file.read_text() + json.dumps(chats(1)[0]) + "\n")
    assert refused(say("data", "import", str(file)), "line 10: is a chat, but line 1 is a prompt")
