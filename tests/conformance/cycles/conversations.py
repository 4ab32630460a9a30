"""Conversations and their items."""

from __future__ import annotations

from typing import Any

from tests.conformance.cycle import Desk, cycle, every, gone, ids


def message(text: str) -> Any:
    return {"type": "message", "role": "user", "content": text}


@cycle(
    "POST /conversations",
    "GET /conversations/{conversation_id}",
    "POST /conversations/{conversation_id}",
    "DELETE /conversations/{conversation_id}",
)
async def conversations(desk: Desk) -> None:
    here = desk.client.conversations
    made = await here.create(metadata={"run": desk.word}, items=[message("Hi")])
    assert (await here.retrieve(made.id)).metadata == {"run": desk.word}
    await here.update(made.id, metadata={"run": "another"})
    assert (await here.retrieve(made.id)).metadata == {"run": "another"}
    answer = await desk.client.responses.create(
        model=desk.model, input="And?", conversation=made.id, max_output_tokens=16
    )
    assert answer.output[0].id in await ids(here.items.list(made.id)), "it remembers"
    await here.delete(made.id)
    await gone(here.retrieve(made.id))


@cycle(
    "POST /conversations/{conversation_id}/items",
    "GET /conversations/{conversation_id}/items",
    "GET /conversations/{conversation_id}/items/{item_id}",
    "DELETE /conversations/{conversation_id}/items/{item_id}",
)
async def conversation_items(desk: Desk) -> None:
    made = await desk.client.conversations.create()
    items = desk.client.conversations.items
    assert await every(items.list(made.id)) == []
    added = (await items.create(made.id, items=[message("one"), message("two")])).data
    listed = await ids(items.list(made.id, order="asc", limit=1))
    assert listed == [item.id for item in added]
    first = listed[0]
    found = await items.retrieve(first, conversation_id=made.id)
    assert found.content[0].text == "one"
    await items.delete(first, conversation_id=made.id)
    await gone(items.retrieve(first, conversation_id=made.id))
    assert await ids(items.list(made.id)) == listed[1:]
