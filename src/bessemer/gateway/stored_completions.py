"""Chat completions that were stored with `store: true`, and the messages that they answer."""

from __future__ import annotations

from typing import Any

import msgspec

from bessemer.app import stored_completions
from bessemer.app.items import text_of
from bessemer.app.platform import Platform
from bessemer.gateway.parameters import Metadata
from bessemer.gateway.query import PAGING
from bessemer.gateway.responses import item_list
from bessemer.gateway.routes import Call, Deleted, Route


class Update(msgspec.Struct, forbid_unknown_fields=True):
    """Null takes all metadata away."""

    metadata: Metadata | None


_update = msgspec.json.Decoder(Update)


def routes(platform: Platform) -> list[Route]:
    async def list_all(call: Call) -> None:
        """Stored completions, by `model` and `metadata[key]`."""
        found, has_more = await call.work(
            stored_completions.list_completions,
            platform,
            call.principal,
            call.query.page(order="asc"),
            model=call.query.text("model"),
            having=call.query.mapping("metadata"),
        )
        await call.reply(item_list([_shape(kept) for kept in found], has_more))

    async def get(call: Call) -> None:
        """One stored completion."""
        kept = await call.work(stored_completions.get, platform, call.principal, _id(call))
        await call.reply(_shape(kept))

    async def update(call: Call) -> None:
        """Give it other metadata."""
        labels = (await call.body(_update)).metadata or {}
        kept = await call.work(
            stored_completions.update, platform, call.principal, _id(call), labels
        )
        await call.reply(_shape(kept))

    async def delete(call: Call) -> None:
        """Forget a stored completion."""
        await call.work(stored_completions.delete, platform, call.principal, _id(call))
        await call.reply(Deleted(_id(call), "chat.completion.deleted"))

    async def messages(call: Call) -> None:
        """The messages that it answers."""
        found, has_more = await call.work(
            stored_completions.list_messages,
            platform,
            call.principal,
            _id(call),
            call.query.page(order="asc"),
        )
        await call.reply(item_list([_message(message) for message in found], has_more))

    every = "/v1/chat/completions"
    one = every + "/{completion_id}"
    return [
        Route("GET", every, list_all, query=("model", "metadata", *PAGING)),
        Route("GET", one, get),
        Route("POST", one, update),
        Route("DELETE", one, delete),
        Route("GET", f"{one}/messages", messages, query=PAGING),
    ]


def _id(call: Call) -> str:
    return call.ids["completion_id"]


def _shape(kept: stored_completions.Kept) -> dict[str, Any]:
    return {**kept.answer, "metadata": kept.labels}


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """Content in parts is told as one text, and as parts of text, a refusal too; what was null is
    left out, as the specification has it."""
    content, parts = message.get("content"), None
    if isinstance(content, list):
        parts = [{"type": "text", "text": text_of([part])} for part in content]
        content = text_of(content)
    kept = {key: value for key, value in message.items() if value is not None}
    return {"refusal": None, **kept, "content": content, "content_parts": parts}
