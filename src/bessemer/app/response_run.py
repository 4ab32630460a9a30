"""How the answer of a response comes about: the context fitted, the model asked, the end stored.

response = await create(platform, serving, principal, asked)      # whole
async for piece in stream(platform, serving, principal, asked):   # bit by bit
    ...
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

import msgspec

from bessemer.app import responses
from bessemer.app.chat import Serving, respond
from bessemer.app.items import Item, messages_of
from bessemer.app.latencies import Latencies
from bessemer.app.metering import Meter, Taken
from bessemer.app.platform import Platform
from bessemer.app.prompt_size import PromptSize, prompt_size
from bessemer.app.response_output import Output
from bessemer.app.responses import Asked, Ended, Fault, Piece, Prepared, Response, Started, Status
from bessemer.app.streams import closing
from bessemer.app.truncation import LEAST_ANSWER_TOKENS, fit
from bessemer.core.database import now_ms
from bessemer.core.errors import BessemerError, ContextLengthExceeded, InvalidInput
from bessemer.core.principal import Principal
from bessemer.core.protocols import ChatRequest, Delta

_log = logging.getLogger(__name__)

Note = Callable[[Taken], None]
"""Told what a response took of its rate limits, before its first piece."""


async def create(
    platform: Platform,
    serving: Serving,
    principal: Principal,
    asked: Asked,
    meter: Meter | None = None,
    latencies: Latencies | None = None,
    note: Note | None = None,
) -> Response:
    """The whole response. One that fails is an error, and is not stored.

    Raises:
        BessemerError: as `responses.prepare` and `chat.respond`.
    """
    prepared = await asyncio.to_thread(responses.prepare, platform, principal, asked)
    run = Run(platform, serving, prepared, meter, latencies, note)
    async with closing(run.pieces(whole=True)) as pieces:
        async for _ in pieces:
            pass
    return run.response


async def stream(
    platform: Platform,
    serving: Serving,
    principal: Principal,
    asked: Asked,
    meter: Meter | None = None,
    latencies: Latencies | None = None,
    note: Note | None = None,
) -> AsyncGenerator[Piece, None]:
    """The response in pieces, the first of which comes with the first word.

    Raises:
        BessemerError: before the first piece; what goes wrong later ends the response as failed.
    """
    prepared = await asyncio.to_thread(responses.prepare, platform, principal, asked)
    run, begun = Run(platform, serving, prepared, meter, latencies, note), False
    try:
        async with closing(run.pieces(whole=False)) as pieces:
            async for piece in pieces:
                begun = True
                yield piece
        return
    except Exception as fault:
        if not begun:
            raise
        why = fault_of(fault, run.response.id)
    yield await run.end("failed", error=why)


async def input_tokens(
    platform: Platform, serving: Serving, principal: Principal, asked: Asked
) -> PromptSize:
    """What the prompt of this request would be, by the model's own template and tokenizer."""
    prepared = await asyncio.to_thread(responses.prepare, platform, principal, asked)
    request = _request(asked, [*prepared.before, *prepared.new])
    with _input_at_fault():
        return await prompt_size(serving, principal, asked.model, request)


class Run:
    """One response on its way. `response` is what there is of it."""

    def __init__(
        self,
        platform: Platform,
        serving: Serving,
        prepared: Prepared,
        meter: Meter | None = None,
        latencies: Latencies | None = None,
        note: Note | None = None,
    ) -> None:
        self.response = prepared.response
        self.told: list[Piece] | None = None  # what a stream has told, where it is to be stored
        self._platform, self._serving, self._prepared = platform, serving, prepared
        self._meter, self._latencies, self._note = meter, latencies, note
        self._output = Output()
        self._tries = 0

    async def pieces(self, *, whole: bool) -> AsyncGenerator[Piece, None]:
        """Ask the model. Before the first piece nothing has happened, and it may be asked again.

        Args:
            whole: nobody reads before the end.

        Raises:
            BessemerError: as `chat.respond`.
        """
        principal, asked = self._prepared.principal, self._prepared.asked
        request = self._numbered(await self._fitted())
        last: Delta | None = None
        reply = respond(
            self._serving, principal, asked.model, request,
            whole=whole, meter=self._meter, kind="response", latencies=self._latencies,
        )  # fmt: skip
        with _input_at_fault():
            async with closing(reply) as deltas:
                async for delta in deltas:
                    if last is None:
                        if self._note is not None:
                            self._note(reply.taken)
                        self._become("in_progress")
                        yield Started(self.response)
                    for piece in self._output.take(delta):
                        yield piece
                    last = delta
        assert last is not None, "a responder's stream ended without a delta"
        cut = last.finish_reason == "length"
        for piece in self._output.close("incomplete" if cut else "completed"):
            yield piece
        self.response = msgspec.structs.replace(self.response, usage=last.usage)
        yield await self.end("incomplete" if cut else "completed")

    async def end(self, status: Status, *, error: Fault | None = None) -> Ended:
        """Finish with what there is, and store it."""
        over = msgspec.structs.replace(
            self.response,
            status=status,
            output=self._output.cut(),
            error=error,
            incomplete="max_output_tokens" if status == "incomplete" else None,
            completed_ms=now_ms() if status == "completed" else None,
        )
        told = None if self.told is None else [*self.told, Ended(over)]
        self.response = await asyncio.to_thread(
            responses.keep, self._platform, self._prepared, over, told
        )
        return Ended(self.response)

    def _become(self, status: Status) -> None:
        self.response = msgspec.structs.replace(self.response, status=status)

    def _numbered(self, request: ChatRequest) -> ChatRequest:
        """What a try reserved is released when it fails, and an id is reserved once."""
        self._tries += 1
        if self._tries == 1:
            return request
        request_id = f"{request.request_id}-{self._tries - 1}"
        return msgspec.structs.replace(request, request_id=request_id)

    async def _fitted(self) -> ChatRequest:
        asked = self._prepared.asked
        spoken: Sequence[Item] = [*self._prepared.before, *self._prepared.new]
        if asked.truncates:
            spoken, dropped = await fit(spoken, self._fits)
            self.response = msgspec.structs.replace(self.response, dropped=dropped)
        return _request(asked, spoken)

    async def _fits(self, spoken: Sequence[Item]) -> bool:
        principal, asked = self._prepared.principal, self._prepared.asked
        try:
            request = _request(asked, spoken)
            size = await prompt_size(self._serving, principal, asked.model, request)
        except ContextLengthExceeded:
            return False
        room = asked.request.max_tokens or LEAST_ANSWER_TOKENS
        return size.tokens + room <= size.context_length


def fault_of(fault: Exception, response_id: str) -> Fault:
    """What a failed response says of it. What nobody expected is in the server's log."""
    if not isinstance(fault, BessemerError):
        _log.error("%s failed", response_id, exc_info=fault)
        return Fault(
            "server_error",
            f"The server had an error; it is in the server's log as {response_id}.",
        )
    if fault.status == 429:
        return Fault("rate_limit_exceeded", fault.message)
    return Fault("invalid_prompt" if fault.status < 500 else "server_error", fault.message)


@contextlib.contextmanager
def _input_at_fault() -> Iterator[None]:
    """What a chat calls its messages is the input of a response."""
    try:
        yield
    except InvalidInput as fault:
        if fault.param == "messages":
            fault.param = "input"
        raise


def _request(asked: Asked, spoken: Sequence[Item]) -> ChatRequest:
    messages = messages_of(spoken, asked.instructions)
    return msgspec.structs.replace(asked.request, messages=messages)
