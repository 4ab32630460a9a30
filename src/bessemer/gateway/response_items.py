"""Items as clients send them, to responses and to conversations: read, checked, made canonical.

What comes out has everything an item has when it is read back: an id, a status, its content in
parts. An item of a hosted tool is refused by name: this server has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bessemer.app.items import REFERENCE, Item
from bessemer.app.response_output import output_text
from bessemer.core.errors import InvalidInput
from bessemer.core.ids import new_id
from bessemer.gateway.decoding import convert
from bessemer.gateway.failures import UnsupportedParameter
from bessemer.gateway.parameters import refuse_unless_neutral

Id = Annotated[str, Meta(min_length=1, max_length=64)]
Status = Literal["in_progress", "completed", "incomplete"]

_HOSTED = "these models read text and call functions"


class TextPart(msgspec.Struct, forbid_unknown_fields=True):
    """`annotations` and `logprobs` come back with our own answers, `parsed` is what OpenAI's client
    made of them; no prompt shows them.
    """

    type: Literal["input_text", "output_text"]
    text: str
    annotations: Any = None
    logprobs: Any = None
    parsed: Any = None
    prompt_cache_breakpoint: Any = None


class RefusalPart(msgspec.Struct, forbid_unknown_fields=True):
    """What an assistant said instead of an answer."""

    type: Literal["refusal"]
    refusal: str


class MessageItem(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[dict[str, Any]]
    type: Literal["message"] = "message"
    id: Id | None = None
    status: Status | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class CallItem(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["function_call"]
    call_id: Id
    name: Annotated[str, Meta(min_length=1, max_length=128)]
    arguments: str
    id: Id | None = None
    status: Status | None = None
    caller: Any = None
    namespace: Any = None
    # `model_dump()` and `parse` of OpenAI's client add them; no API has them.
    async_: None = None
    parsed_arguments: Any = None


class ResultItem(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["function_call_output"]
    call_id: Id
    output: str | list[dict[str, Any]]
    id: Id | None = None
    status: Status | None = None
    name: str | None = None
    caller: Any = None
    namespace: Any = None


class ReferenceItem(msgspec.Struct, forbid_unknown_fields=True):
    id: Id
    type: Literal["item_reference"] | None = None


_ONLY_DIRECT: Mapping[str, Sequence[Any]] = {"caller": ({"type": "direct"},), "namespace": ()}


def parse_items(sent: str | Sequence[dict[str, Any]] | None, place: str = "input") -> list[Item]:
    """Canonical items of what was sent; a string is a message of the user.

    Raises:
        InvalidInput, UnsupportedParameter: naming the field.
    """
    if isinstance(sent, str):
        sent = [{"role": "user", "content": sent}]
    return [_item(item, f"{place}[{index}]") for index, item in enumerate(sent or ())]


def _item(sent: dict[str, Any], place: str) -> Item:
    kind = sent.get("type")
    if kind is None and "role" in sent:
        kind = "message"
    if kind is None and sent.keys() <= {"id", "type"} and "id" in sent:
        kind = REFERENCE
    if kind is None:
        raise InvalidInput(f"Missing required parameter: '{place}.type'.", param=f"{place}.type")
    if kind == "message":
        return _message(convert({**sent, "type": kind}, MessageItem, place), place)
    if kind == "function_call":
        return _call(convert(sent, CallItem, place), place)
    if kind == "function_call_output":
        return _result(convert(sent, ResultItem, place), place)
    if kind == REFERENCE:
        return {"type": REFERENCE, "id": convert(sent, ReferenceItem, place).id}
    raise UnsupportedParameter(
        f"{place}.type", f"as {str(kind)[:50]!r} is not supported: {_HOSTED}"
    )


def _message(sent: MessageItem, place: str) -> Item:
    text = sent.content
    if isinstance(text, str):
        texts = [text]
    else:
        texts = _texts(text, f"{place}.content", may_refuse=sent.role == "assistant")
    if sent.role == "assistant":
        content = [output_text(text) for text in texts]
    else:
        content = [{"type": "input_text", "text": text} for text in texts]
    item: Item = {
        "id": sent.id or new_id("msg"),
        "type": "message",
        "status": sent.status or "completed",
        "role": sent.role,
        "content": content,
    }
    return item if sent.phase is None else item | {"phase": sent.phase}


def _call(sent: CallItem, place: str) -> Item:
    _check_direct(sent, place)
    return {
        "id": sent.id or new_id("fc"),
        "type": "function_call",
        "status": sent.status or "completed",
        "call_id": sent.call_id,
        "name": sent.name,
        "arguments": sent.arguments,
    }


def _result(sent: ResultItem, place: str) -> Item:
    _check_direct(sent, place)
    output: str | list[Item]
    if isinstance(sent.output, str):
        output = sent.output
    else:
        texts = _texts(sent.output, f"{place}.output")
        output = [{"type": "input_text", "text": text} for text in texts]
    return {
        "id": sent.id or new_id("fco"),
        "type": "function_call_output",
        "status": sent.status or "completed",
        "call_id": sent.call_id,
        "output": output,
    }


def _check_direct(sent: CallItem | ResultItem, place: str) -> None:
    try:
        refuse_unless_neutral(sent, _ONLY_DIRECT)
    except UnsupportedParameter as fault:
        raise UnsupportedParameter(f"{place}.{fault.param}") from None


def _texts(parts: Sequence[dict[str, Any]], place: str, *, may_refuse: bool = False) -> list[str]:
    return [_text(part, f"{place}[{index}]", may_refuse) for index, part in enumerate(parts)]


def _text(part: dict[str, Any], place: str, may_refuse: bool) -> str:
    kind = part.get("type")
    if kind == "refusal" and may_refuse:
        return convert(part, RefusalPart, place).refusal
    if kind is None:
        raise InvalidInput(f"Missing required parameter: '{place}.type'.", param=f"{place}.type")
    if kind not in ("input_text", "output_text"):
        raise UnsupportedParameter(
            f"{place}.type", f"as {str(kind)[:50]!r} is not supported: {_HOSTED}"
        )
    return convert(part, TextPart, place).text
