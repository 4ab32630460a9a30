"""Tools in requests: what is sent reaches the responder, and what is wrong is named."""

from __future__ import annotations

from typing import Any

import pytest

from bessemer.core.protocols import ChatRequest, ToolChoice
from tests.fakes import FakeResponder
from tests.gateway.calling import app_of, chat

TOOL = {
    "function": {"description": "d", "name": "get", "parameters": {"type": "object"}},
    "type": "function",
}
OTHER = {"type": "function", "function": {"name": "put", "strict": True}}
NAMED = {"type": "function", "function": {"name": "get"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "get", "arguments": "{}"}}
ASKED = {"role": "user", "content": "Hi"}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None}


def asked(**fields: object) -> ChatRequest:
    responder = FakeResponder()
    answer = chat(app_of(responder), **fields)
    assert answer.status == 200, answer
    return responder.requests[0]


def test_tools_arrive_as_they_were_sent() -> None:
    found = asked(tools=[TOOL, OTHER])
    assert found.tools == [TOOL, OTHER]
    assert list(found.tools[0]["function"]) == ["description", "name", "parameters"]
    assert (found.tool_choice, found.parallel_tool_calls) == (ToolChoice("auto"), True)


@pytest.mark.parametrize(
    ("sent", "meant", "parallel"),
    [
        (None, ToolChoice("auto"), True),
        ("none", ToolChoice("none"), True),
        ("auto", ToolChoice("auto"), True),
        ("required", ToolChoice("required"), True),
        (NAMED, ToolChoice("required", ["get"]), False),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}},
            ToolChoice("auto", ["get"]),
            True,
        ),
    ],
)
def test_choices(sent: object, meant: ToolChoice, parallel: bool) -> None:
    found = asked(tools=[TOOL, OTHER], tool_choice=sent)
    assert (found.tool_choice, found.parallel_tool_calls) == (meant, parallel)
    assert not asked(tools=[TOOL], parallel_tool_calls=False).parallel_tool_calls


def test_no_tools_are_none() -> None:
    assert asked(tools=[], tool_choice="none", parallel_tool_calls=True).tools == []


def test_calls_and_results_of_earlier_turns() -> None:
    result = {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "42"}]}
    index = {**CALL, "index": 0}
    found = asked(messages=[ASKED, {**CALLED, "tool_calls": [index]}, result])
    assert found.messages == [
        ASKED,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
    ]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [TOOL, {"type": "function", "function": {}}]}, "tools[1].function.name"),
        ({"tools": [{**NAMED, "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{**NAMED, "more": 1}]}, "tools[0].more"),
        ({"tools": [TOOL, TOOL]}, "tools[1].function.name"),
        ({"tools": [TOOL] * 129}, "tools"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [OTHER], "tool_choice": NAMED}, "tool_choice"),
        ({"tools": [OTHER], "tool_choice": {"type": "function"}}, "tool_choice.function"),
    ],
)
def test_what_is_wrong_with_tools_is_named(fields: dict[str, object], param: str) -> None:
    answer = chat(app_of(FakeResponder()), **fields)
    assert answer.status == 400
    assert answer.error["param"] == param


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "x"}, "messages[2].tool_call_id"),
        ({"role": "tool", "content": "x", "tool_call_id": "c2"}, "messages[2].tool_call_id"),
        ({"role": "tool", "tool_call_id": "c1"}, "messages[2].content"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "messages[2].tool_calls"),
        ({**CALLED, "tool_call_id": "c1"}, "messages[2].tool_call_id"),
        ({**CALLED, "tool_calls": [{}]}, "messages[2].tool_calls[0].id"),
        ({**CALLED, "tool_calls": [{**CALL, "type": "custom"}]}, "messages[2].tool_calls[0].type"),
    ],
)
def test_what_is_wrong_with_a_message_is_named(message: dict[str, Any], param: str) -> None:
    answer = chat(app_of(FakeResponder()), messages=[ASKED, CALLED, message])
    assert answer.status == 400
    assert answer.error["param"] == param
