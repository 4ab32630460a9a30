"""How models write calls of tools, and the grammar that holds them to it.

Three ways are known. Which one is a model's, its chat template shows:

    hermes  <tool_call>\\n{"name": "get", "arguments": {...}}\\n</tool_call>, one block a call
    list    <tool_call>[{"name": "get", "arguments": {...}}, ...]</tool_call>, as SmolLM2
    llama   {"name": "get", "parameters": {...}}, the whole answer, as Llama 3

Free text ends where calls begin; from there on nothing but calls of the given tools, with arguments
that are valid, can be written. Grammars are in llguidance's Lark.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from bessemer.core.errors import InvalidInput
from bessemer.core.protocols import Constraint
from bessemer.text.chat_template import ChatTemplate, Message
from bessemer.text.tokenizer import Tokenizer

ToolFormat = Literal["hermes", "list", "llama"]

OPENING, CLOSING, PYTHON_TAG = "<tool_call>", "</tool_call>", "<|python_tag|>"

# As templates write JSON, `{"city": "Paris", "days": 2}`, or without its spaces.
_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}


def format_of(template: ChatTemplate) -> ToolFormat:
    """The way of the model that this template is from.

    A template without tools gets our own prompt for them (`tool_prompt`), which asks for a list.
    """
    source = template.source
    if not template.knows_tools or f"{OPENING}[" in source:
        return "list"
    llama = OPENING not in source and (PYTHON_TAG in source or '"parameters": ' in source)
    return "llama" if llama else "hermes"


def marks_of(tokenizer: Tokenizer) -> frozenset[int]:
    """The control tokens that open and close calls, where a vocabulary has such tokens."""
    found = (tokenizer.control_id(text) for text in (OPENING, CLOSING))
    return frozenset(id_ for id_ in found if id_ is not None)


def call_constraint(
    way: ToolFormat,
    tokenizer: Tokenizer,
    tools: Sequence[Message],
    *,
    required: bool,
    parallel: bool,
    content: Constraint | None = None,
) -> Constraint:
    """What an answer is that calls `tools`, or may.

    Args:
        required: nothing but calls; otherwise text, which may be nothing, and then perhaps calls.
        parallel: more than one call.
        content: what the answer is when it does not call: a JSON Schema, or any object. Not for
            the way of Llama 3, whose calls could not be told from it.

    Raises:
        InvalidInput: a tool's parameters are not those of an object; `content` is something else.
    """
    rules = {
        "hermes": _hermes_rules,
        "list": _list_rules,
        "llama": _llama_rules,
    }[way](tokenizer, required, parallel, content is not None)
    key = "parameters" if way == "llama" else "arguments"
    calls = [_call(number, tool["function"], key) for number, tool in enumerate(tools)]
    rules += ['NL: "\\n"', "TEXT: /(.|\\n)*/", f"call: {_any(len(calls))}", *calls]
    if content is not None:
        rules.append(f"content: %json {_content_schema(content)}")
    return Constraint("lark", "\n".join(rules) + "\n", "tools")


def _hermes_rules(
    tokenizer: Tokenizer, required: bool, parallel: bool, has_content: bool
) -> list[str]:
    opening, closing = _mark(tokenizer, OPENING), _mark(tokenizer, CLOSING)
    more = f"(NL? {opening} block)*" if parallel else ""
    return [
        *_start(opening, f"block {more}", required, has_content),
        f"block: NL? call NL? {closing}",
    ]


def _list_rules(
    tokenizer: Tokenizer, required: bool, parallel: bool, has_content: bool
) -> list[str]:
    opening, closing = _mark(tokenizer, OPENING), _mark(tokenizer, CLOSING)
    more = '("," (" " | NL)? call)*' if parallel else ""
    # An empty list is how such models say that they call nothing.
    maybe = "" if required else "?"
    return [
        *_start(opening, "listed", required, has_content),
        f'listed: "[" NL? (call {more} NL?){maybe} "]" {closing}',
    ]


def _llama_rules(
    tokenizer: Tokenizer, required: bool, parallel: bool, has_content: bool
) -> list[str]:
    if has_content and not required:
        raise InvalidInput(
            "this model writes calls as a JSON object, so an answer that may call cannot also be"
            " held to a JSON Schema",
            next_step='leave out the schema, or set tool_choice to "none" or "required"',
            param="response_format",
        )
    tag = tokenizer.control_id(PYTHON_TAG)
    more = '("; " call)*' if parallel else ""
    calls = f"{'' if tag is None else f'<[{tag}]>?'} call {more}"
    if required:
        return [f"start: {calls}"]
    return [f"start: free? | {calls}", "free: FREE", "FREE: /[^{](.|\\n)*/"]


def _start(opening: str, calls: str, required: bool, has_content: bool) -> list[str]:
    if required:
        return [f"start: {opening} {calls}"]
    if has_content:
        return [f"start: content | {opening} {calls}"]
    # A literal is found wherever the text first has it; a control token is no text to begin with.
    lazy = "" if opening.startswith("<") else "[lazy]"
    return [f"start: free | head {calls}", "free: TEXT", f"head{lazy}: TEXT {opening}"]


def _mark(tokenizer: Tokenizer, text: str) -> str:
    id_ = tokenizer.control_id(text)
    return json.dumps(text) if id_ is None else f"<[{id_}]>"


def _any(count: int) -> str:
    return " | ".join(f"call_{number}" for number in range(count))


def _call(number: int, function: Mapping[str, Any], key: str) -> str:
    # Written by the schema alone, "$ref" in it would point to the wrong root.
    head = f'{{"name": {json.dumps(function["name"])}, "{key}": '
    return (
        f'call_{number}: {json.dumps(head)} arguments_{number} "}}"\n'
        f"arguments_{number}: %json {json.dumps(_arguments_schema(function))}"
    )


def _arguments_schema(function: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments are an object; a function that declares no parameters takes none."""
    declared = function.get("parameters")
    schema = {"properties": {}, "additionalProperties": False} if declared is None else declared
    kind = schema.get("type", "object") if isinstance(schema, Mapping) else None
    if kind != "object":
        raise InvalidInput(
            f"the parameters of {function['name']} are not a JSON Schema of type object",
            param="tools",
        )
    return {**schema, "type": "object", "x-guidance": _JSON_STYLE}


def _content_schema(content: Constraint) -> str:
    with contextlib.suppress(ValueError, RecursionError):  # no JSON, endless nesting
        if content.kind == "json_object":
            return json.dumps({"type": "object"})
        schema = json.loads(content.text) if content.kind == "json_schema" else None
        if isinstance(schema, dict):
            style = {"whitespace_pattern": " |\\n {0,32}"}
            return json.dumps({**schema, "x-guidance": style})
    raise InvalidInput(
        "with tools that may be called, an answer can be held to a JSON Schema only",
        next_step='leave it out, or set tool_choice to "none" or "required"',
        param=content.param,
    )
