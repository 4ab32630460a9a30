"""What a line of OpenAI's chat fine-tuning format may hold, rule by rule.

`faults_of` names every fault of one example in words for the person who wrote the file. It does
not read files, and does not know any model's template. The rules of single messages and tools
serve the other formats as well; `where` is how each fault calls its place. An answer may be one
that OpenAI's client has saved: its nulls and empty lists say nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

EXAMPLE_KEYS = ("messages", "tools", "parallel_tool_calls")
ROLES = ("system", "developer", "user", "assistant", "tool")
COMMON_KEYS = ("role", "content", "name")
# What a saved answer has beside these, empty; with something in it, it cannot be learned.
EMPTY_KEYS = ("annotations", "audio", "function_call")
ROLE_KEYS = {"assistant": ("weight", "tool_calls", "refusal"), "tool": ("tool_call_id",)}


def faults_of(example: Any) -> list[str]:
    """Every fault of one parsed line; empty for a good one.

    >>> faults_of({"messages": [{"role": "user", "content": "Hi"}]})
    ['messages has no assistant message to learn from']
    """
    if not isinstance(example, dict):
        hint = "; write one object a line, not one array" if isinstance(example, list) else ""
        return [f"is {kind_of(example)}, not an object with messages{hint}"]
    faults = list(unknown_keys(example, EXAMPLE_KEYS, ""))
    messages = example.get("messages")
    if "messages" not in example:
        faults.append("has no messages")
    elif not isinstance(messages, list):
        faults.append(f"messages is {kind_of(messages)}, not an array")
    elif not messages:
        faults.append("messages is empty")
    else:
        faults += _messages(messages)
    faults += tools_faults(example.get("tools"))
    if not isinstance(example.get("parallel_tool_calls"), bool | None):
        faults.append("parallel_tool_calls is not true or false")
    return faults


def _messages(messages: list[Any]) -> Iterator[str]:
    for index, message in enumerate(messages):
        yield from message_faults(message, f"messages[{index}]")
    objects = [message for message in messages if isinstance(message, dict)]
    answers = [message for message in objects if message.get("role") == "assistant"]
    if not answers:
        yield "messages has no assistant message to learn from"
    elif all(message.get("weight") == 0 for message in answers):
        yield "every assistant message has weight 0, so there is nothing to learn"
    elif objects[0].get("role") == "assistant" and objects[0].get("weight") != 0:
        yield "messages[0] is an answer to nothing; begin with a user message, or give it weight 0"
    yield from tool_order_faults(messages)


def without_empty(message: dict[str, Any]) -> dict[str, Any]:
    """The message without what a client has written into it that says nothing."""
    is_answer = message.get("role") == "assistant"
    nulls = ("name", *(EMPTY_KEYS if is_answer else ()))
    lists = ("tool_calls", "annotations") if is_answer else ()
    return {
        key: value
        for key, value in message.items()
        if not (value is None and key in nulls) and not (value == [] and key in lists)
    }


def message_faults(message: Any, where: str) -> Iterator[str]:
    """The faults of one message of any role."""
    if not isinstance(message, dict):
        yield f"{where} is {kind_of(message)}, not an object"
        return
    role = message.get("role")
    if role not in ROLES:
        said = "is missing" if "role" not in message else f"is {role!r}"
        yield f"{where}.role {said}; it must be one of {', '.join(ROLES)}"
        return
    message = without_empty(message)
    yield from unknown_keys(message, COMMON_KEYS + ROLE_KEYS.get(role, ()), f"{where}.")
    if not isinstance(message.get("name", ""), str):
        yield f"{where}.name is {kind_of(message['name'])}, not a string"
    if role == "assistant":
        yield from _answer(message, where)
    elif "content" not in message:
        yield f"{where}.content is missing"
    else:
        yield from _content(message["content"], ("text",), f"{where}.content")
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        yield f"{where}.tool_call_id is missing or no string"


def _answer(message: dict[str, Any], where: str) -> Iterator[str]:
    weight = message.get("weight", 1)
    if isinstance(weight, bool) or weight not in (0, 1):
        yield f"{where}.weight is {weight!r}; it must be 0 or 1"
    calls, refusal = message.get("tool_calls"), message.get("refusal")
    if refusal is not None and not isinstance(refusal, str):
        yield f"{where}.refusal is {kind_of(refusal)}, not a string"
    if calls is not None:
        yield from _calls(calls, f"{where}.tool_calls")
    content = message.get("content")
    if content is not None:
        yield from _content(content, ("text", "refusal"), f"{where}.content")
    if not content and not calls and not refusal:
        yield f"{where} says nothing: it has neither content nor tool_calls"


def _content(content: Any, kinds: tuple[str, ...], where: str) -> Iterator[str]:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        yield f"{where} is {kind_of(content)}, not a string or an array of parts"
    elif not content:
        yield f"{where} is an empty array"
    else:
        for index, part in enumerate(content):
            yield from _part(part, kinds, f"{where}[{index}]")


def _part(part: Any, kinds: tuple[str, ...], where: str) -> Iterator[str]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in kinds:
        said = kind_of(part) if not isinstance(part, dict) else f"of type {kind!r}"
        yield f"{where} is {said}; only {' and '.join(kinds)} can be trained on"
    elif not isinstance(part.get(kind), str):
        yield f"{where}.{kind} is missing or no string"


def _calls(calls: Any, where: str) -> Iterator[str]:
    if not isinstance(calls, list) or not calls:
        yield f"{where} is not an array of calls"
        return
    for index, call in enumerate(calls):
        place = f"{where}[{index}]"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            yield f"{place}.function is missing"
            continue
        if not isinstance(call.get("id"), str):
            yield f"{place}.id is missing or no string"
        if call.get("type") != "function":
            yield f"{place}.type is {call.get('type')!r}; it must be 'function'"
        for key in ("name", "arguments"):
            if not isinstance(function.get(key), str):
                yield f"{place}.function.{key} is {kind_of(function.get(key))}, not a string"


def tool_order_faults(messages: list[Any], where: str = "messages") -> Iterator[str]:
    """Every tool message must answer a call made before it."""
    known: set[Any] = set()
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            continue
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict) and isinstance(call.get("id"), str):
                known.add(call["id"])
        asked = message.get("tool_call_id")
        if message.get("role") == "tool" and isinstance(asked, str) and asked not in known:
            yield f"{where}[{index}].tool_call_id {asked!r} answers no call made before it"


def tools_faults(tools: Any, where: str = "tools") -> Iterator[str]:
    """The faults of the declared tools; None declares none."""
    if tools is None:
        return
    if not isinstance(tools, list):
        yield f"{where} is {kind_of(tools)}, not an array"
        return
    for index, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or tool.get("type") != "function":
            yield f"{where}[{index}] is not of the form {{'type': 'function', 'function': {{...}}}}"
        elif not isinstance(function.get("name"), str):
            yield f"{where}[{index}].function.name is missing or no string"


def unknown_keys(found: dict[str, Any], known: tuple[str, ...], where: str) -> Iterator[str]:
    """A fault for each key that is not known, with the nearest known one."""
    for key in found:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            yield f"unknown key {where}{key} ({hint})"


def kind_of(value: Any) -> str:
    """What JSON calls a value of this kind."""
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number"}
    names |= {str: "a string", list: "an array", dict: "an object"}
    return names.get(type(value), type(value).__name__)
