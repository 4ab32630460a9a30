"""What answers one request of a batch as the HTTP API would; the gateway has it.

The shapes of requests and answers are the gateway's, and `app` does not know them.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from bessemer.app.metering import Meter
from bessemer.core.principal import Principal
from bessemer.core.protocols import Usage


class Posted(NamedTuple):
    """A request as it might have come over HTTP.

    `endpoint` is `/v1/chat/completions` and so on; nobody has looked at the JSON of `body` yet.
    `client` says in whose line it waits, `meter` who counts and charges it.
    """

    principal: Principal
    endpoint: str
    body: bytes
    request_id: str
    client: str
    meter: Meter | None = None


class Answered(NamedTuple):
    """An HTTP status and a body of JSON, of an error too.

    After `retry_after_s` seconds the same request may be answered better; None: this is the answer.
    """

    status: int
    body: bytes
    usage: Usage | None = None
    retry_after_s: float | None = None


class Answerer(Protocol):
    async def answer(self, posted: Posted) -> Answered:
        """Answer, or say what is wrong: nothing but cancellation is raised."""
        ...
