"""Responses as stored objects: what was asked, what came of it, and how one continues another.

A response holds the items that came with its request and those of its answer. The context of a
request is what it continues, a chain of earlier responses or a conversation, and then its own
items. How an answer comes about is in `response_run`, what outlives its client in `background`.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import sqlalchemy as sa

from bessemer.app import conversations, items
from bessemer.app.chat import CHAT_SCOPE
from bessemer.app.items import Item
from bessemer.app.paging import PageRequest
from bessemer.app.platform import Platform
from bessemer.app.response_output import ArgumentsSaid, Closed, Opened, TextSaid
from bessemer.app.tables import responses
from bessemer.core.database import now_ms
from bessemer.core.errors import InvalidInput, NotFound
from bessemer.core.principal import Principal
from bessemer.core.protocols import ChatRequest, Usage

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
UNFINISHED = ("queued", "in_progress")
CONTINUABLE = ("completed", "incomplete")


class Fault(msgspec.Struct, frozen=True):
    """Why a response failed; `code` is one of OpenAI's."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """One response.

    `says` is what it tells again of its request, by OpenAI's names. `dropped` are the ids of
    earlier items that were left out to fit the model; None where nothing may be left out.
    """

    id: str
    created_ms: int
    model: str
    status: Status
    says: Mapping[str, Any]
    background: bool = False
    previous_id: str | None = None
    conversation_id: str | None = None
    output: Sequence[Item] = ()
    usage: Usage | None = None
    error: Fault | None = None
    incomplete: str | None = None
    dropped: Sequence[str] | None = None
    completed_ms: int | None = None

    @property
    def is_finished(self) -> bool:
        return self.status not in UNFINISHED


class Started(msgspec.Struct, frozen=True, tag=True):
    """The response waits, or is being answered."""

    response: Response


class Ended(msgspec.Struct, frozen=True, tag=True):
    """The response is over, and stored if it is to be."""

    response: Response


Piece = Started | Opened | TextSaid | ArgumentsSaid | Closed | Ended

_record = msgspec.json.Decoder(Response)
_pieces = msgspec.msgpack.Decoder(list[Piece])


class Asked(NamedTuple):
    """A request for a response; `request` has everything but the messages.

    `truncates` lets the oldest turns be dropped where the prompt does not fit.
    """

    id: str
    model: str
    items: Sequence[Item]
    request: ChatRequest
    says: Mapping[str, Any]
    instructions: str | None = None
    previous_id: str | None = None
    conversation_id: str | None = None
    store: bool = True
    background: bool = False
    stream: bool = False
    truncates: bool = False


class Prepared(NamedTuple):
    """A request with all it builds on: the items `before` its own, which are resolved."""

    principal: Principal
    asked: Asked
    response: Response
    before: Sequence[Item]
    new: Sequence[Item]


def prepare(platform: Platform, principal: Principal, asked: Asked) -> Prepared:
    """Look up what a request builds on. Nothing is written.

    Raises:
        NotFound: a response, conversation or item it names is not the project's.
        InvalidInput: what it names cannot be continued, an item comes twice, or a result has no
            call.
    """
    principal.require(CHAT_SCOPE)
    with platform.db.read() as connection:
        before: list[Item] = []
        if asked.previous_id is not None:
            before = _chain(connection, principal, asked.previous_id)
        if asked.conversation_id is not None:
            conversations.find(connection, principal, asked.conversation_id)
            before = items.read_all(connection, asked.conversation_id)
        new = items.resolve(connection, principal, asked.items)
    items.check_new((item["id"] for item in before), new)
    items.check_results([*before, *new])
    response = Response(
        id=asked.id,
        created_ms=now_ms(),
        model=asked.model,
        status="queued" if asked.background else "in_progress",
        says=asked.says,
        background=asked.background,
        previous_id=asked.previous_id,
        conversation_id=asked.conversation_id,
        dropped=[] if asked.truncates else None,
    )
    return Prepared(principal, asked, response, before, new)


def keep(
    platform: Platform,
    prepared: Prepared,
    response: Response,
    pieces: Sequence[Piece] | None = None,
) -> Response:
    """Store a response as it is now, and add a whole one to its conversation: both or neither.

    One that is finished stays as it is; what is stored then is returned.
    """
    asked, principal = prepared.asked, prepared.principal
    with platform.db.write() as connection:
        known = _row(connection, principal, response.id)
        if known is not None and known.status not in UNFINISHED:
            return _record.decode(known.record)
        if asked.store:
            values = {
                "status": response.status,
                "record": msgspec.json.encode(response).decode(),
                "pieces": None if pieces is None else _packed(pieces),
            }
            if known is None:
                connection.execute(responses.insert().values(_new_row(prepared) | values))
                items.insert(connection, principal, response.id, "input", prepared.new)
            else:
                mine = responses.c.id == response.id
                connection.execute(responses.update().where(mine).values(values))
            items.insert(connection, principal, response.id, "output", response.output)
        if asked.conversation_id is not None and response.status in CONTINUABLE:
            conversations.find(connection, principal, asked.conversation_id)
            items.insert(connection, principal, asked.conversation_id, "input", prepared.new)
            items.insert(connection, principal, asked.conversation_id, "output", response.output)
    return response


def get(platform: Platform, principal: Principal, response_id: str) -> Response:
    """One of the principal's project. Raises NotFound."""
    conversations.require_reading(principal)
    with platform.db.read() as connection:
        return _record.decode(_find(connection, principal, response_id).record)


def get_with_context(
    platform: Platform, principal: Principal, response_id: str
) -> tuple[Response, list[Item]]:
    """One, and the items that it answers, oldest first: what it continued, and its own.

    Raises:
        NotFound: it is not there, or something that it continued is not any more.
    """
    conversations.require_reading(principal)
    with platform.db.read() as connection:
        response = _record.decode(_find(connection, principal, response_id).record)
        own = items.read_all(connection, response_id, "input")
        before: list[Item] = []
        if response.previous_id is not None:
            before = _chain(connection, principal, response.previous_id)
        if response.conversation_id is not None:
            conversations.find(connection, principal, response.conversation_id)
            before = _until(items.read_all(connection, response.conversation_id), response, own)
    dropped = set(response.dropped or ())
    return response, [item for item in [*before, *own] if item["id"] not in dropped]


def delete(platform: Platform, principal: Principal, response_id: str) -> None:
    """Forget it and its items. A conversation keeps what it got of them."""
    principal.require(CHAT_SCOPE)
    with platform.db.write() as connection:
        _find(connection, principal, response_id)
        items.delete(connection, response_id)
        connection.execute(responses.delete().where(responses.c.id == response_id))


def list_input_items(
    platform: Platform, principal: Principal, response_id: str, asked: PageRequest
) -> tuple[list[Item], bool]:
    """A page of the items that came with its request, and whether there are more.

    What it continues has its own: the response before it, or the conversation.
    """
    conversations.require_reading(principal)
    with platform.db.read() as connection:
        _find(connection, principal, response_id)
        return items.read_some(connection, response_id, asked, "input")


def said_again(platform: Platform, principal: Principal, response_id: str) -> list[Piece]:
    """What the stream of a finished background response told.

    Raises:
        InvalidInput: it was no background stream.
    """
    conversations.require_reading(principal)
    with platform.db.read() as connection:
        row = _find(connection, principal, response_id)
    if row.pieces is None:
        raise InvalidInput(
            f"Response '{response_id}' cannot be streamed: it was not created with"
            " background=true and stream=true.",
            next_step="get it without stream=true",
            param="stream",
        )
    return _pieces.decode(zlib.decompress(row.pieces))


def fail_unfinished(platform: Platform) -> int:
    """Close what a server that is gone left open, each with an error; how many there were."""
    why = Fault("server_error", "The server stopped before this response was whole. Ask again.")
    with platform.db.write() as connection:
        unfinished = responses.c.status.in_(UNFINISHED)
        rows = connection.execute(sa.select(responses).where(unfinished)).all()
        for row in rows:
            failed = msgspec.structs.replace(_record.decode(row.record), status="failed", error=why)
            connection.execute(
                responses.update()
                .where(responses.c.id == row.id)
                .values(status="failed", record=msgspec.json.encode(failed).decode())
            )
    return len(rows)


def _chain(connection: sa.Connection, principal: Principal, last_id: str) -> list[Item]:
    """The items of a response and of all that it continues, oldest first."""
    links: list[list[Item]] = []
    previous_id: str | None = last_id
    while previous_id is not None:
        row = _row(connection, principal, previous_id)
        if row is None:
            raise NotFound(
                f"Previous response with id '{previous_id[:100]}' not found.",
                param="previous_response_id",
            )
        _check_continuable(_record.decode(row.record))
        links.append(items.read_all(connection, previous_id))
        previous_id = row.previous_id
    return [item for link in reversed(links) for item in link]


def _until(said: Sequence[Item], response: Response, own: Sequence[Item]) -> list[Item]:
    """What a conversation had before this response was added to it."""
    added = {item["id"] for item in (*own, *response.output)}
    return list(itertools.takewhile(lambda item: item["id"] not in added, said))


def _check_continuable(response: Response) -> None:
    if response.status not in CONTINUABLE:
        raise InvalidInput(
            f"Previous response '{response.id}' is {response.status}; only one that is completed"
            " or incomplete can be continued.",
            param="previous_response_id",
        )
    if response.conversation_id is not None:
        raise InvalidInput(
            f"Previous response '{response.id}' is a part of a conversation.",
            next_step=f"send conversation: '{response.conversation_id}' instead",
            param="previous_response_id",
        )


def _new_row(prepared: Prepared) -> dict[str, Any]:
    principal, response = prepared.principal, prepared.response
    return {
        "id": response.id,
        "org_id": principal.org_id,
        "project_id": principal.project_id,
        "owner_id": principal.owner_id,
        "created_ms": response.created_ms,
        "model": response.model,
        "background": int(response.background),
        "previous_id": response.previous_id,
    }


def _row(connection: sa.Connection, principal: Principal, response_id: str) -> sa.Row[Any] | None:
    mine = (responses.c.project_id == principal.project_id) & (responses.c.id == response_id)
    return connection.execute(sa.select(responses).where(mine)).first()


def _find(connection: sa.Connection, principal: Principal, response_id: str) -> sa.Row[Any]:
    row = _row(connection, principal, response_id)
    if row is None:
        raise NotFound(
            f"Response with id '{response_id[:100]}' not found.",
            param="response_id",
            next_step="responses are kept unless they are made with store: false; make it again",
        )
    return row


def _packed(pieces: Sequence[Piece]) -> bytes:
    """Events repeat themselves: a twentieth is left of them."""
    return zlib.compress(msgspec.msgpack.encode(pieces))
