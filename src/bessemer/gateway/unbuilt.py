"""What OpenAI's specification has and this server has not: 501 in a plain sentence, or 404 with the
replacement where OpenAI itself has retired it. So coverage can be counted from outside.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from bessemer.core.errors import Missing
from bessemer.gateway.failures import MethodNotAllowed, UnknownUrl
from bessemer.gateway.routes import Call, Route, Routes

# And what replaces it, if anything does.
_RETIRED = {
    "assistants": "POST /v1/responses, with POST /v1/conversations for what is remembered",
    "threads": "POST /v1/conversations, and POST /v1/responses to go on with one",
    "videos": None,
    "chatkit": "POST /v1/responses, with POST /v1/conversations for what is remembered",
}


class NotBuilt(Missing):
    """An operation of the specification that this server does not have."""

    code = "not_implemented"


class Retired(UnknownUrl):
    """A resource that OpenAI itself has turned off, with all that was below it."""

    code = "retired"


def refuse(
    method: str, path: str, fault: UnknownUrl | MethodNotAllowed
) -> UnknownUrl | NotBuilt | MethodNotAllowed:
    """The error for a path that no route answers: `fault`, unless the specification knows more."""
    resource = path.removeprefix("/v1/").partition("/")[0]
    if resource in _RETIRED:
        return _retired(f"{method} {path[:200]}", _RETIRED[resource])
    try:
        _specified().find(method, path)
    except (UnknownUrl, MethodNotAllowed):
        return fault
    return NotBuilt(
        f"{method} {path[:200]} is in OpenAI's specification, and this server does not have it."
        " Nothing was done.",
        next_step="docs/reference/api.md lists what there is",
    )


def _retired(operation: str, replacement: str | None) -> Retired:
    said = f"{operation} is retired in OpenAI's API"
    if replacement is None:
        return Retired(f"{said}, and nothing replaces it.")
    return Retired(f"{said}.", next_step=f"use {replacement}")


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
