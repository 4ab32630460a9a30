"""What OpenAI's specification has and this server has not: 501 in a plain sentence, or 404 with the
replacement where OpenAI itself has retired it. So coverage can be counted from outside.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from bessemer.core.errors import Missing
from bessemer.gateway.failures import MethodNotAllowed, UnknownUrl
from bessemer.gateway.routes import Call, Route, Routes

_RETIRED = {
    "assistants": "POST /v1/responses, with POST /v1/conversations for what is remembered",
    "threads": "POST /v1/conversations, and POST /v1/responses to go on with one",
    "videos": "nothing: OpenAI has retired it without a replacement",
    "chatkit": "POST /v1/responses, with POST /v1/conversations for what is remembered",
}


class NotBuilt(Missing):
    """An operation of the specification that this server does not have."""

    code = "not_implemented"


class Retired(UnknownUrl):
    """An operation that OpenAI itself has turned off."""

    code = "retired"


def refuse(
    method: str, path: str, fault: UnknownUrl | MethodNotAllowed
) -> UnknownUrl | NotBuilt | MethodNotAllowed:
    """The error for a path that no route answers: `fault`, unless the specification knows more."""
    try:
        _specified().find(method, path)
    except (UnknownUrl, MethodNotAllowed):
        return fault
    replacement = _RETIRED.get(path.split("/")[2])
    if replacement is not None:
        return Retired(
            f"{method} {path[:200]} is retired in OpenAI's API.", next_step=f"use {replacement}"
        )
    return NotBuilt(
        f"{method} {path[:200]} is in OpenAI's specification, and this server does not have it."
        " Nothing was done.",
        next_step="docs/reference/api.md lists what there is",
    )


@cache
def _specified() -> Routes:
    """Operations of the specification, a path and its methods a line."""
    text = (Path(__file__).parent / "openai_operations.txt").read_text()
    return Routes(
        Route(method, "/v1" + path, _never)
        for path, *methods in map(str.split, text.splitlines())
        for method in methods
    )


async def _never(_call: Call) -> None:
    raise AssertionError("a route of the specification is only ever looked up")
