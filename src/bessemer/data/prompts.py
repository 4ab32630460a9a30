"""Prompts whose answers can be judged, as OpenAI's reinforcement fine-tuning JSONL has them.

    {"messages": [{"role": "user", "content": "What is 6 * 7?"}], "answer": "42"}

The messages end with what is to be answered. Every other field but `tools` belongs to whoever
judges: an answer to compare with, tests, a rubric. Bessemer keeps them as they are.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bessemer.data.chat_rules import kind_of, message_faults, tool_order_faults, tools_faults
from bessemer.data.chats import Counts, Message, plain, spoken

PROMPT_KEYS = ("messages", "tools", "parallel_tool_calls")


@dataclass(frozen=True)
class Prompt:
    """One line.

    `messages` are OpenAI's with every content a string, `item` the other fields. `kind` and
    `symbol` are as in a Chat; `tools` are those that an answer may call.
    """

    messages: list[Message]
    item: Mapping[str, Any] = field(default_factory=dict)
    tools: list[Message] | None = None
    kind: str | None = None
    symbol: str | None = None

    def as_line(self) -> dict[str, Any]:
        """The prompt as OpenAI's format has it."""
        asked = {"messages": self.messages} | ({"tools": self.tools} if self.tools else {})
        return asked | dict(self.item)

    def said(self) -> str:
        """The question; what it is judged by does not tell two of them apart."""
        return spoken(self.messages)

    def counts(self) -> Counts:
        return Counts(len(self.messages), 0)


def prompt_of(line: dict[str, Any], kind: str | None = None, symbol: str | None = None) -> Prompt:
    """A checked line as a Prompt."""
    messages = [plain(message) for message in line["messages"]]
    item = {key: value for key, value in line.items() if key not in PROMPT_KEYS}
    return Prompt(messages, item, line.get("tools") or None, kind, symbol)


def is_prompt(line: Mapping[str, Any]) -> bool:
    """Whether a line with messages is a prompt rather than a chat, or a chat with a fault.

    It ends with no answer, and either no answer in it can be learned from or it has fields that
    a chat has not.
    """
    messages = line.get("messages")
    objects = isinstance(messages, list) and all(isinstance(one, dict) for one in messages)
    if not objects or not messages or messages[-1].get("role") == "assistant":
        return False
    answers = [m for m in messages if m.get("role") == "assistant" and m.get("weight") != 0]
    return not answers or any(key not in PROMPT_KEYS for key in line)


def prompt_faults(line: Any) -> list[str]:
    """Every fault of one parsed line; empty for a good one.

    >>> prompt_faults({"messages": [{"role": "assistant", "content": "Hi"}], "answer": "42"})
    ['messages ends with an answer; a prompt ends with what is to be answered']
    """
    if not isinstance(line, dict):
        return [f"is {kind_of(line)}, not an object with messages"]
    faults = []
    for key in line:
        # Any field is allowed, so only one that is nearly a known one is a slip.
        near = difflib.get_close_matches(key, PROMPT_KEYS, n=1, cutoff=0.85)
        if near and key not in PROMPT_KEYS:
            faults.append(f"unknown key {key} (did you mean {near[0]!r}?)")
    messages = line.get("messages")
    if "messages" not in line:
        faults.append("has no messages")
    elif not isinstance(messages, list):
        faults.append(f"messages is {kind_of(messages)}, not an array")
    elif not messages:
        faults.append("messages is empty")
    else:
        for index, message in enumerate(messages):
            faults += message_faults(message, f"messages[{index}]")
        faults += tool_order_faults(messages)
        if isinstance(messages[-1], dict) and messages[-1].get("role") == "assistant":
            faults.append("messages ends with an answer; a prompt ends with what is to be answered")
    faults += tools_faults(line.get("tools"))
    if not isinstance(line.get("parallel_tool_calls"), bool | None):
        faults.append("parallel_tool_calls is not true or false")
    return faults
