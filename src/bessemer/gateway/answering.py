"""Asks for every choice of a request and writes the answer, whole or as a stream.

An error before the first delta is the answer's status; one after it is the stream's last event.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import NamedTuple, Protocol

from msgspec import UNSET

from bessemer.app.chat import Reply, Serving, respond_each
from bessemer.app.latencies import Latencies
from bessemer.app.metering import Bill, Meter, Taken
from bessemer.core.principal import Principal
from bessemer.core.protocols import Usage
from bessemer.gateway.choices import Choice, Piece, best_of, interleave, total_usage
from bessemer.gateway.exchange import Exchange
from bessemer.gateway.failures import UnsupportedParameter
from bessemer.gateway.limit_headers import limit_headers
from bessemer.gateway.parameters import Ask
from bessemer.gateway.shapes import Heading, Shape


class Keeper(Protocol):
    """What is needed of `app.stored_completions.Keeper`."""

    async def keep(
        self, principal: Principal, given: Mapping[str, str], messages: bytes, answer: bytes
    ) -> None:
        """Returns when it is safe on disk."""
        ...


async def answer(
    exchange: Exchange,
    serving: Serving,
    principal: Principal,
    ask: Ask,
    shape: Shape,
    latencies: Latencies,
    meter: Meter | None = None,
    keeper: Keeper | None = None,
) -> None:
    """Answer `ask` on `exchange`, noting how long it took and charging each prompt once; with
    `storing` nothing says that the answer is over before it is stored.

    Raises:
        UnsupportedParameter: it is to be stored, and there is no keeper.
        BessemerError: what the use case raises; if events were sent, `exchange.fail` adds it.
    """
    if not ask.stream:
        whole = await answer_whole(
            serving, principal, ask, shape, exchange.request_id, latencies, meter, keeper
        )
        await exchange.send_json(200, whole.body, limit_headers(whole.taken))
        return
    store = _storer(ask, principal, keeper)
    replies = _replies(serving, principal, ask, shape, exchange.request_id, latencies, meter)
    async with aclosing(interleave(replies)) as pieces:
        await _stream(exchange, ask, shape, replies, pieces, store)


class Whole(NamedTuple):
    """An answer in one piece: its JSON, and what it took, also of the rate limits."""

    body: bytes
    usage: Usage
    taken: Taken


async def answer_whole(
    serving: Serving,
    principal: Principal,
    ask: Ask,
    shape: Shape,
    request_id: str,
    latencies: Latencies,
    meter: Meter | None = None,
    keeper: Keeper | None = None,
) -> Whole:
    """The answer, once all of it is there, and stored if it is to be.

    Raises:
        UnsupportedParameter: it is to be stored, and there is no keeper.
        BessemerError: what the use case raises.
    """
    store = _storer(ask, principal, keeper)
    replies = _replies(serving, principal, ask, shape, request_id, latencies, meter)
    choices = [Choice() for _ in replies]
    async with aclosing(interleave(replies)) as pieces:
        async for index, delta in pieces:
            choices[index].take(delta)
    heading = Heading.new(
        shape.prefix, request_id, ask.model, replies[0].model_digest, ask.functions
    )
    usage = total_usage(choices, ask.candidates)
    best = best_of(choices, ask.n, ask.candidates)
    for choice in best:
        if not ask.says_logprobs:
            choice.logprobs.clear()
    body = shape.whole(heading, best, usage)
    if store is not None:
        await store(body)
    return Whole(body, usage, replies[0].taken)


def _replies(
    serving: Serving,
    principal: Principal,
    ask: Ask,
    shape: Shape,
    request_id: str,
    latencies: Latencies,
    meter: Meter | None,
) -> list[Reply]:
    """Of every choice; those to one prompt are charged together, and no prompt if one fails."""
    replies: list[Reply] = []
    bills: list[Bill] = []
    for start in range(0, len(ask.requests), ask.candidates):
        replies += respond_each(
            serving,
            principal,
            ask.model,
            ask.requests[start : start + ask.candidates],
            meter=meter,
            kind=shape.kind,
            charge_id=f"{request_id}-{start}" if start else request_id,
            beside=bills,
            whole=not ask.stream,
            latencies=latencies,
        )
    return replies


Store = Callable[[bytes], Awaitable[None]]


def _storer(ask: Ask, principal: Principal, keeper: Keeper | None) -> Store | None:
    if ask.storing is None:
        return None
    if keeper is None:
        raise UnsupportedParameter("store")
    labels, messages = ask.storing

    async def store(answer: bytes) -> None:
        await keeper.keep(principal, labels, messages, answer)

    return store


async def _stream(
    exchange: Exchange,
    ask: Ask,
    shape: Shape,
    replies: list[Reply],
    pieces: AsyncIterator[Piece],
    store: Store | None,
) -> None:
    heading: Heading | None = None
    usage = None if ask.include_usage else UNSET
    choices = [Choice() for _ in replies]
    lengths: dict[int, int] = {}
    async for index, delta in pieces:
        if heading is None:
            digest = replies[index].model_digest
            heading = Heading.new(
                shape.prefix, exchange.request_id, ask.model, digest, ask.functions
            )
            await exchange.open_events(limit_headers(replies[index].taken))
        if index not in lengths:
            lengths[index] = 0
            for event in shape.opening(heading, index, usage):
                await exchange.send_event(event)
        for event in shape.chunks(heading, index, delta, lengths[index], usage):
            await exchange.send_event(event)
        lengths[index] += len(delta.text)
        if store is None:
            choices[index].usage = delta.usage or choices[index].usage
        else:
            choices[index].take(delta)
    assert heading is not None, "a responder's stream ended without a delta"
    if ask.include_usage:
        await exchange.send_event(shape.usage_chunk(heading, total_usage(choices, ask.n)))
    if store is not None:
        await store(shape.whole(heading, choices, total_usage(choices, ask.n)))
    await exchange.send_event(b"[DONE]")
    await exchange.end()
