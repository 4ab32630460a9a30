"""Tools in a chat request: what may be called, and the calls and results of earlier turns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bessemer.core.errors import InvalidInput
from bessemer.core.protocols import Message, ToolChoice
from bessemer.gateway.decoding import convert
from bessemer.gateway.failures import UnsupportedParameter

# As in OpenAI's API.
MAX_TOOLS = 128
MAX_CALLS = 128
# Ours: what walks through a schema does it by recursion.
MAX_DEPTH = 64

FunctionName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class Function(msgspec.Struct, forbid_unknown_fields=True):
    """`strict` changes nothing: arguments are always valid."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    function: Function | None = None
    custom: dict[str, Any] | None = None


class Named(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class NamedTool(msgspec.Struct, forbid_unknown_fields=True):
    function: Named
    type: Literal["function"] = "function"


class AllowedTools(msgspec.Struct, forbid_unknown_fields=True):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Meta(min_length=1, max_length=MAX_TOOLS)]


class Choice(msgspec.Struct, forbid_unknown_fields=True):
    """One function by name, or some of them."""

    type: Literal["function", "allowed_tools"]
    function: Named | None = None
    allowed_tools: AllowedTools | None = None


class Called(msgspec.Struct, forbid_unknown_fields=True):
    """`parsed_arguments` is how OpenAI's client has read `arguments`, when it is sent back."""

    name: str
    arguments: str
    parsed_arguments: Any = None


class Call(msgspec.Struct, forbid_unknown_fields=True):
    """A call of an earlier answer; `index` is what it had in a stream."""

    id: str
    function: Called
    type: Literal["function"] = "function"
    index: int | None = None

    def message(self) -> Message:
        function = {"name": self.function.name, "arguments": self.function.arguments}
        return {"id": self.id, "type": "function", "function": function}


ToolChoiceField = Literal["none", "auto", "required"] | Choice
ToolsField = Annotated[list[dict[str, Any]], Meta(max_length=MAX_TOOLS)]
CallsField = Annotated[list[Call], Meta(max_length=MAX_CALLS)]


def checked_tools(sent: Sequence[dict[str, Any]] | None, param: str = "tools") -> list[Message]:
    """The tools just as they were sent: prompts show them, and training does the same.

    Raises:
        InvalidInput: a tool is not a function with a JSON Schema, or two have one name.
    """
    names = set[str]()
    for place, tool in enumerate(convert(list(sent or ()), list[Tool], param)):
        where = f"{param}[{place}]"
        if tool.type != "function" or tool.custom is not None:
            why = f"as {tool.type[:50]!r} is not supported: only functions are"
            raise UnsupportedParameter(f"{where}.type", why)
        if tool.function is None:
            raise InvalidInput(
                f"Missing required parameter: '{where}.function'.", param=f"{where}.function"
            )
        if tool.function.name in names:
            raise InvalidInput(
                f"Two tools have the name '{tool.function.name}'.", param=f"{where}.function.name"
            )
        names.add(tool.function.name)
        check_depth(tool.function.parameters, f"{where}.function.parameters")
    return list(sent or ())


def check_depth(value: Any, param: str) -> None:
    """Raise InvalidInput for what is nested deeper than anything here walks."""
    if _is_deeper(value, MAX_DEPTH):
        raise InvalidInput(f"'{param}' is nested more than {MAX_DEPTH} levels deep.", param=param)


def choice_of(sent: ToolChoiceField | None, tools: Sequence[Message]) -> ToolChoice:
    """Raises InvalidInput for a choice without tools, or of one that is not there."""
    if sent is None or sent == "none":
        return ToolChoice("none" if sent else "auto")
    if not tools:
        raise InvalidInput(
            "'tool_choice' is only allowed when 'tools' are specified.", param="tool_choice"
        )
    if not isinstance(sent, Choice):
        return ToolChoice(sent)
    mode: Literal["auto", "required"] = "required"
    if sent.type == "function" and sent.function is not None:
        names = [sent.function.name]
    elif sent.type == "allowed_tools" and sent.allowed_tools is not None:
        mode = sent.allowed_tools.mode
        names = [tool.function.name for tool in sent.allowed_tools.tools]
    else:
        place = f"tool_choice.{sent.type}"
        raise InvalidInput(f"Missing required parameter: '{place}'.", param=place)
    known = {tool["function"]["name"] for tool in tools}
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise InvalidInput(
            f"'tool_choice' names the function {unknown[:100]!r}, which is not in 'tools'.",
            param="tool_choice",
        )
    return ToolChoice(mode, names)


def check_results(messages: Sequence[Message]) -> None:
    """Raise InvalidInput for a result that answers no call before it."""
    known = set[str]()
    for place, message in enumerate(messages):
        known.update(call["id"] for call in message.get("tool_calls", ()))
        if message["role"] == "tool" and message["tool_call_id"] not in known:
            param = f"messages[{place}].tool_call_id"
            raise InvalidInput(
                f"'{param}' is {message['tool_call_id'][:100]!r}, which no call before it has.",
                param=param,
            )


def _is_deeper(value: Any, levels: int) -> bool:
    layer = [value]
    for _ in range(levels + 1):
        inner = (part for part in layer if isinstance(part, dict | list))
        layer = [item for part in inner for item in _items(part)]
    return bool(layer)


def _items(part: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return part.values() if isinstance(part, dict) else part
