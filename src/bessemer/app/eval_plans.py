"""What a run of an eval does: the source of its items, a model to sample, messages for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from bessemer.app.eval_sources import Line, Source
from bessemer.core.errors import DataError
from bessemer.core.protocols import Constraint, Message
from bessemer.text.criteria import EvalMessage as EvalMessage  # a face takes it from here
from bessemer.text.criteria import filled
from bessemer.text.placeholders import place_of

SEED = 42  # OpenAI's default


class SampleWith(msgspec.Struct, frozen=True, kw_only=True):
    """How answers are drawn, with OpenAI's defaults; `max_tokens` None is what fits."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = SEED
    max_tokens: int | None = None
    constraint: Constraint | None = None
    tools: Sequence[Message] = ()


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Without a `model` the samples are in the source. With one, either `messages` or `reference`
    (a path to messages within the item) say what it is asked.
    """

    source: Source
    model: str | None = None
    messages: Sequence[EvalMessage] | None = None
    reference: str | None = None
    sampling: SampleWith = SampleWith()

    def prompt(self, line: Line) -> list[Message]:
        """What the model is asked about an item.

        Raises:
            DataError: the item lacks what the messages need.
        """
        if self.messages is not None:
            return filled(self.messages, {"item": line.item})
        assert self.reference is not None
        found = place_of(self.reference).find({"item": line.item})
        return _messages(found, self.reference)


class _Function(msgspec.Struct):
    name: str
    arguments: str


class _Call(msgspec.Struct):
    id: str
    function: _Function
    type: Literal["function"] = "function"


class _Sent(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    name: str | None = None


def _messages(found: Any, reference: str) -> list[Message]:
    """Messages that stand in an item, as they are."""
    try:
        sent = msgspec.convert(found, list[_Sent])
    except msgspec.ValidationError as fault:
        raise DataError(f"{reference} is no list of messages: {fault}") from None
    if not sent:
        raise DataError(f"{reference} is an empty list of messages")
    return [_message(one, reference) for one in sent]


def _message(one: _Sent, reference: str) -> Message:
    if one.content is None and not one.tool_calls:
        raise DataError(f"{reference} has a message of the role {one.role!r} without content")
    role = {"developer": "system"}.get(one.role, one.role)
    message: Message = {"role": role, "content": _content(one.content or "", reference)}
    if one.name is not None:
        message["name"] = one.name
    if one.tool_calls:
        message["tool_calls"] = msgspec.to_builtins(one.tool_calls)
    if one.tool_call_id is not None:
        message["tool_call_id"] = one.tool_call_id
    return message


def _content(content: str | list[dict[str, Any]], reference: str) -> str:
    if isinstance(content, str):
        return content
    texts = [part.get("text") for part in content]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"{reference} has a part that is no text: these models read text")
    return "".join(str(text) for text in texts)
