"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

What a `BessemerError` says may be read by anyone who asks; of any other exception the caller
learns only the request's id, and the log the rest.
"""

from __future__ import annotations

import math

import msgspec

from bessemer.core.errors import (
    BessemerError,
    BudgetExceeded,
    Busy,
    DatabaseUnavailable,
    EngineDied,
    EngineUnavailable,
    InvalidInput,
    ModelTooLarge,
    NotFound,
    RateLimited,
    Unauthenticated,
)
from bessemer.gateway.limit_headers import refusal_headers

Header = tuple[bytes, bytes]

# A worker is restarted, a model loaded, a database back within seconds.
RETRY_ENGINE_S = 5

# OpenAI's clients try again at 429 and 5xx unless they are told not to, in OpenAI's own way.
_DO_NOT_RETRY: Header = (b"x-should-retry", b"false")

_TYPES = {403: "permission_error", 429: "rate_limit_error"}


class UnsupportedParameter(InvalidInput):
    """It would change the answer, and this version does not know how."""

    code = "unsupported_parameter"

    def __init__(self, param: str, why: str = "is not supported yet") -> None:
        super().__init__(
            f"Unsupported parameter: '{param}' {why}. Nothing is ignored here: "
            "leave it out to get an answer without it.",
            param=param,
        )


class UnknownParameter(InvalidInput):
    """A field that no version of this API has."""

    code = "unknown_parameter"

    def __init__(self, param: str) -> None:
        super().__init__(f"Unrecognized request argument supplied: {param}", param=param)


class UnknownUrl(NotFound):
    code = "unknown_url"


class MethodNotAllowed(BessemerError):
    status, code = 405, "method_not_allowed"

    def __init__(self, method: str, path: str, allowed: str) -> None:
        super().__init__(f"{path} takes {allowed}, not {method}")
        self.allowed = allowed


class RequestTimeout(BessemerError):
    """A body that does not come; OpenAI's clients try again by themselves."""

    status, code = 408, "request_timeout"


class MismatchedProject(Unauthenticated):
    """OpenAI-Project names another project than the key's; nothing is done in either."""

    code = "mismatched_project"


class UnsupportedEncoding(BessemerError):
    """A body that is packed: it is not unpacked here, and no JSON as it is."""

    status, code = 415, "unsupported_encoding"


class ServerStopping(EngineUnavailable):
    code = "server_stopping"


class _Error(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class _ErrorBody(msgspec.Struct):
    error: _Error


def error_body(error: BessemerError) -> bytes:
    """The JSON of an error; its next step becomes a part of the message."""
    message = error.message
    if error.next_step:
        message = f"{message} (next: {error.next_step})"
    kind = _TYPES.get(
        error.status, "invalid_request_error" if error.status < 500 else "server_error"
    )
    return msgspec.json.encode(_ErrorBody(_Error(message, kind, error.param, error.code)))


def retry_after_s(error: BessemerError) -> float | None:
    """Seconds after which the same request may be answered; None where trying again is in vain."""
    if isinstance(error, RateLimited) and error.facts.get("never"):
        return None
    if isinstance(error, Busy):
        return error.retry_after_s
    if isinstance(error, ModelTooLarge) or (isinstance(error, EngineDied) and error.deaths > 1):
        return None
    away = isinstance(error, EngineUnavailable | DatabaseUnavailable)
    return RETRY_ENGINE_S if away else None


def error_headers(error: BessemerError) -> list[Header]:
    """`Retry-After` where trying again makes sense, and what else the status asks for."""
    after_s = retry_after_s(error)
    standing = refusal_headers(error) if isinstance(error, RateLimited) else ()
    if after_s is not None:
        return [(b"retry-after", b"%d" % max(1, math.ceil(after_s))), *standing]
    if isinstance(error, RateLimited | BudgetExceeded | EngineUnavailable):
        return [_DO_NOT_RETRY, *standing]
    if isinstance(error, RequestTimeout):
        # What may still come of the body is not waited for.
        return [(b"connection", b"close")]
    if isinstance(error, MethodNotAllowed):
        return [(b"allow", error.allowed.encode())]
    if error.status == 501:
        return [_DO_NOT_RETRY]
    if error.status == 401:
        return [(b"www-authenticate", b"Bearer")]
    return []


def internal_error(request_id: str) -> BessemerError:
    """What a caller may know of an exception that nobody expected."""
    return BessemerError(
        "The server had an error while it worked on this request; it is in the server's log "
        f"as {request_id}."
    )
