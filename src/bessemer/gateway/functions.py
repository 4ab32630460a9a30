"""`functions` and `function_call`: how chats spelled tools before there were tools.

They become tools and calls, and the answer's call is told in the old form again. There is at most
one, which needs no id, so here a call goes by its function's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from bessemer.core.errors import InvalidInput
from bessemer.core.protocols import Message, ToolChoice
from bessemer.gateway.tools import Choice, Named, checked_tools, choice_of

FunctionChoice = Literal["none", "auto"] | Named


def tools_of(functions: Sequence[dict[str, Any]]) -> list[Message]:
    """Raises InvalidInput as `checked_tools`, naming `functions`."""
    tools = [{"type": "function", "function": function} for function in functions]
    return checked_tools(tools, "functions")


def tool_choice_of(sent: FunctionChoice | None, tools: Sequence[Message]) -> ToolChoice:
    """Raises InvalidInput for a function that is not there."""
    asked = Choice("function", function=sent) if isinstance(sent, Named) else sent
    try:
        return choice_of(asked, tools)
    except InvalidInput as fault:
        said = fault.message.replace("'tool_choice'", "'function_call'")
        said = said.replace("'tools'", "'functions'")
        raise InvalidInput(said, param="function_call") from None


def call_id(name: str) -> str:
    return f"call_{name}"
