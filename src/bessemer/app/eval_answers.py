"""One whole answer of a served model, for evals: the only place where they ask one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple, TypeVar

import msgspec

from bessemer.app.chat import Serving, respond
from bessemer.app.metering import Meter
from bessemer.app.streams import closing
from bessemer.core.errors import Busy, EngineUnavailable, ModelTooLarge, RateLimited
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal
from bessemer.core.protocols import ChatRequest, Delta, Message, ToolCallDelta, Usage

TRIES_WHEN_BUSY = 20
# An engine is started again, or a model loaded, within seconds.
WAITS_WHEN_AWAY_S = (1.0, 5.0, 15.0)

T = TypeVar("T")


class Answer(NamedTuple):
    """What a model said, whole."""

    model: str
    text: str
    tool_calls: list[Message]
    finish_reason: str
    usage: Usage

    @property
    def message(self) -> Message:
        calls = {"tool_calls": self.tool_calls} if self.tool_calls else {}
        return {"role": "assistant", "content": self.text, **calls}


async def ask(
    serving: Serving,
    principal: Principal,
    model: str,
    request: ChatRequest,
    meter: Meter | None = None,
) -> Answer:
    """Ask `patiently`; the request gets an id of its own, and each time another one.

    Raises:
        BessemerError: as `chat.respond`, and as `patiently`.
    """

    async def once() -> Answer:
        fresh = msgspec.structs.replace(request, request_id=f"{new_id('req')}-0")
        return await _ask_once(serving, principal, model, fresh, meter)

    return await patiently(once)


async def patiently(once: Callable[[], Awaitable[T]]) -> T:
    """Do it, again while the engine is full or comes back, and for as long as a rate limit says.

    Raises:
        Busy, EngineUnavailable: after some patience.
        RateLimited: it never fits the limit.
    """
    away = iter(WAITS_WHEN_AWAY_S)
    full = iter(range(TRIES_WHEN_BUSY))
    while True:
        try:
            return await once()
        except RateLimited as fault:
            if fault.facts.get("never"):
                raise
            # A limit is there to slow a run down, however many of its items wait for a turn.
            wait_s = fault.retry_after_s
        except Busy as fault:
            if next(full, None) is None:
                raise
            wait_s = fault.retry_after_s
        except ModelTooLarge:
            raise
        except EngineUnavailable:
            found = next(away, None)
            if found is None:
                raise
            wait_s = found
        await asyncio.sleep(wait_s)


async def _ask_once(
    serving: Serving, principal: Principal, model: str, request: ChatRequest, meter: Meter | None
) -> Answer:
    reply = respond(serving, principal, model, request, whole=True, meter=meter, kind="evaluation")
    async with closing(reply) as deltas:
        return _whole(model, [delta async for delta in deltas])


def _whole(model: str, deltas: Iterable[Delta]) -> Answer:
    texts: list[str] = []
    calls: dict[int, Message] = {}
    end, usage = "", Usage(prompt_tokens=0, completion_tokens=0)
    for delta in deltas:
        texts.append(delta.text)
        for piece in delta.tool_calls:
            _add_piece(calls, piece)
        end = delta.finish_reason or end
        usage = delta.usage or usage
    return Answer(model, "".join(texts), [calls[index] for index in sorted(calls)], end, usage)


def _add_piece(calls: dict[int, Message], piece: ToolCallDelta) -> None:
    none = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
    call = calls.setdefault(piece.index, none)
    call["id"] = piece.id or call["id"]
    call["function"]["name"] = piece.name or call["function"]["name"]
    call["function"]["arguments"] += piece.arguments
