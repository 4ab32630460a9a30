"""Bodies for the fuzz tests: valid ones of every kind, damaged in values or in bytes."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

from tests.gateway.calling import MESSAGES

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 5},
        "days": {"type": "array", "items": {"enum": [1, 2, None]}, "maxItems": 2},
        "next": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]},
    },
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
}
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "See.", "parameters": SCHEMA, "strict": True},
}
LEGACY_TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": "{}"}},
    {"role": "function", "name": "look", "content": "sunny"},
]
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "!"}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
]
SAMPLING: dict[str, Any] = {
    "temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 3, "n": 2,
    "presence_penalty": 1.0, "frequency_penalty": -1.0, "repetition_penalty": 1.1,
    "logit_bias": {"5": -100, "7": 3.5}, "stream": True, "stream_options": {"include_usage": True},
    "user": "u", "stop": ["a", "b"],
}  # fmt: skip

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RESPONSES, COUNTS = "/v1/responses", "/v1/responses/input_tokens"
KNOWN_RESPONSE, KNOWN_CONVERSATION = "resp_known", "conv_known"
CONVERSATIONS = "/v1/conversations"
CONVERSATION_ITEMS = f"{CONVERSATIONS}/{KNOWN_CONVERSATION}/items"
MINIMAL: dict[str, dict[str, Any]] = {
    CHAT: {"model": "tiny", "messages": MESSAGES, "max_tokens": 2},
    COMPLETIONS: {"model": "tiny", "prompt": "Hi", "max_tokens": 2},
    EMBEDDINGS: {"model": "tiny", "input": "Hi"},
    RESPONSES: {"model": "tiny", "input": "Hi"},
    COUNTS: {"model": "tiny", "input": "Hi"},
    CONVERSATIONS: {"metadata": {"a": "b"}},
    CONVERSATION_ITEMS: {"items": [{"type": "message", "role": "user", "content": "Hi"}]},
}


def _shape(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}}


Valid = dict[str, list[dict[str, Any]]]
VALID: Valid = {
    CHAT: [
        MINIMAL[CHAT],
        {**MINIMAL[CHAT], **SAMPLING},
        {**MINIMAL[CHAT], "messages": TURNS, "tools": [TOOL], "tool_choice": "required"},
        {**MINIMAL[CHAT], "tools": [TOOL], "parallel_tool_calls": False, "stream": True},
        {
            **MINIMAL[CHAT],
            "tools": [TOOL],
            "tool_choice": {"type": "function", "function": {"name": "look"}},
        },
        {
            **MINIMAL[CHAT],
            "messages": LEGACY_TURNS,
            "functions": [TOOL["function"]],
            "function_call": {"name": "look"},
        },
        {**MINIMAL[CHAT], "response_format": _shape(SCHEMA)},
        {**MINIMAL[CHAT], "response_format": {"type": "json_object"}, "stream": True},
        {**MINIMAL[CHAT], "structured_outputs": {"regex": "[a-c]{1,3}x?"}},
        {**MINIMAL[CHAT], "structured_outputs": {"grammar": 'start: "a" | "b" start'}},
        {**MINIMAL[CHAT], "structured_outputs": {"choice": ["yes", "no"]}, "logprobs": True},
        {**MINIMAL[CHAT], "logprobs": True, "top_logprobs": 3, "metadata": {"a": "b"}},
    ],
    COMPLETIONS: [
        MINIMAL[COMPLETIONS],
        {**MINIMAL[COMPLETIONS], **SAMPLING},
        {**MINIMAL[COMPLETIONS], "prompt": [5, 6, 7], "logprobs": 2},
        {**MINIMAL[COMPLETIONS], "prompt": ["a", "b"], "suffix": "c"},
        {**MINIMAL[COMPLETIONS], "prompt": [[5], [6, 7]], "structured_outputs": {"json": SCHEMA}},
    ],
    EMBEDDINGS: [
        MINIMAL[EMBEDDINGS],
        {**MINIMAL[EMBEDDINGS], "input": ["a", "b"], "encoding_format": "base64", "dimensions": 2},
        {**MINIMAL[EMBEDDINGS], "input": [5, 6, 7], "pooling": "last"},
        {**MINIMAL[EMBEDDINGS], "input": [[5], [6, 7]], "user": "u"},
    ],
}

FUNCTION = {"type": "function", "name": "look", "parameters": SCHEMA, "strict": True}
SPOKEN: list[dict[str, Any]] = [
    {"type": "message", "role": "developer", "content": "Be brief."},
    {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Yes"}]},
    {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
]
_PROMPTS: list[dict[str, Any]] = [
    {"model": "tiny", "input": "Hi"},
    {"model": "tiny", "input": SPOKEN, "instructions": "Be kind.", "tools": [FUNCTION]},
    {"model": "tiny", "input": "Hi", "tools": [FUNCTION], "tool_choice": "required"},
    {"model": "tiny", "input": "Hi", "previous_response_id": KNOWN_RESPONSE},
    {"model": "tiny", "input": "Hi", "conversation": {"id": KNOWN_CONVERSATION}},
    {
        "model": "tiny",
        "input": "Hi",
        "text": {"format": {"type": "json_schema", "name": "s", "schema": SCHEMA}},
    },
]
RESPONSES_VALID: Valid = {
    RESPONSES: [
        *_PROMPTS,
        {
            **_PROMPTS[0], "temperature": 0.5, "top_p": 0.9, "max_output_tokens": 16,
            "include": ["message.output_text.logprobs"], "top_logprobs": 2, "store": False,
            "metadata": {"a": "b"}, "user": "u", "truncation": "auto", "stream": True,
        },
        {
            **_PROMPTS[1], "parallel_tool_calls": False, "stream": True,
            "tool_choice": {"type": "function", "name": "look"},
        },
    ],
    COUNTS: _PROMPTS,
    CONVERSATIONS: [{}, {"metadata": {"a": "b"}, "items": SPOKEN}],
    CONVERSATION_ITEMS: [{"items": SPOKEN[:3]}, {"items": SPOKEN[3:]}],
}  # fmt: skip

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-5, 200)
    | st.integers()
    | st.sampled_from([2**31, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**400, 1e308, -0.0, 1e-320])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        ["", "user", "auto", "none", "text", "function", "tool", "json_schema", "x" * 2000, "\x00"]
    )
    | st.text(alphabet=st.characters(exclude_categories=()), max_size=8)
)
KEYS = """role content type text name include_usage tool_calls tool_call_id id function arguments
 parameters json_schema schema json regex choice grammar json_object mode tools allowed_tools $ref
 call_id output input_text output_text message function_call function_call_output item_reference
 properties items anyOf allOf enum const pattern format minimum maxLength additionalProperties 5 -1
 99999999"""
keys = st.sampled_from(KEYS.split()) | st.text(max_size=3)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=8,
)

# What stands in the JSON text in the place of a value; some of it is no JSON.
RAW = (
    b"1e999", b"-1e999", b"9" * 5000, b"0." + b"0" * 5000 + b"1", b"-0", b"NaN", b"Infinity",
    b"[" * 200_000, b"[" * 900 + b"]" * 900, b'{"a":' * 900 + b"1" + b"}" * 900,
    b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"', b'"\xff\xfe"', b'"\xed\xa0\x80"', b"\xff",
    b"", b"'a'", b'{"a": 1, "a": 2}', b"[1,]", b"tru", b'"' + b"x" * 300_000 + b'"',
    b'{"type":"object","properties":{"a":{"$ref":"#"}}}', b'{"$ref":"http://example.com/s.json"}',
    b'{"enum":[]}', b'{"pattern":"(a+)+$("}', b'{"anyOf":[false]}',
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, path: str, valid: Valid = VALID) -> bytes:
    """A valid body of which up to three places hold something else."""
    body = copy.deepcopy(draw(st.sampled_from(valid[path])))
    for _ in range(draw(st.integers(1, 3))):
        if not body:
            break
        holder, place = draw(st.sampled_from(list(_places(body))))
        change = draw(st.sampled_from(["replace", "delete", "add", "wrap"]))
        if change == "delete":
            del holder[place]
        elif change == "wrap":
            holder[place] = draw(st.sampled_from([[holder[place]], {"a": holder[place]}]))
        elif change == "add" and isinstance(holder, dict):
            holder[draw(keys)] = draw(values)
        else:
            holder[place] = draw(values)
    return json.dumps(body).encode()


@st.composite
def misspelled(draw: st.DrawFn, path: str, valid: Valid = VALID) -> bytes:
    """A valid body with raw bytes where one of its values was."""
    body = copy.deepcopy(draw(st.sampled_from([body for body in valid[path] if body])))
    holder, place = draw(st.sampled_from(list(_places(body))))
    holder[place] = "@here@"
    return json.dumps(body).encode().replace(b'"@here@"', draw(st.sampled_from(RAW)))


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key or index) there is, outer ones first."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = [(value, key) for key, _ in items]
    inner = [value[key] for _, key in found if isinstance(value[key], dict | list)]
    return found + [place for part in inner for place in _places(part)]
