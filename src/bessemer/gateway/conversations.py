"""`/v1/conversations` and their items."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bessemer.app import conversations
from bessemer.app.platform import Platform
from bessemer.gateway.decoding import decode
from bessemer.gateway.parameters import Metadata
from bessemer.gateway.query import PAGING
from bessemer.gateway.response_items import parse_items
from bessemer.gateway.response_request import check_include
from bessemer.gateway.responses import item_list
from bessemer.gateway.routes import Call, Deleted, Route

# As in OpenAI's API.
MAX_ITEMS = 20

Items = Annotated[list[dict[str, Any]], Meta(max_length=MAX_ITEMS)]


class NewConversation(msgspec.Struct, forbid_unknown_fields=True):
    metadata: Metadata | None = None
    items: Items | None = None


class Update(msgspec.Struct, forbid_unknown_fields=True):
    """Null takes all metadata away."""

    metadata: Metadata | None


class NewItems(msgspec.Struct, forbid_unknown_fields=True):
    items: Items


class ConversationShape(msgspec.Struct):
    id: str
    created_at: int
    metadata: conversations.Labels
    object: Literal["conversation"] = "conversation"

    @classmethod
    def of(cls, found: conversations.Conversation) -> ConversationShape:
        return cls(found.id, found.created_ms // 1000, found.labels)


_new = msgspec.json.Decoder(NewConversation)
_update = msgspec.json.Decoder(Update)
_items = msgspec.json.Decoder(NewItems)


def routes(platform: Platform) -> list[Route]:
    async def create(call: Call) -> None:
        """Begin a conversation, with up to 20 items."""
        body = decode(_new, await call.exchange.read_json() or b"{}")
        added = parse_items(body.items, "items")
        made = await call.work(
            conversations.create, platform, call.principal, body.metadata or {}, added
        )
        await call.reply(ConversationShape.of(made))

    async def get(call: Call) -> None:
        """One conversation, without its items."""
        found = await call.work(conversations.get, platform, call.principal, _id(call))
        await call.reply(ConversationShape.of(found))

    async def update(call: Call) -> None:
        """Give a conversation other metadata."""
        labels = (await call.body(_update)).metadata or {}
        found = await call.work(conversations.update, platform, call.principal, _id(call), labels)
        await call.reply(ConversationShape.of(found))

    async def delete(call: Call) -> None:
        """Forget a conversation and its items."""
        await call.work(conversations.delete, platform, call.principal, _id(call))
        await call.reply(Deleted(_id(call), "conversation.deleted"))

    async def add_items(call: Call) -> None:
        """Add up to 20 items at its end."""
        check_include(call.query.many("include"))
        added = parse_items((await call.body(_items)).items, "items")
        found = await call.work(conversations.add_items, platform, call.principal, _id(call), added)
        await call.reply(item_list(found, False))

    async def list_items(call: Call) -> None:
        """Its items."""
        check_include(call.query.many("include"))
        found, has_more = await call.work(
            conversations.list_items, platform, call.principal, _id(call), call.query.page()
        )
        await call.reply(item_list(found, has_more))

    async def get_item(call: Call) -> None:
        """One of its items."""
        check_include(call.query.many("include"))
        found = await call.work(
            conversations.get_item, platform, call.principal, _id(call), call.ids["item_id"]
        )
        await call.reply(found)

    async def delete_item(call: Call) -> None:
        """Take an item out of it."""
        left = await call.work(
            conversations.delete_item, platform, call.principal, _id(call), call.ids["item_id"]
        )
        await call.reply(ConversationShape.of(left))

    one = "/v1/conversations/{conversation_id}"
    return [
        Route("POST", "/v1/conversations", create),
        Route("GET", one, get),
        Route("POST", one, update),
        Route("DELETE", one, delete),
        Route("POST", f"{one}/items", add_items, query=("include",)),
        Route("GET", f"{one}/items", list_items, query=("include", *PAGING)),
        Route("GET", f"{one}/items/{{item_id}}", get_item, query=("include",)),
        Route("DELETE", f"{one}/items/{{item_id}}", delete_item),
    ]


def _id(call: Call) -> str:
    return call.ids["conversation_id"]
