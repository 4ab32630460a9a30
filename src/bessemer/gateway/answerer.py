"""Implements `app.answerer.Answerer`: a batch's requests are read, asked and answered by the code
that serves them over HTTP.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import msgspec

from bessemer.app import response_run
from bessemer.app.answerer import Answered, Posted
from bessemer.app.chat import Serving
from bessemer.app.embeddings import embed
from bessemer.app.latencies import Latencies
from bessemer.app.platform import Platform
from bessemer.core.errors import BessemerError, InvalidInput
from bessemer.core.protocols import Usage
from bessemer.gateway.answering import Keeper, answer_whole
from bessemer.gateway.chat_answer import ChatShape
from bessemer.gateway.chat_request import parse_chat
from bessemer.gateway.completion_answer import CompletionShape
from bessemer.gateway.completion_request import parse_completion
from bessemer.gateway.embeddings import embedding_answer, parse_embedding
from bessemer.gateway.failures import error_body, internal_error, retry_after_s
from bessemer.gateway.parameters import Ask
from bessemer.gateway.response_events import response_shape
from bessemer.gateway.response_request import parse_response
from bessemer.gateway.shapes import Shape

_log = logging.getLogger(__name__)


class GatewayAnswerer:
    """See `app.answerer.Answerer`. `keeper` stores the chat completions that ask for it."""

    def __init__(self, platform: Platform, serving: Serving, keeper: Keeper | None = None) -> None:
        self._platform, self._serving, self._keeper = platform, serving, keeper
        # Nobody waits for a batch's first token: its times are not those that `/metrics` tells.
        self._latencies = Latencies()
        self._endpoints: dict[str, Callable[[Posted], Awaitable[Answered]]] = {
            "/v1/chat/completions": self._chat,
            "/v1/completions": self._complete,
            "/v1/embeddings": self._embed,
            "/v1/responses": self._respond,
        }

    async def answer(self, posted: Posted) -> Answered:
        try:
            return await self._endpoints[posted.endpoint](posted)
        except BessemerError as fault:
            after_s = retry_after_s(fault)
            return Answered(fault.status, error_body(fault), retry_after_s=after_s)
        except Exception:
            _log.exception("%s of %s failed", posted.request_id, posted.client)
            return Answered(500, error_body(internal_error(posted.request_id)))

    async def _chat(self, posted: Posted) -> Answered:
        return await self._generate(posted, parse_chat(posted.body, posted.request_id), ChatShape())

    async def _complete(self, posted: Posted) -> Answered:
        ask = parse_completion(posted.body, posted.request_id)
        return await self._generate(posted, ask, CompletionShape())

    async def _generate(self, posted: Posted, ask: Ask, shape: Shape) -> Answered:
        _refuse(stream=ask.stream)
        lined_up = [
            msgspec.structs.replace(request, client=posted.client) for request in ask.requests
        ]
        whole = await answer_whole(
            self._serving,
            posted.principal,
            ask._replace(requests=lined_up),
            shape,
            posted.request_id,
            self._latencies,
            posted.meter,
            self._keeper,
        )
        return Answered(200, whole.body, whole.usage)

    async def _embed(self, posted: Posted) -> Answered:
        ask = parse_embedding(posted.body)
        found = await embed(
            self._serving,
            posted.principal,
            ask.model,
            msgspec.structs.replace(ask.request, client=posted.client),
            meter=posted.meter,
            charge_id=posted.request_id,
        )
        usage = Usage(prompt_tokens=found.prompt_tokens, completion_tokens=0)
        return Answered(200, embedding_answer(ask, found), usage)

    async def _respond(self, posted: Posted) -> Answered:
        asked = parse_response(posted.body, posted.request_id)
        _refuse(stream=asked.stream, background=asked.background)
        request = msgspec.structs.replace(asked.request, client=posted.client)
        made = await response_run.create(
            self._platform,
            self._serving,
            posted.principal,
            asked._replace(request=request),
            posted.meter,
        )
        return Answered(200, msgspec.json.encode(response_shape(made)), made.usage)


def _refuse(**asked: bool) -> None:
    for param, is_asked in asked.items():
        if is_asked:
            raise InvalidInput(
                f"A batch's answers are written to a file: {param!r} has no place in it.",
                param=param,
            )
