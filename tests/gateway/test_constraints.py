"""`response_format` and `structured_outputs` become one constraint, or a 400 with the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bessemer.core.errors import InvalidInput
from bessemer.core.protocols import Constraint
from tests.fakes import FakeResponder
from tests.gateway.calling import app_of, call, chat, complete

SCHEMA = {"type": "object", "properties": {"b": {}, "a": {}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
TEXT = json.dumps(SCHEMA)


def asked(fields: dict[str, object]) -> Constraint | None:
    responder = FakeResponder()
    assert chat(app_of(responder), **fields).status == 200
    return responder.requests[0].constraint


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, Constraint("json_object", "", "response_format")),
    ],
)
def test_formats_without_a_schema(sent: object, meant: Constraint | None) -> None:
    assert asked({"response_format": sent}) == meant


def test_a_schema_arrives_as_it_was_sent_with_its_order() -> None:
    found = asked({"response_format": FORMAT})
    assert found is not None
    assert (found.kind, found.param) == ("json_schema", "response_format")
    assert list(json.loads(found.text)["properties"]) == ["b", "a"]


@pytest.mark.parametrize(
    ("sent", "kind", "text"),
    [
        ({"regex": "a+"}, "regex", "a+"),
        ({"regex": ""}, "regex", ""),
        ({"choice": ["ja", "nein"]}, "choice", '["ja","nein"]'),
        ({"grammar": 'start: "a"'}, "lark", 'start: "a"'),
        ({"json": {"type": "null"}, "regex": None}, "json_schema", '{"type": "null"}'),
        ({"json": TEXT}, "json_schema", TEXT),
        ({"json_object": True}, "json_object", ""),
    ],
)
def test_structured_outputs_of_chats_and_completions(sent: object, kind: Any, text: str) -> None:
    meant = Constraint(kind, text, "structured_outputs")
    assert asked({"structured_outputs": sent}) == meant
    responder = FakeResponder()
    assert complete(app_of(responder), structured_outputs=sent, n=2).status == 200
    assert [request.constraint for request in responder.requests] == [meant, meant]


@pytest.mark.parametrize("sent", [None, {}, {"json": None}, {"json_object": False}])
def test_structured_outputs_that_ask_for_nothing(sent: object) -> None:
    assert asked({"structured_outputs": sent}) is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
            "response_format.json_schema.name",
        ),
        ({"response_format": FORMAT | {"type": "text"}}, "response_format.json_schema"),
        ({"response_format": FORMAT | {"more": 1}}, "response_format.more"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"guided_regex": "a"}}, "structured_outputs.guided_regex"),
        ({"structured_outputs": {"grammar": "x" * 40_000}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"choice": ["x" * 300_000]}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a"}, "response_format": FORMAT}, "structured_outputs"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, object], param: str) -> None:
    responder = FakeResponder()
    answer = chat(app_of(responder), **fields)
    assert answer.status == 400
    assert answer.error["param"] == param
    assert responder.requests == []


def test_bytes_that_are_no_text_in_a_schema_are_a_400() -> None:
    body = b'{"model": "tiny", "prompt": "x", "structured_outputs": {"json": {"a": "\xff"}}}'
    assert call(app_of(FakeResponder()), "/v1/completions", body).status == 400


@pytest.mark.parametrize("stream", [False, True])
def test_the_engine_s_fault_names_the_field(stream: bool) -> None:
    fault = InvalidInput("the JSON Schema cannot be held to: x", param="response_format")
    answer = chat(app_of(FakeResponder(error=fault)), response_format=FORMAT, stream=stream)
    assert answer.status == 400
    assert answer.error["param"] == "response_format"
