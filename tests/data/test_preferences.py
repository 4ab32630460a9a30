"""Preferences are checked to the letter, imported without leaks, and read back as they were."""

import json
from pathlib import Path
from typing import Any

import pytest

from bessemer.core.digests import manifest_of
from bessemer.core.errors import DataError, InvalidInput
from bessemer.data.checking import check_file
from bessemer.data.corpus import SPLITS
from bessemer.data.dataset import Dataset
from bessemer.data.importing import import_examples
from bessemer.data.preferences import preference_faults, preference_of

USER = {"role": "user", "content": "Hi"}
GOOD = {"role": "assistant", "content": "Hello!"}
BAD = {"role": "assistant", "content": "What?"}
IN_PARTS = {"role": "assistant", "content": [{"type": "text", "text": "Hello!"}]}
CALL = {"id": "c1", "type": "function", "function": {"name": "get", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "get", "parameters": {"type": "object"}}}


def pair(*messages: Any, **more: Any) -> dict[str, Any]:
    return {
        "input": {"messages": list(messages)},
        "preferred_output": [GOOD],
        "non_preferred_output": [BAD],
        **more,
    }


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def unlike(number: int) -> str:
    return " ".join(f"{number * 7919 + step * 104729:x}" for step in range(8))


def asking(number: int, answer: str = "Yes.") -> dict[str, Any]:
    preferred = [{"role": "assistant", "content": answer}]
    return pair({"role": "user", "content": unlike(number)}, preferred_output=preferred)


@pytest.mark.parametrize(
    "good",
    [
        pair(USER),
        pair({"role": "system", "content": "Be kind."}, USER, GOOD, USER),
        pair(USER, preferred_output=[{"role": "assistant", "refusal": "I cannot."}]),
        pair(USER, input={"messages": [USER], "tools": [TOOL], "parallel_tool_calls": True}),
        pair(USER, non_preferred_output=[{"role": "assistant", "tool_calls": [CALL]}]),
        pair(
            USER,
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "4"},
        ),
    ],
)
def test_what_the_format_allows_passes(good: dict[str, Any]) -> None:
    assert preference_faults(good) == []


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        ([USER], "is an array, not an object with input"),
        ({"preferred_output": [GOOD], "non_preferred_output": [BAD]}, "has no input"),
        (pair(USER, input=[USER]), "input is an array, not an object"),
        (pair(USER, input={}), "input has no messages"),
        (pair(), "input.messages is empty"),
        (pair(USER, input={"messages": USER}), "input.messages is an object, not an array"),
        (pair(USER, input={"messages": [USER], "tool": []}), "input.tool (did you mean 'tools'?)"),
        (pair({"role": "human", "content": "Hi"}), "input.messages[0].role is 'human'"),
        (pair({"role": "user"}), "input.messages[0].content is missing"),
        (
            pair(USER, {"role": "tool", "tool_call_id": "c9", "content": "4"}),
            "input.messages[1].tool_call_id 'c9' answers no call",
        ),
        (pair(USER, input={"messages": [USER], "tools": {}}), "input.tools is an object"),
        (
            pair(USER, input={"messages": [USER], "parallel_tool_calls": 1}),
            "input.parallel_tool_calls is not true or false",
        ),
        (
            pair(USER, rejected_output=[BAD]),
            "unknown key rejected_output (did you mean 'preferred_output'?)",
        ),
        ({"input": {}, "preferred_output": [GOOD]}, "has no non_preferred_output"),
        (pair(USER, preferred_output=GOOD), "preferred_output is an object; it must be an array"),
        (pair(USER, preferred_output=[]), "preferred_output is an array of 0"),
        (pair(USER, preferred_output=[GOOD, GOOD]), "preferred_output is an array of 2"),
        (pair(USER, preferred_output=[USER]), "preferred_output[0].role is 'user'; it must be"),
        (pair(USER, preferred_output=["Hi"]), "preferred_output[0] is a string, not an object"),
        (pair(USER, preferred_output=[{"role": "assistant"}]), "preferred_output[0] says nothing"),
        (pair(USER, preferred_output=[{**GOOD, "weight": 0}]), "weight is 0"),
        (pair(USER, non_preferred_output=[GOOD]), "are the same answer"),
        (pair(USER, non_preferred_output=[IN_PARTS]), "are the same answer"),
    ],
)  # fmt: skip
def test_what_it_does_not_allow_is_named(bad: Any, fault: str) -> None:
    faults = preference_faults(bad)
    assert len([found for found in faults if fault in found]) == 1, faults


def test_every_fault_of_a_line_is_named_at_once() -> None:
    assert len(preference_faults({"input": {"messages": []}, "preferred_output": [USER, 3]})) == 3


def test_a_file_is_recognized_by_its_lines(tmp_path: Path) -> None:
    report = check_file(write(tmp_path / "p.jsonl", [asking(number) for number in range(3)]))
    assert (report.shape.name, report.examples, report.messages) == ("preferences", 3, 9)
    assert report.answers == 6
    report.raise_faults()


@pytest.mark.parametrize("first", ["chat", "preference"])
def test_a_file_of_two_kinds_names_the_line_that_is_otherwise(tmp_path: Path, first: str) -> None:
    chat, preference = {"messages": [USER, GOOD]}, pair(USER)
    lines = [chat, chat, preference] if first == "chat" else [preference, preference, chat]
    path = write(tmp_path / "both.jsonl", lines)
    (fault,) = check_file(path).faults
    other = "preference" if first == "chat" else "chat"
    assert fault.line == 3
    assert fault.message.startswith(f"is a {other}, but line 1 is a {first};")
    with pytest.raises(DataError, match="line 3"):
        import_examples(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_imported_is_read_back_by_split(tmp_path: Path) -> None:
    lines = [asking(number, f"Answer {number}.") for number in range(200)]
    summary = import_examples(write(tmp_path / "p.jsonl", [*lines, lines[4]]), tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    assert (summary["kind"], dataset.kind, summary["preferences"]) == (
        "preferences", "preferences", 200,
    )  # fmt: skip
    assert summary["exact_duplicates_dropped"] == 1
    read = {name: list(dataset.preferences(name)) for name in SPLITS}
    assert {name: len(found) for name, found in read.items()} == summary["counts"]
    assert all(read.values())
    everything = [found.as_line() for name in SPLITS for found in read[name]]
    assert sorted(map(json.dumps, everything)) == sorted(map(json.dumps, lines))


def test_all_pairs_of_one_question_are_in_one_split(tmp_path: Path) -> None:
    lines = [asking(number, unlike(1000 + 3 * number + turn)) for number in range(60) for turn in range(3)]  # fmt: skip  # noqa: E501
    import_examples(write(tmp_path / "p.jsonl", lines), tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    asked = [{found.said() for found in dataset.preferences(name)} for name in SPLITS]
    assert sum(map(len, asked)) == len(set().union(*asked)) == 60


def test_chats_are_not_read_out_of_preferences_nor_the_other_way(tmp_path: Path) -> None:
    import_examples(write(tmp_path / "p.jsonl", [asking(1)]), tmp_path / "pairs")
    import_examples(write(tmp_path / "c.jsonl", [{"messages": [USER, GOOD]}]), tmp_path / "chats")
    with pytest.raises(InvalidInput, match="p holds preferences; chats are needed"):
        Dataset.open(tmp_path / "pairs").split("train")
    with pytest.raises(InvalidInput, match="c holds chats; preferences are needed"):
        Dataset.open(tmp_path / "chats").preferences("train")


def test_parts_nulls_and_tools_become_plain() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    found = preference_of(
        {
            "input": {"messages": [{"role": "user", "content": parts}], "tools": [TOOL]},
            "preferred_output": [{"role": "assistant", "content": None, "tool_calls": [CALL]}],
            "non_preferred_output": [{"role": "assistant", "refusal": "No.", "tool_calls": None}],
        }
    )
    assert found.messages == [{"role": "user", "content": "one two"}]
    assert found.preferred == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert found.rejected == {"role": "assistant", "content": "No."}
    assert found.as_line()["input"]["tools"] == [TOOL]
    assert preference_faults(found.as_line()) == []


def test_a_dataset_of_chats_says_no_kind_and_keeps_its_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", [{"messages": [USER, GOOD]}])
    info = import_examples(path, tmp_path / "out")
    assert "kind" not in info
    assert Dataset.open(tmp_path / "out").kind == "chats"
    # As written before there were other kinds: a stored dataset keeps its digest.
    assert manifest_of(tmp_path / "out").digest.endswith(BEFORE)


BEFORE = "b9fcbb49322f8dff43dcc9ddd840a8162ea91f230db7b1beaf963726325ccf30"
