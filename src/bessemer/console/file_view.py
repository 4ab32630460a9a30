"""A line of a file as the page of it reads it: messages where it is an example, else its JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from bessemer.app.file_survey import ExaminedLine

MOST_TEXT = 1_500  # characters of one message
MOST_MESSAGES = 40


class ShownText(NamedTuple):
    """The beginning of a text, and how many characters of it are not shown."""

    shown: str
    left_out: int = 0

    @classmethod
    def of(cls, text: str) -> ShownText:
        return cls(text[:MOST_TEXT], max(0, len(text) - MOST_TEXT))


class Turn(NamedTuple):
    """One message. `note` is what its role does not say: a weight of 0, a call's id."""

    role: str
    text: ShownText
    note: str = ""


class Part(NamedTuple):
    """Some messages of a line, under a title where a line has more than one such list."""

    title: str
    turns: list[Turn]
    left_out: int = 0


class LineView:
    """One line: `parts` of an example, or its JSON as `text`; or its `faults` and how it begins."""

    def __init__(self, line: ExaminedLine) -> None:
        self.number, self.faults = line.number, line.faults
        self.raw, self.left_out_bytes = line.raw, line.left_out_bytes
        self.parts = [] if line.faults else list(_parts(line.value))
        self.text = None if line.faults or self.parts else ShownText.of(_pretty(line.value))


def _parts(value: Any) -> Iterator[Part]:
    if not isinstance(value, dict):
        return
    asked = value.get("input")
    if isinstance(asked, dict) and isinstance(asked.get("messages"), list):
        yield _part("", asked["messages"])
        for key, title in (("preferred_output", "preferred"), ("non_preferred_output", "rejected")):
            if isinstance(value.get(key), list):
                yield _part(title, value[key])
    elif isinstance(value.get("messages"), list):
        yield _part("", value["messages"])
    else:
        return
    known = ("input", "messages", "preferred_output", "non_preferred_output")
    others = {key: inner for key, inner in value.items() if key not in known}
    if others:
        yield Part("beside the messages", [Turn("json", ShownText.of(_pretty(others)))])


def _part(title: str, messages: list[Any]) -> Part:
    turns = [turn for message in messages[:MOST_MESSAGES] for turn in _turns(message)]
    return Part(title, turns, len(messages[MOST_MESSAGES:]))


def _turns(message: Any) -> Iterator[Turn]:
    """A message, and each of the calls that it makes."""
    if not isinstance(message, dict):
        yield Turn("?", ShownText.of(_pretty(message)))
        return
    role = str(message.get("role", "?"))[:20]
    calls = message.get("tool_calls")
    text = _text(message.get("content") or message.get("refusal"))
    if text or not calls:
        yield Turn(role, ShownText.of(text), _note(message))
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            told = f"{function.get('name')}({function.get('arguments', '')})"
            yield Turn(role, ShownText.of(told), "calls a tool")


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(
            part["text"] if isinstance(part, dict) and "text" in part else _pretty(part)
            for part in content
        )
    return content if isinstance(content, str) else "" if content is None else _pretty(content)


def _note(message: dict[str, Any]) -> str:
    if message.get("weight") == 0:
        return "not learned"
    return f"answers {message['tool_call_id']}"[:60] if "tool_call_id" in message else ""


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)
