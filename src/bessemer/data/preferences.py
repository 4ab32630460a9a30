"""Pairs of answers of which one is preferred, as OpenAI's preference fine-tuning JSONL has them.

    {"input": {"messages": [{"role": "user", "content": "Hi"}]},
     "preferred_output": [{"role": "assistant", "content": "Hello!"}],
     "non_preferred_output": [{"role": "assistant", "content": "What?"}]}

(on one line). The same file trains by DPO, by IPO, or a reward model. Both answers follow the same
messages; answers among those are context.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bessemer.data.chat_rules import (
    kind_of,
    message_faults,
    tool_order_faults,
    tools_faults,
    unknown_keys,
)
from bessemer.data.chats import Counts, Message, plain, spoken

INPUT_KEYS = ("messages", "tools", "parallel_tool_calls")
OUTPUTS = ("preferred_output", "non_preferred_output")


@dataclass(frozen=True)
class Preference:
    """One pair.

    `messages` come before either answer; `preferred` and `rejected` are assistant messages. All
    contents are strings. `kind` and `symbol` are as in a Chat.
    """

    messages: list[Message]
    preferred: Message
    rejected: Message
    kind: str | None = None
    symbol: str | None = None
    tools: list[Message] | None = None

    def as_line(self) -> dict[str, Any]:
        """The pair as OpenAI's format has it."""
        asked = {"messages": self.messages} | ({"tools": self.tools} if self.tools else {})
        return dict(
            zip(("input", *OUTPUTS), (asked, [self.preferred], [self.rejected]), strict=True)
        )

    def said(self) -> str:
        """The question alone: all pairs of one question belong in one split."""
        return spoken(self.messages)

    def counts(self) -> Counts:
        return Counts(len(self.messages) + 2, 2)


def preference_of(
    example: dict[str, Any], kind: str | None = None, symbol: str | None = None
) -> Preference:
    """A checked line as a Preference."""
    asked = example["input"]
    preferred, rejected = (plain(example[output][0]) for output in OUTPUTS)
    messages = [plain(message) for message in asked["messages"]]
    return Preference(messages, preferred, rejected, kind, symbol, asked.get("tools") or None)


def preference_faults(example: Any) -> list[str]:
    """Every fault of one parsed line; empty for a good one.

    >>> good = [{"role": "assistant", "content": "Hello!"}]
    >>> preference_faults({"input": {"messages": []}, "preferred_output": good})
    ['input.messages is empty', 'has no non_preferred_output']
    """
    if not isinstance(example, dict):
        return [f"is {kind_of(example)}, not an object with input and {' and '.join(OUTPUTS)}"]
    faults = list(unknown_keys(example, ("input", *OUTPUTS), ""))
    faults += _input_faults(example)
    for output in OUTPUTS:
        faults += _output_faults(example, output)
    if not faults:
        faults += _pair_faults(example)
    return faults


def _input_faults(example: dict[str, Any]) -> Iterator[str]:
    asked = example.get("input")
    if not isinstance(asked, dict):
        yield f"input is {kind_of(asked)}, not an object" if "input" in example else "has no input"
        return
    yield from unknown_keys(asked, INPUT_KEYS, "input.")
    messages = asked.get("messages")
    if "messages" not in asked:
        yield "input has no messages"
    elif not isinstance(messages, list):
        yield f"input.messages is {kind_of(messages)}, not an array"
    elif not messages:
        yield "input.messages is empty"
    else:
        for index, message in enumerate(messages):
            yield from message_faults(message, f"input.messages[{index}]")
        yield from tool_order_faults(messages, "input.messages")
    yield from tools_faults(asked.get("tools"), "input.tools")
    if not isinstance(asked.get("parallel_tool_calls"), bool | None):
        yield "input.parallel_tool_calls is not true or false"


def _output_faults(example: dict[str, Any], output: str) -> Iterator[str]:
    answers = example.get(output)
    if output not in example:
        yield f"has no {output}"
    elif not isinstance(answers, list) or len(answers) != 1:
        said = f"an array of {len(answers)}" if isinstance(answers, list) else kind_of(answers)
        yield f"{output} is {said}; it must be an array of one assistant message"
    else:
        yield from message_faults(answers[0], f"{output}[0]")
        answer = answers[0] if isinstance(answers[0], dict) else {}
        if answer.get("role", "assistant") != "assistant":
            yield f"{output}[0].role is {answer['role']!r}; it must be 'assistant'"
        if answer.get("weight") == 0:
            yield f"{output}[0].weight is 0, so there is nothing to compare"


def _pair_faults(example: dict[str, Any]) -> Iterator[str]:
    preferred, rejected = (plain(example[output][0]) for output in OUTPUTS)
    if preferred == rejected:
        yield f"{' and '.join(OUTPUTS)} are the same answer"
