"""Chats to learn from or be scored on, as OpenAI's fine-tuning JSONL has them.

    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}

What such a line may hold is in `chat_rules`; files of them are read by `checking`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from bessemer.data.chat_rules import without_empty

Message = dict[str, Any]

_INSTRUCTIONS = frozenset({"system", "developer"})


class Counts(NamedTuple):
    """Messages of an example, and how many of them are answers to learn from."""

    messages: int
    answers: int


@dataclass(frozen=True)
class Chat:
    """One example.

    `messages` are OpenAI's, with every content a string. `kind` and `symbol` say what it asks
    and about what, where a dataset knows it; `tools` are those the answers may call.
    """

    messages: list[Message]
    kind: str | None = None
    symbol: str | None = None
    tools: list[Message] | None = None

    def as_line(self) -> dict[str, Any]:
        """The example as OpenAI's format has it, without what only Bessemer knows."""
        return {"messages": self.messages} | ({"tools": self.tools} if self.tools else {})

    def said(self) -> str:
        """The text that near-duplicates are found by."""
        return spoken(self.messages)

    def counts(self) -> Counts:
        return Counts(len(self.messages), sum(map(_is_answer, self.messages)))


def chat_of(example: dict[str, Any], kind: str | None = None, symbol: str | None = None) -> Chat:
    """A checked line as a Chat: text parts joined, refusals as what was said, nulls left out."""
    messages = [plain(message) for message in example["messages"]]
    return Chat(messages, kind, symbol, tools=example.get("tools") or None)


def plain(message: Message) -> Message:
    """A checked message with its content as one string."""
    said = without_empty(message)
    kept = {key: value for key, value in said.items() if value is not None}
    content = kept.get("content")
    if isinstance(content, list):
        kept["content"] = "".join(part[part["type"]] for part in content)
    refusal = kept.pop("refusal", None)
    kept["content"] = (kept.get("content") or "") + (refusal or "")
    return kept


def as_context(messages: Iterable[Message]) -> list[Message]:
    """The messages with nothing to learn from in them: answers given before are context."""
    return [m | {"weight": 0} if m["role"] == "assistant" else m for m in messages]


def spoken(messages: Iterable[Message]) -> str:
    """What tells messages apart; instructions that all chats share would make all alike."""
    said = [message for message in messages if message["role"] not in _INSTRUCTIONS]
    return "\n".join(message["content"] + _calls_of(message) for message in said)


def _calls_of(message: Message) -> str:
    return json.dumps(message["tool_calls"]) if "tool_calls" in message else ""


def _is_answer(message: Message) -> bool:
    return message["role"] == "assistant" and message.get("weight") != 0
