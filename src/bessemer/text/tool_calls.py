"""A model's text to content and calls of tools, while it is being written.

The text is what the grammar of `tool_formats` lets through, so there is nothing to repair; a text
that was cut ends in the middle of a call. Arguments stay the text that the model wrote.
"""

from __future__ import annotations

import json
import re
from typing import Literal, NamedTuple

from bessemer.core.ids import new_id
from bessemer.core.protocols import ToolCallDelta
from bessemer.text.tool_formats import OPENING, ToolFormat

_HEAD = re.compile(r'\{"name": ("(?:[^"\\]|\\.)*"), "(?:arguments|parameters)": ')


class Parsed(NamedTuple):
    """What new text brought: words for the reader, and pieces of calls."""

    content: str
    calls: list[ToolCallDelta]


class CallParser:
    """One answer. The first piece of a call has its id and name, later ones its arguments.

    >>> parser = CallParser("hermes")
    >>> parser.push('Well.\\n<tool_call>{"name": "get", "arguments": {"a"').content
    'Well.'
    >>> [call.arguments for call in parser.push(": 1}}</tool_call>").calls]
    [': 1}']
    """

    def __init__(self, way: ToolFormat) -> None:
        self._way = way
        self._held = ""
        self._state: Literal["start", "text", "between", "arguments"] = "start"
        self._calls = 0
        self._depth, self._quoted, self._escaped = 0, False, False

    @property
    def calls(self) -> int:
        """How many calls have begun."""
        return self._calls

    def push(self, text: str) -> Parsed:
        """Add new text; get what it brings."""
        self._held += text
        content = "".join(self._content())
        calls: list[ToolCallDelta] = []
        while (found := self._next_call_piece()) is not None:
            calls.append(found)
        return Parsed(content, calls)

    def flush(self) -> str:
        """The answer is over: the words that were held back."""
        held, self._held = self._held, ""
        return held if self._state in ("start", "text") else ""

    def _content(self) -> list[str]:
        if self._way == "llama":
            return self._llama_content()
        if self._state not in ("start", "text"):
            return []
        self._state = "text"
        text, place = self._held, self._held.find(OPENING)
        if place >= 0:
            self._state, self._held = "between", text[place + len(OPENING) :]
            return [text[:place].rstrip("\n")]
        # Line feeds before a call belong to it; the tail may become the opening.
        keep = len(text) - _overlap(text)
        keep = len(text[:keep].rstrip("\n"))
        self._held = text[keep:]
        return [text[:keep]]

    def _llama_content(self) -> list[str]:
        if self._state == "start" and self._held:
            self._state = "between" if self._held[0] == "{" else "text"
        if self._state != "text":
            return []
        text, self._held = self._held, ""
        return [text]

    def _next_call_piece(self) -> ToolCallDelta | None:
        if self._state == "between":
            start = self._held.find("{")
            found = _HEAD.match(self._held, start) if start >= 0 else None
            if found is None:
                return None
            self._held = self._held[found.end() :]
            self._state = "arguments"
            self._depth, self._quoted, self._escaped = 0, False, False
            self._calls += 1
            return ToolCallDelta(self._calls - 1, new_id("call"), json.loads(found[1]))
        if self._state != "arguments" or not self._held:
            return None
        end = self._end_of_arguments()
        piece, self._held = self._held[:end], self._held[end:]
        if self._depth == 0:
            self._state = "between"
            # The brace that closes the call itself, and all up to the next one, is nobody's.
        return ToolCallDelta(self._calls - 1, arguments=piece)

    def _end_of_arguments(self) -> int:
        """Where the object ends, or the text so far."""
        for place, char in enumerate(self._held):
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped, self._quoted = char == "\\", char != '"'
            elif char == '"':
                self._quoted = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return place + 1
        return len(self._held)


def _overlap(text: str) -> int:
    """Length of the longest tail of `text` that the opening starts with."""
    for length in range(min(len(text), len(OPENING) - 1), 0, -1):
        if OPENING.startswith(text[-length:]):
            return length
    return 0
