"""Calls in a model's text are found, however the text is divided."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.text.tool_calls import CallParser
from bessemer.text.tool_formats import ToolFormat

GET = '{"name": "get", "arguments": {"city": "a}b\\"]{ü", "n": [1, {"x": {}}]}}'
ARGUMENTS = '{"city": "a}b\\"]{ü", "n": [1, {"x": {}}]}'
PUT = '{"name": "put", "arguments": {}}'

Found = tuple[str, list[tuple[str, str]]]
CASES: list[tuple[ToolFormat, str, Found]] = [
    ("hermes", "Just <words> and <tool_cal", ("Just <words> and <tool_cal", [])),
    ("hermes", "ends\n\n", ("ends\n\n", [])),
    ("hermes", "", ("", [])),
    ("hermes", f"<tool_call>\n{GET}\n</tool_call>", ("", [("get", ARGUMENTS)])),
    (
        "hermes",
        f"Well.\n<tool_call>\n{GET}\n</tool_call>\n<tool_call>{PUT}</tool_call>",
        ("Well.", [("get", ARGUMENTS), ("put", "{}")]),
    ),
    ("hermes", 'a<tool_call>\n{"name": "get", "arg', ("a", [])),
    (
        "hermes",
        'a<tool_call>{"name": "get", "arguments": {"city": "Pa',
        ("a", [("get", '{"city": "Pa')]),
    ),
    ("list", f"<tool_call>[{GET}, {PUT}]</tool_call>", ("", [("get", ARGUMENTS), ("put", "{}")])),
    ("list", "<tool_call>[\n]</tool_call>", ("", [])),
    (
        "llama",
        GET.replace("arguments", "parameters") + "; " + PUT.replace("arguments", "parameters"),
        ("", [("get", ARGUMENTS), ("put", "{}")]),
    ),
    ("llama", "No <tool_call> here {", ("No <tool_call> here {", [])),
]


def parsed(way: ToolFormat, pieces: list[str]) -> Found:
    parser = CallParser(way)
    content, calls = "", list[list[str]]()
    ids = set[str]()
    for piece in pieces:
        text, found = parser.push(piece)
        assert not (text and calls), "words come before calls"
        content += text
        for call in found:
            if call.id is not None:
                assert call.index == len(calls) and call.id.startswith("call_")
                assert call.arguments == "" and call.name is not None
                ids.add(call.id)
                calls.append([call.name, ""])
            else:
                assert (call.index, call.name) == (len(calls) - 1, None)
                calls[-1][1] += call.arguments
    content += parser.flush()
    assert len(ids) == len(calls) == parser.calls
    return content, [(name, arguments) for name, arguments in calls]


@pytest.mark.parametrize(("way", "text", "found"), CASES)
def test_a_text_at_once_and_by_characters(way: ToolFormat, text: str, found: Found) -> None:
    assert parsed(way, [text]) == found
    assert parsed(way, list(text)) == found


@given(st.sampled_from(CASES), st.data())
def test_any_division(case: tuple[ToolFormat, str, Found], data: st.DataObject) -> None:
    way, text, found = case
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    bounds = [0, *cuts, len(text)]
    assert parsed(way, [text[a:b] for a, b in itertools.pairwise(bounds)]) == found
