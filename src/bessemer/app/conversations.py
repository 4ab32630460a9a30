"""Conversations: items that are remembered across responses, in the order they were said."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import sqlalchemy as sa

from bessemer.app import items
from bessemer.app.chat import CHAT_SCOPE
from bessemer.app.items import Item
from bessemer.app.paging import PageRequest
from bessemer.app.platform import Platform
from bessemer.app.tables import conversations
from bessemer.core.database import now_ms
from bessemer.core.errors import InvalidInput, NotFound
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal

Labels = Mapping[str, str]


def require_reading(principal: Principal) -> None:
    """Whoever may have conversations, or may read all answers of the project, may read these."""
    if not principal.holds("answers:read"):
        principal.require(CHAT_SCOPE)


class Conversation(NamedTuple):
    """`labels` are what clients call metadata."""

    id: str
    created_ms: int
    labels: Labels


def create(
    platform: Platform, principal: Principal, labels: Labels, added: Sequence[Item]
) -> Conversation:
    """A new one, with items in it.

    Raises:
        NotFound: an item refers to none that is there.
        InvalidInput: two items have one id.
    """
    principal.require(CHAT_SCOPE)
    made = Conversation(new_id("conv"), now_ms(), labels)
    row = {
        "id": made.id,
        "org_id": principal.org_id,
        "project_id": principal.project_id,
        "owner_id": principal.owner_id,
        "created_ms": made.created_ms,
        "labels": msgspec.json.encode(labels).decode(),
    }
    with _items_at_fault(), platform.db.write() as connection:
        connection.execute(conversations.insert().values(row))
        given = items.resolve(connection, principal, added)
        items.insert(connection, principal, made.id, "input", given)
    return made


def get(platform: Platform, principal: Principal, conversation_id: str) -> Conversation:
    """One of the principal's project. Raises NotFound."""
    require_reading(principal)
    with platform.db.read() as connection:
        return find(connection, principal, conversation_id)


def update(
    platform: Platform, principal: Principal, conversation_id: str, labels: Labels
) -> Conversation:
    """Give it other labels, in the place of all it has."""
    principal.require(CHAT_SCOPE)
    with platform.db.write() as connection:
        found = find(connection, principal, conversation_id)
        text = msgspec.json.encode(labels).decode()
        mine = conversations.c.id == conversation_id
        connection.execute(conversations.update().where(mine).values(labels=text))
    return found._replace(labels=labels)


def delete(platform: Platform, principal: Principal, conversation_id: str) -> None:
    """Forget it and its items. What stored responses hold of them stays with those."""
    principal.require(CHAT_SCOPE)
    with platform.db.write() as connection:
        find(connection, principal, conversation_id)
        items.delete(connection, conversation_id)
        connection.execute(conversations.delete().where(conversations.c.id == conversation_id))


def add_items(
    platform: Platform, principal: Principal, conversation_id: str, added: Sequence[Item]
) -> list[Item]:
    """Add items at the end, all or none; returns them as they are stored."""
    principal.require(CHAT_SCOPE)
    with _items_at_fault(), platform.db.write() as connection:
        find(connection, principal, conversation_id)
        given = items.resolve(connection, principal, added)
        items.insert(connection, principal, conversation_id, "input", given)
    return given


def list_items(
    platform: Platform, principal: Principal, conversation_id: str, asked: PageRequest
) -> tuple[list[Item], bool]:
    """A page of its items, and whether there are more."""
    require_reading(principal)
    with platform.db.read() as connection:
        find(connection, principal, conversation_id)
        return items.read_some(connection, conversation_id, asked)


def get_item(platform: Platform, principal: Principal, conversation_id: str, item_id: str) -> Item:
    """Raises NotFound, also where the conversation is another project's."""
    require_reading(principal)
    with platform.db.read() as connection:
        find(connection, principal, conversation_id)
        return items.read_one(connection, conversation_id, item_id)


def delete_item(
    platform: Platform, principal: Principal, conversation_id: str, item_id: str
) -> Conversation:
    """Take one item out; returns the conversation."""
    principal.require(CHAT_SCOPE)
    with platform.db.write() as connection:
        found = find(connection, principal, conversation_id)
        items.read_one(connection, conversation_id, item_id)
        items.take_out(connection, conversation_id, item_id)
    return found


def find(connection: sa.Connection, principal: Principal, conversation_id: str) -> Conversation:
    """Within a transaction. Raises NotFound."""
    mine = (conversations.c.id == conversation_id) & (
        conversations.c.project_id == principal.project_id
    )
    row = connection.execute(sa.select(conversations).where(mine)).first()
    if row is None:
        raise NotFound(
            f"Conversation with id '{conversation_id[:100]}' not found.", param="conversation"
        )
    return Conversation(row.id, row.created_ms, msgspec.json.decode(row.labels))


@contextlib.contextmanager
def _items_at_fault() -> Iterator[None]:
    """What a response calls its input are the items of a conversation."""
    try:
        yield
    except (InvalidInput, NotFound) as fault:
        if fault.param == "input":
            fault.param = "items"
        raise
