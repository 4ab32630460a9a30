"""Every fault of a file is found and named with its line; what is meant to be good passes."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.core.errors import DataError
from bessemer.data.chat_rules import faults_of
from bessemer.data.chats import Chat, chat_of
from bessemer.data.checking import MOST_FAULTS, check_file, checked_lines
from bessemer.data.jsonl import LONGEST_LINE
from bessemer.data.shapes import CHATS

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello!"}
GOOD = json.dumps({"messages": [USER, ANSWER]})
CALL = {"id": "c1", "type": "function", "function": {"name": "get", "arguments": "{}"}}
# As OpenAI's client dumps an answer.
SAVED = ANSWER | dict.fromkeys(("refusal", "audio", "function_call")) | {
    "annotations": [], "tool_calls": [],
}  # fmt: skip
TOOL = {"type": "function", "function": {"name": "get", "parameters": {"type": "object"}}}


def write(tmp_path: Path, *lines: str | bytes) -> Path:
    path = tmp_path / "chats.jsonl"
    path.write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines) + b"\n")
    return path


def read_chats(path: Path) -> list[Chat]:
    return list(map(chat_of, checked_lines(path, CHATS)))


def example(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), **more}


def test_a_good_file_is_counted(tmp_path: Path) -> None:
    silent = json.dumps(example(USER, {**ANSWER, "weight": 0}, USER, ANSWER))
    report = check_file(write(tmp_path, GOOD, silent))
    assert (report.examples, report.messages, report.answers) == (2, 6, 2)
    assert report.faults == []
    report.raise_faults()


@pytest.mark.parametrize(
    "good",
    [
        example(USER, ANSWER),
        example({"role": "developer", "content": "Be kind."}, {**USER, "name": "Eve"}, ANSWER),
        example(USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1}),
        example({**ANSWER, "weight": 0}, USER, ANSWER),
        example({"role": "user", "content": [{"type": "text", "text": "Hi"}]}, ANSWER),
        example(USER, {"role": "assistant", "refusal": "I cannot."}),
        example(
            USER,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "4"},
            ANSWER,
            tools=[TOOL],
            parallel_tool_calls=False,
        ),
    ],
)
def test_what_the_format_allows_passes(good: dict[str, Any]) -> None:
    assert faults_of(good) == []


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        ([USER, ANSWER], "is an array, not an object"),
        ("hello", "is a string, not an object"),
        ({}, "has no messages"),
        ({"message": [USER, ANSWER]}, "unknown key message (did you mean 'messages'?)"),
        ({"messages": {}}, "messages is an object, not an array"),
        ({"messages": []}, "messages is empty"),
        (example("Hi", ANSWER), "messages[0] is a string, not an object"),
        (example({"content": "Hi"}, ANSWER), "messages[0].role is missing"),
        (example({**USER, "role": "human"}, ANSWER), "messages[0].role is 'human'"),
        (example({**USER, "role": ["user"]}, ANSWER), "messages[0].role is ['user']"),
        (example({"role": "user"}, ANSWER), "messages[0].content is missing"),
        (example({**USER, "content": None}, ANSWER), "messages[0].content is null"),
        (example({**USER, "content": 5}, ANSWER), "messages[0].content is a number"),
        (example({**USER, "content": []}, ANSWER), "messages[0].content is an empty array"),
        (
            example({**USER, "content": [{"type": "image_url", "image_url": {}}]}, ANSWER),
            "messages[0].content[0] is of type 'image_url'; only text can be trained on",
        ),
        (
            example({**USER, "content": [{"type": "text"}]}, ANSWER),
            "messages[0].content[0].text is missing",
        ),
        (example({**USER, "content": ["Hi"]}, ANSWER), "messages[0].content[0] is a string"),
        (example({**USER, "name": 1}, ANSWER), "messages[0].name is a number"),
        (example({**USER, "wieght": 0}, ANSWER), "unknown key messages[0].wieght"),
        (example({**USER, "weight": 0}, ANSWER), "unknown key messages[0].weight"),
        (example(USER), "no assistant message"),
        (example(ANSWER), "messages[0] is an answer to nothing"),
        (example(USER, {**ANSWER, "weight": 0}), "every assistant message has weight 0"),
        (example(USER, {**ANSWER, "weight": 0.5}), "messages[1].weight is 0.5"),
        (example(USER, {**ANSWER, "weight": True}), "messages[1].weight is True"),
        (example(USER, {**ANSWER, "weight": None}), "messages[1].weight is None"),
        (example(USER, {"role": "assistant", "content": ""}), "messages[1] says nothing"),
        (example(USER, {"role": "assistant", "content": None}), "messages[1] says nothing"),
        (example(USER, {**ANSWER, "tool_calls": {}}), "tool_calls is not an array of calls"),
        (example(USER, {**ANSWER, "annotations": [1]}), "unknown key messages[1].annotations"),
        (example(USER, {**ANSWER, "function_call": {}}), "unknown key messages[1].function_call"),
        (example({**USER, "tool_calls": []}, ANSWER), "unknown key messages[0].tool_calls"),
        (example(USER, {**ANSWER, "wieght": None}), "unknown key messages[1].wieght"),
        (example(USER, {**ANSWER, "tool_calls": [{}]}), "tool_calls[0].function is missing"),
        (
            example(USER, {**ANSWER, "tool_calls": [{**CALL, "type": "fn", "id": 1}]}),
            "tool_calls[0].type is 'fn'",
        ),
        (
            example(USER, {**ANSWER, "tool_calls": [{**CALL, "function": {"name": "get"}}]}),
            "tool_calls[0].function.arguments is null, not a string",
        ),
        (
            example(USER, {"role": "tool", "tool_call_id": "c9", "content": "4"}, ANSWER),
            "messages[1].tool_call_id 'c9' answers no call",
        ),
        (example(USER, {"role": "tool", "content": "4"}, ANSWER), "tool_call_id is missing"),
        (example(USER, ANSWER, tools={}), "tools is an object, not an array"),
        (example(USER, ANSWER, tools=[{"name": "get"}]), "tools[0] is not of the form"),
        (example(USER, ANSWER, parallel_tool_calls="no"), "parallel_tool_calls is not true"),
    ],
)
def test_each_fault_is_named_where_it_is(bad: Any, fault: str) -> None:
    assert any(fault in found for found in faults_of(bad)), faults_of(bad)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["messages", "role", "content", "weight", "tool_calls", "function", "type", "text",
             "tools", "id", "name", "tool_call_id", "refusal"]
        )
        | st.text(max_size=3),
        inner | st.sampled_from(["user", "assistant", "tool", "text", "function"]),
        max_size=5,
    ),
    max_leaves=25,
)  # fmt: skip


@given(json_values)
def test_no_value_whatever_breaks_the_check(value: Any) -> None:
    assert all(isinstance(fault, str) for fault in faults_of(value))
    assert all(isinstance(fault, str) for fault in faults_of({"messages": value}))
    assert all(isinstance(fault, str) for fault in faults_of({"messages": [USER, value, ANSWER]}))


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b'{"messages": ', "not JSON: Expecting value at column 13"),
        (GOOD.encode() + b" " + GOOD.encode(), "not JSON: Extra data"),
        (b'{"messages": "\xff"}', "byte 15 is not UTF-8 (0xFF)"),
        (b'{"messages": [], "messages": []}', "the key 'messages' is given twice"),
        (b'{"messages": [{"role": "user", "role": "user"}]}', "the key 'role' is given twice"),
        (b'{"messages": NaN}', "NaN is not JSON"),
        (b'{"messages": -Infinity}', "-Infinity is not JSON"),
        (b'{"messages": 1e999}', "the number 1e999 is too large"),
        (b'{"messages": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
        (rb'{"messages": "\ud83d"}', "without its pair"),
        (b"[" * 100_000, "nested too deeply"),
        (b"x" * (LONGEST_LINE + 5), "longer than 16,777,216 bytes"),
        (b'{"messages": "a\tb"}', "not JSON: Invalid control character"),
    ],
    ids=lambda value: value if isinstance(value, str) else "line",
)
def test_bad_lines_are_named_and_the_rest_is_still_checked(
    tmp_path: Path, line: bytes, fault: str
) -> None:
    path = write(tmp_path, GOOD, line, GOOD, b"{}")
    report = check_file(path)
    assert report.examples == 2
    assert [found.line for found in report.faults] == [2, 4]
    assert fault in report.faults[0].message
    with pytest.raises(DataError, match=r"line 2: ") as caught:
        read_chats(path)
    assert caught.value.line == 2


def test_what_changes_no_meaning_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode() + b"\r\n\r\n  \r\n" + GOOD.encode())
    assert len(read_chats(path)) == 2
    path.write_bytes(path.read_bytes() + b"\r\n{}")
    assert [fault.line for fault in check_file(path).faults] == [5]


def test_line_separators_within_a_text_end_no_line(tmp_path: Path) -> None:
    text = "a\u2028b\u0085c\x0bd"
    line = json.dumps(example(USER, {**ANSWER, "content": text}), ensure_ascii=False)
    assert read_chats(write(tmp_path, line.replace("\x0b", "\\u000b")))[0].messages[1] == {
        "role": "assistant", "content": text,
    }  # fmt: skip


def test_utf_16_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(GOOD, encoding="utf-16")
    with pytest.raises(DataError, match="is UTF-16"):
        check_file(path)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"  \r\n"])
def test_a_file_without_chats_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_bytes(content)
    for read in (check_file, read_chats):
        with pytest.raises(DataError, match=r"empty\.jsonl holds no chats"):
            read(path)


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot read"):
        check_file(tmp_path / name)


def test_many_faults_are_capped_and_the_rest_counted(tmp_path: Path) -> None:
    report = check_file(write(tmp_path, GOOD, *["{}"] * 50))
    assert len(report.faults) == MOST_FAULTS
    assert report.more_faults == 50 - MOST_FAULTS
    with pytest.raises(DataError, match="has 50 faults") as caught:
        report.raise_faults()
    assert "line 2: has no messages" in str(caught.value)
    assert "and 30 more" in str(caught.value)
    assert caught.value.facts["faults"][0] == {"line": 2, "message": "has no messages"}


def test_chats_are_read_one_at_a_time(tmp_path: Path) -> None:
    chats = checked_lines(write(tmp_path, GOOD, "{}"), CHATS)
    assert next(chats)["messages"] == [USER, ANSWER]
    with pytest.raises(DataError, match="line 2"):
        next(chats)


def test_parts_are_joined_and_nulls_left_out(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    refusal = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    call = {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None}
    lines = [
        example({"role": "user", "content": parts}, refusal),
        example(USER, call, tools=[TOOL]),
        example(USER, {"role": "assistant", "refusal": "No.", "weight": 1}),
        example({**USER, "name": None}, SAVED, parallel_tool_calls=None),
    ]
    chats = read_chats(write(tmp_path, *map(json.dumps, lines)))
    assert chats[0].messages == [
        {"role": "user", "content": "one two"},
        {"role": "assistant", "content": "No."},
    ]
    assert chats[1].messages[1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert chats[1].as_line()["tools"] == [TOOL]
    assert chats[2].messages[1] == {"role": "assistant", "content": "No.", "weight": 1}
    assert chats[3].messages == [USER, ANSWER]
