"""Responses that outlive whoever asked: queued, answered, stored, and followed by who comes back.

They live on the server's event loop. A server that stops ends them as failed, and one that was
killed is found out by the next, so none stays queued for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator

from bessemer.app import responses
from bessemer.app.chat import Serving, askable, no_such_model
from bessemer.app.latencies import Latencies
from bessemer.app.metering import Meter
from bessemer.app.names import may_be_digest
from bessemer.app.platform import Platform
from bessemer.app.response_run import Run, fault_of
from bessemer.app.responses import (
    Asked,
    Ended,
    Fault,
    Piece,
    Prepared,
    Response,
    Started,
    Status,
)
from bessemer.app.streams import closing
from bessemer.core.errors import Busy, DatabaseUnavailable, InvalidInput, RateLimited
from bessemer.core.principal import Principal

# More wait here instead of in the engines' lines, which callers who wait stand in too.
MOST_AT_ONCE = 32
# For last words, while the database is away: a minute in all.
WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)

_log = logging.getLogger(__name__)
_STOPPED = Fault("server_error", "The server stopped before this response was whole. Ask again.")


class Background:
    """Owns the responses under way. `start` it with the server, `close` it with the server."""

    def __init__(
        self,
        platform: Platform,
        serving: Serving,
        meter: Meter | None = None,
        latencies: Latencies | None = None,
        *,
        most_at_once: int = MOST_AT_ONCE,
    ) -> None:
        self._platform, self._serving = platform, serving
        self._meter, self._latencies = meter, latencies
        self._places = asyncio.Semaphore(most_at_once)
        self._live: dict[str, _Live] = {}

    async def start(self) -> None:
        """Close what an earlier server left open."""
        count = await asyncio.to_thread(responses.fail_unfinished, self._platform)
        if count:
            _log.warning("%d background responses of an earlier server are failed now", count)

    async def close(self) -> None:
        """End what is under way as failed."""
        live = list(self._live.values())
        for one in live:
            one.task.cancel()
        if live:
            await asyncio.wait([one.task for one in live])

    async def launch(self, principal: Principal, asked: Asked) -> Response:
        """Take it on, durably, and return it as it is: queued.

        Raises:
            NotFound, InvalidInput: as `responses.prepare`; nothing answers to the model's name.
        """
        if not may_be_digest(asked.model):
            known = await asyncio.to_thread(askable, self._serving, principal)
            if asked.model not in {one.id for one in known}:
                raise no_such_model(asked.model)
        prepared = await asyncio.to_thread(responses.prepare, self._platform, principal, asked)
        await asyncio.to_thread(responses.keep, self._platform, prepared, prepared.response)
        run = Run(self._platform, self._serving, prepared, self._meter, self._latencies)
        live = _Live(self, run, prepared)
        self._live[asked.id] = live
        return prepared.response

    async def follow(self, principal: Principal, response_id: str) -> AsyncGenerator[Piece, None]:
        """Everything the stream of a background response tells, from its beginning.

        Raises:
            NotFound, InvalidInput: there is none, or it was not created as a background stream.
        """
        await asyncio.to_thread(responses.get, self._platform, principal, response_id)
        live = self._live.get(response_id)
        if live is not None and live.run.told is not None:
            async for piece in live.follow():
                yield piece
            return
        for piece in await asyncio.to_thread(
            responses.said_again, self._platform, principal, response_id
        ):
            yield piece

    async def cancel(self, principal: Principal, response_id: str) -> Response:
        """Stop it and keep what there is of it; one that is over stays as it is.

        Raises:
            NotFound: there is none.
            InvalidInput: it is no background response.
        """
        found = await asyncio.to_thread(responses.get, self._platform, principal, response_id)
        if not found.background:
            raise InvalidInput(
                f"Response '{response_id}' is not a background response: it ends when its client"
                " goes away.",
                param="response_id",
            )
        live = self._live.get(response_id)
        if live is not None:
            live.is_cancelled = True
            live.task.cancel()
            await asyncio.wait([live.task])
        return await asyncio.to_thread(responses.get, self._platform, principal, response_id)

    async def delete(self, principal: Principal, response_id: str) -> None:
        """Forget it; one that is under way is stopped first."""
        found = await asyncio.to_thread(responses.get, self._platform, principal, response_id)
        if not found.is_finished:
            await self.cancel(principal, response_id)
        await asyncio.to_thread(responses.delete, self._platform, principal, response_id)

    async def _work(self, live: _Live) -> None:
        try:
            async with self._places:
                await self._answer(live)
        except asyncio.CancelledError:
            # By `cancel` or `close`; the last words are still to be written.
            if live.is_cancelled:
                await self._end(live, "cancelled")
            else:
                await self._end(live, "failed", _STOPPED)
        except Exception as fault:
            await self._end(live, "failed", fault_of(fault, live.run.response.id))
        finally:
            del self._live[live.run.response.id]
            live.wake()

    async def _end(self, live: _Live, status: Status, error: Fault | None = None) -> None:
        """What cannot be written after all is found out by the next server."""
        for wait_s in (*WAITS_S, None):
            try:
                live.tell(await live.run.end(status, error=error))
                return
            except DatabaseUnavailable as fault:
                if wait_s is None:
                    _log.error("%s is not stored as %s: %s", live.run.response.id, status, fault)
                    return
                await asyncio.sleep(wait_s)

    async def _answer(self, live: _Live) -> None:
        while True:
            try:
                async with closing(live.run.pieces(whole=False)) as pieces:
                    async for piece in pieces:
                        if isinstance(piece, Started):
                            await asyncio.to_thread(
                                responses.keep, self._platform, live.prepared, piece.response
                            )
                        live.tell(piece)
                return
            except Busy as full:
                never_fits = isinstance(full, RateLimited) and full.facts.get("never")
                if never_fits or live.run.response.status != "queued":
                    raise
                await asyncio.sleep(full.retry_after_s)


class _Live:
    """One response under way, and who follows it."""

    def __init__(self, background: Background, run: Run, prepared: Prepared) -> None:
        self.run, self.prepared = run, prepared
        self.is_cancelled = False
        self._news = asyncio.Event()
        self._over = False
        if prepared.asked.stream:
            self.run.told = [Started(prepared.response)]
        self.task = asyncio.create_task(background._work(self), name=prepared.response.id)

    def tell(self, piece: Piece) -> None:
        if self.run.told is not None:
            self.run.told.append(piece)
        self.wake(over=isinstance(piece, Ended))

    def wake(self, *, over: bool = True) -> None:
        self._over = self._over or over
        self._news.set()
        self._news = asyncio.Event()

    async def follow(self) -> AsyncGenerator[Piece, None]:
        told, place = self.run.told or [], 0
        while True:
            while place < len(told):
                yield told[place]
                place += 1
            if self._over:
                return
            await self._news.wait()
