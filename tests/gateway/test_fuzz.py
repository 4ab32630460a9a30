"""Whatever bytes are sent, the answer is a 200 or an error that says what is wrong: never a 500."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.gateway.chat_request import ChatBody
from bessemer.gateway.completion_request import CompletionBody
from tests.fakes import FakeResponder
from tests.gateway.calling import MESSAGES, app_of, call

PATHS = ("/v1/chat/completions", "/v1/completions")
BODIES = {
    PATHS[0]: {"model": "tiny", "messages": MESSAGES},
    PATHS[1]: {"model": "tiny", "prompt": "Hi"},
}
FIELDS = {
    PATHS[0]: ChatBody.__struct_fields__,
    PATHS[1]: CompletionBody.__struct_fields__,
}

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-5, 200)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        ["", "user", "auto", "none", "text", "function", "tool", "json_schema", "x" * 2000]
    )
    | st.text(alphabet=st.characters(exclude_categories=()), max_size=8)
)
KEYS = """role content type text name include_usage tool_calls tool_call_id id function arguments
 parameters json_schema schema json regex choice grammar json_object mode tools allowed_tools"""
keys = st.sampled_from(KEYS.split()) | st.text(max_size=3)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=8,
)


def check(path: str, raw: bytes) -> None:
    responder = FakeResponder(["a"])
    answer = call(app_of(responder), path, raw)
    if answer.status == 200:
        assert responder.requests
        assert responder.opened == responder.closed
    else:
        assert answer.status in (400, 404), answer
        assert answer.error["message"]
        assert responder.requests == []


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_value_in_any_field(path: str, data: st.DataObject) -> None:
    names = st.sampled_from(FIELDS[path]) | st.text(max_size=5)
    body = {**BODIES[path], **data.draw(st.dictionaries(names, values, max_size=3))}
    check(path, json.dumps(body).encode())


@settings(max_examples=150, deadline=None)
@given(messages=st.lists(st.dictionaries(keys, values, max_size=4) | values, max_size=4))
def test_any_messages(messages: list[object]) -> None:
    check(PATHS[0], json.dumps({"model": "tiny", "messages": messages}).encode())


@settings(max_examples=150, deadline=None)
@given(prompt=values | st.lists(st.integers(-3, 9), max_size=5))
def test_any_prompt(prompt: object) -> None:
    check(PATHS[1], json.dumps({"model": "tiny", "prompt": prompt}).encode())


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_bytes(path: str, data: st.DataObject) -> None:
    raw = json.dumps(BODIES[path]).encode()
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, len(raw)))
    check(path, raw[:start] + data.draw(st.binary(max_size=6)) + raw[end:])
