"""Prompts keep what they are judged by, are told from chats, and are read back as they were."""

import json
from pathlib import Path
from typing import Any

import pytest

from bessemer.core.errors import DataError, InvalidInput
from bessemer.data.checking import check_file
from bessemer.data.corpus import SPLITS
from bessemer.data.dataset import Dataset
from bessemer.data.importing import import_examples
from bessemer.data.prompts import prompt_faults, prompt_of
from bessemer.data.shapes import CHATS, PROMPTS, shape_of

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "What is 6 * 7?"}
ANSWER = {"role": "assistant", "content": "42"}
CALL = {"id": "c1", "type": "function", "function": {"name": "get", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "get", "parameters": {"type": "object"}}}


def prompt(*messages: Any, **item: Any) -> dict[str, Any]:
    return {"messages": list(messages), **item}


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def asking(number: int, **item: Any) -> dict[str, Any]:
    words = " ".join(f"{number * 7919 + step * 104729:x}" for step in range(8))
    return prompt({"role": "user", "content": words}, answer=str(number), **item)


@pytest.mark.parametrize(
    "good",
    [
        prompt(USER),
        prompt(SYSTEM, USER, answer="42", reference_answer={"value": [42, None]}, tests=["x"]),
        prompt(USER, ANSWER, USER, answer="42"),
        prompt(SYSTEM, answer="anything"),
        prompt({"role": "developer", "content": "Greet."}, message_id=7),
        prompt(
            USER,
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
            tools=[TOOL],
            parallel_tool_calls=False,
            answer="42",
        ),
    ],
)
def test_what_the_format_allows_passes(good: dict[str, Any]) -> None:
    assert prompt_faults(good) == []
    assert shape_of(good) is PROMPTS


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        ([USER], "is an array, not an object with messages"),
        ({"answer": "42"}, "has no messages"),
        (prompt(answer="42"), "messages is empty"),
        ({"messages": USER, "answer": "42"}, "messages is an object, not an array"),
        (prompt(USER, ANSWER, answer="42"), "messages ends with an answer"),
        (prompt({"role": "human", "content": "Hi"}), "messages[0].role is 'human'"),
        (prompt({"role": "user"}), "messages[0].content is missing"),
        (prompt({"role": "tool", "tool_call_id": "c9", "content": "4"}), "answers no call"),
        (prompt(USER, tool=[TOOL]), "unknown key tool (did you mean 'tools'?)"),
        (prompt(USER, tools={}), "tools is an object, not an array"),
        (prompt(USER, parallel_tool_calls=1), "parallel_tool_calls is not true or false"),
    ],
)
def test_what_it_does_not_allow_is_named(bad: Any, fault: str) -> None:
    faults = prompt_faults(bad)
    assert len([found for found in faults if fault in found]) == 1, faults


@pytest.mark.parametrize(
    "line",
    [
        prompt(USER, ANSWER),
        prompt(USER, ANSWER, USER),  # has an answer to learn from, and nothing to judge another by
        prompt(USER, ANSWER, answer="42"),
        prompt("not an object"),
    ],
)
def test_a_line_that_could_be_a_chat_is_none(line: dict[str, Any]) -> None:
    assert shape_of(line) is CHATS


def test_a_file_is_recognized_by_its_first_line(tmp_path: Path) -> None:
    report = check_file(write(tmp_path / "p.jsonl", [asking(1), asking(2), prompt(USER)]))
    assert (report.shape, report.examples, report.messages, report.answers) == (PROMPTS, 3, 3, 0)
    report.raise_faults()


def test_a_chat_among_prompts_is_named_by_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "both.jsonl", [asking(1), asking(2), prompt(USER, ANSWER)])
    (fault,) = check_file(path).faults
    assert str(fault).startswith("line 3: is a chat, but line 1 is a prompt;")
    with pytest.raises(DataError, match="line 3"):
        import_examples(path, tmp_path / "out")


def test_a_prompt_among_chats_is_a_chat_without_an_answer(tmp_path: Path) -> None:
    path = write(tmp_path / "both.jsonl", [prompt(USER, ANSWER), prompt(USER)])
    (fault,) = check_file(path).faults
    assert str(fault) == "line 2: messages has no assistant message to learn from"


def test_what_is_imported_is_read_back_by_split(tmp_path: Path) -> None:
    lines = [asking(number, tests=[f"f({number})"], tools=[TOOL]) for number in range(200)]
    summary = import_examples(write(tmp_path / "p.jsonl", [*lines, lines[4]]), tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    assert (summary["kind"], dataset.kind, summary["prompts"]) == ("prompts", "prompts", 200)
    assert (summary["exact_duplicates_dropped"], summary["answers"]) == (1, 0)
    read = {name: list(dataset.prompts(name)) for name in SPLITS}
    assert {name: len(found) for name, found in read.items()} == summary["counts"]
    assert all(read.values())
    everything = [found.as_line() for name in SPLITS for found in read[name]]
    assert sorted(json.dumps(one, sort_keys=True) for one in everything) == sorted(
        json.dumps(one, sort_keys=True) for one in lines
    )
    first = read["train"][0]
    assert first.tools == [TOOL]
    assert set(first.item) == {"answer", "tests"}


def test_prompts_with_one_question_are_in_one_split(tmp_path: Path) -> None:
    lines = [asking(number, turn=turn) for number in range(60) for turn in range(3)]
    import_examples(write(tmp_path / "p.jsonl", lines), tmp_path / "out")
    asked = [{p.said() for p in Dataset.open(tmp_path / "out").prompts(name)} for name in SPLITS]
    assert sum(map(len, asked)) == len(set().union(*asked)) == 60


def test_prompts_are_not_read_as_chats_nor_the_other_way(tmp_path: Path) -> None:
    import_examples(write(tmp_path / "p.jsonl", [asking(1)]), tmp_path / "prompts")
    import_examples(write(tmp_path / "c.jsonl", [prompt(USER, ANSWER)]), tmp_path / "chats")
    with pytest.raises(InvalidInput, match="p holds prompts; chats are needed"):
        Dataset.open(tmp_path / "prompts").split("train")
    with pytest.raises(InvalidInput, match="c holds chats; prompts are needed"):
        Dataset.open(tmp_path / "chats").prompts("train")


def test_parts_become_plain_and_the_item_stays_as_it_is() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    found = prompt_of(
        {"messages": [{"role": "user", "content": parts}], "tools": [], "answer": None, "n": [1]},
        kind="sum",
    )
    assert found.messages == [{"role": "user", "content": "one two"}]
    assert (found.item, found.tools, found.kind) == ({"answer": None, "n": [1]}, None, "sum")
