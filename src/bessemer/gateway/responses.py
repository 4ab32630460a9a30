"""`/v1/responses`: create, stream, get, cancel, delete, and what they were asked with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

import msgspec

from bessemer.app import response_run, responses
from bessemer.app.background import Background
from bessemer.app.chat import CHAT_SCOPE, Serving
from bessemer.app.latencies import Latencies
from bessemer.app.metering import Meter, Taken
from bessemer.app.platform import Platform
from bessemer.app.responses import Piece, Response
from bessemer.core.errors import InvalidInput
from bessemer.gateway.exchange import Exchange
from bessemer.gateway.failures import UnsupportedParameter
from bessemer.gateway.limit_headers import limit_headers
from bessemer.gateway.query import PAGING
from bessemer.gateway.response_events import Events, response_shape
from bessemer.gateway.response_request import check_include, parse_count, parse_response
from bessemer.gateway.routes import Call, Route

_STREAMING = ("include", "stream", "starting_after", "include_obfuscation")


def routes(
    platform: Platform,
    serving: Serving | None,
    background: Background | None,
    meter: Meter | None = None,
    latencies: Latencies | None = None,
) -> list[Route]:
    """Without a `serving` they can only be looked at."""
    here = cast(Serving, serving)
    running = background or Background(platform, here, meter, latencies)

    async def create(call: Call) -> None:
        """Answer an input, whole, streamed or in the background."""
        call.principal.require(CHAT_SCOPE)
        exchange = call.exchange
        asked = parse_response(await exchange.read_json(), exchange.request_id)

        def note(taken: Taken) -> None:
            exchange.add_headers(limit_headers(taken))

        if asked.background:
            launched = await running.launch(call.principal, asked)
            if asked.stream:
                told = running.follow(call.principal, asked.id)
                await exchange.while_connected(_tell(exchange, told))
            else:
                await _reply(call, launched)
        elif asked.stream:
            pieces = response_run.stream(
                platform, here, call.principal, asked, meter, latencies, note
            )
            await exchange.while_connected(_tell(exchange, pieces))
        else:

            async def answer() -> None:
                made = await response_run.create(
                    platform, here, call.principal, asked, meter, latencies, note
                )
                await _reply(call, made)

            await exchange.while_connected(answer())

    async def get(call: Call) -> None:
        """A stored response; with `stream=true` the events of a background stream."""
        response_id, after = call.ids["response_id"], _asked_stream(call)
        if after is None:
            await _reply(
                call, await call.work(responses.get, platform, call.principal, response_id)
            )
        else:
            told = running.follow(call.principal, response_id)
            await call.exchange.while_connected(_tell(call.exchange, told, after))

    async def delete(call: Call) -> None:
        """Forget a response and its items."""
        await running.delete(call.principal, call.ids["response_id"])
        await call.reply({"id": call.ids["response_id"], "object": "response", "deleted": True})

    async def cancel(call: Call) -> None:
        """Stop a background response."""
        call.principal.require(CHAT_SCOPE)
        await _reply(call, await running.cancel(call.principal, call.ids["response_id"]))

    async def input_items(call: Call) -> None:
        """The items that came with a response's request."""
        check_include(call.query.many("include"))
        found, has_more = await call.work(
            responses.list_input_items,
            platform,
            call.principal,
            call.ids["response_id"],
            call.query.page(),
        )
        await call.reply(item_list(found, has_more))

    async def input_tokens(call: Call) -> None:
        """How many tokens an input has for its model."""
        call.principal.require(CHAT_SCOPE)
        exchange = call.exchange
        asked = parse_count(await exchange.read_json(), exchange.request_id)
        size = await response_run.input_tokens(platform, here, call.principal, asked)
        await call.reply({"object": "response.input_tokens", "input_tokens": size.tokens})

    one = "/v1/responses/{response_id}"
    return [
        Route("POST", "/v1/responses", create),
        Route("POST", "/v1/responses/input_tokens", input_tokens),
        Route("GET", one, get, query=_STREAMING),
        Route("DELETE", one, delete),
        Route("POST", f"{one}/cancel", cancel),
        Route("GET", f"{one}/input_items", input_items, query=("include", *PAGING)),
    ]


def item_list(found: list[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """A page of items, which are not objects here."""
    ids = [item["id"] for item in found]
    return {
        "object": "list",
        "data": found,
        "first_id": ids[0] if ids else "",
        "last_id": ids[-1] if ids else "",
        "has_more": has_more,
    }


def _asked_stream(call: Call) -> int | None:
    """The number of the last event that the client has, -1 for none; None for no stream."""
    check_include(call.query.many("include"))
    stream = call.query.truth("stream")
    after = call.query.whole("starting_after", 0, 2**53)
    if call.query.truth("include_obfuscation"):
        raise UnsupportedParameter("include_obfuscation")
    if stream:
        return -1 if after is None else after
    if after is not None:
        raise InvalidInput(
            "'starting_after' is only allowed with stream=true.", param="starting_after"
        )
    return None


async def _reply(call: Call, response: Response) -> None:
    await call.reply(response_shape(response))


async def _tell(exchange: Exchange, pieces: AsyncIterator[Piece], after: int = -1) -> None:
    """The events of `pieces` behind number `after`. What fails before the first is the answer."""
    events, is_open = Events(), False
    async with aclosing(cast(Any, pieces)) as told:
        async for piece in told:
            if not is_open:
                await exchange.open_events()
                is_open = True
            for event in events.of(piece):
                if event.number > after:
                    await exchange.send_event(msgspec.json.encode(event.data), event.name)
    await exchange.end()
