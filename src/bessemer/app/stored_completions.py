"""Chat completions that were asked to be stored: the answer, and the messages that led to it.

They are written when the answer is whole, before its last byte is sent: a client that has read an
answer to its end finds it here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from bessemer.app.paging import PageRequest, read_page
from bessemer.app.platform import Platform
from bessemer.app.tables import chat_completions, labels
from bessemer.core.database import now_ms
from bessemer.core.errors import InvalidInput, NotFound
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal

READ_SCOPE, WRITE_SCOPE = "answers:read", "answers:write"

Labels = Mapping[str, str]


class Kept(NamedTuple):
    """One stored completion: `answer` is the JSON that was sent, `messages` what was asked.

    `labels` are what clients call metadata.
    """

    id: str
    created_ms: int
    model: str
    labels: Labels
    messages: Sequence[Any]
    answer: dict[str, Any]


class Keeper:
    """Writes completions for the gateway's event loop, which must not wait for a disk."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    async def keep(
        self, principal: Principal, given: Labels, messages: bytes, answer: bytes
    ) -> None:
        """Returns when `answer`, a `chat.completion` in JSON, is safe on disk."""
        await asyncio.to_thread(add, self._platform, principal, given, messages, answer)


def add(
    platform: Platform, principal: Principal, given: Labels, messages: bytes, answer: bytes
) -> None:
    """Store one. Whoever may ask may have the answer stored: no scope beyond the answer's."""
    body = msgspec.json.decode(answer)
    row = {
        **_owner(principal),
        "id": body["id"],
        "model": body["model"],
        "labels": msgspec.json.encode(given).decode(),
        "messages": messages.decode(),
        "answer": answer.decode(),
    }
    with platform.db.write() as connection:
        connection.execute(chat_completions.insert().values(row))
        _label(connection, principal, body["id"], given)


def get(platform: Platform, principal: Principal, completion_id: str) -> Kept:
    """One of the principal's project. Raises NotFound."""
    principal.require(READ_SCOPE)
    with platform.db.read() as connection:
        return _find(connection, principal, completion_id)


def list_completions(
    platform: Platform,
    principal: Principal,
    asked: PageRequest,
    *,
    model: str | None = None,
    having: Labels | None = None,
) -> tuple[list[Kept], bool]:
    """A page of those by `model` that have all labels of `having`, and whether there are more."""
    principal.require(READ_SCOPE)
    where = chat_completions.c.project_id == principal.project_id
    if model is not None:
        where &= chat_completions.c.model == model
    for key, value in (having or {}).items():
        where &= chat_completions.c.id.in_(
            sa.select(labels.c.holder_id).where(
                labels.c.project_id == principal.project_id,
                labels.c.key == key,
                labels.c.value == value,
            )
        )
    with platform.db.read() as connection:
        page = read_page(connection, chat_completions, where, asked)
    return [_kept(row) for row in page.rows], page.has_more


def list_messages(
    platform: Platform, principal: Principal, completion_id: str, asked: PageRequest
) -> tuple[list[dict[str, Any]], bool]:
    """A page of the messages that it answers, each with an id, and whether there are more."""
    kept = get(platform, principal, completion_id)
    named = [
        {**message, "id": f"{completion_id}-{place}"} for place, message in enumerate(kept.messages)
    ]
    if asked.order == "desc":
        named.reverse()
    start = 0
    if asked.after is not None:
        ids = [message["id"] for message in named]
        if asked.after not in ids:
            raise InvalidInput(f"there is no {asked.after[:100]!r} in this list", param="after")
        start = ids.index(asked.after) + 1
    end = start + asked.limit
    return named[start:end], end < len(named)


def update(platform: Platform, principal: Principal, completion_id: str, given: Labels) -> Kept:
    """Give it other labels, in the place of all it has."""
    principal.require(WRITE_SCOPE)
    with platform.db.write() as connection:
        kept = _find(connection, principal, completion_id)
        connection.execute(
            chat_completions.update()
            .where(chat_completions.c.id == completion_id)
            .values(labels=msgspec.json.encode(given).decode())
        )
        connection.execute(labels.delete().where(labels.c.holder_id == completion_id))
        _label(connection, principal, completion_id, given)
    return kept._replace(labels=given)


def delete(platform: Platform, principal: Principal, completion_id: str) -> None:
    """Forget it."""
    principal.require(WRITE_SCOPE)
    with platform.db.write() as connection:
        _find(connection, principal, completion_id)
        connection.execute(labels.delete().where(labels.c.holder_id == completion_id))
        connection.execute(chat_completions.delete().where(chat_completions.c.id == completion_id))


def _label(connection: sa.Connection, principal: Principal, holder_id: str, given: Labels) -> None:
    rows = [
        {
            **_owner(principal),
            "id": new_id("label"),
            "holder_id": holder_id,
            "key": key,
            "value": value,
        }
        for key, value in given.items()
    ]
    if rows:
        connection.execute(labels.insert(), rows)


def _owner(principal: Principal) -> dict[str, Any]:
    return {
        "org_id": principal.org_id,
        "project_id": principal.project_id,
        "owner_id": principal.owner_id,
        "created_ms": now_ms(),
    }


def _find(connection: sa.Connection, principal: Principal, completion_id: str) -> Kept:
    mine = (chat_completions.c.project_id == principal.project_id) & (
        chat_completions.c.id == completion_id
    )
    row = connection.execute(sa.select(chat_completions).where(mine)).first()
    if row is None:
        raise NotFound(
            f"Chat completion '{completion_id[:100]}' not found.",
            next_step="GET /v1/chat/completions lists those that were stored with store: true",
            param="completion_id",
        )
    return _kept(row)


def _kept(row: sa.Row[Any]) -> Kept:
    return Kept(
        row.id,
        row.created_ms,
        row.model,
        msgspec.json.decode(row.labels),
        msgspec.json.decode(row.messages),
        msgspec.json.decode(row.answer),
    )
