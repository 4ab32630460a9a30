"""Items: what was said, one by one, in a response or a conversation.

An item is a message, a call of a function, or the call's result, in OpenAI's words; its `holder`
is the response it came with or the conversation it is in. Here they are stored, found again and
turned into the messages that a model reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from bessemer.app.paging import Page, PageRequest, read_page
from bessemer.app.tables import items
from bessemer.core.database import now_ms
from bessemer.core.errors import InvalidInput, NotFound
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal
from bessemer.core.protocols import Message

Item = dict[str, Any]
Side = Literal["input", "output"]

REFERENCE = "item_reference"

# Of an item that was taken out of its conversation only the id stays: where a list may go on.
_TAKEN_OUT = ""
_IS_THERE = items.c.item != _TAKEN_OUT


def insert(
    connection: sa.Connection,
    principal: Principal,
    holder_id: str,
    side: Side,
    added: Sequence[Item],
) -> None:
    """Add items behind those that are there.

    Raises:
        InvalidInput: the holder has one of this id already.
    """
    if not added:
        return
    these = (items.c.holder_id == holder_id) & items.c.item_id.in_([item["id"] for item in added])
    check_new(connection.scalars(sa.select(items.c.item_id).where(these, _IS_THERE)), added)
    connection.execute(items.delete().where(these))  # those that were taken out before
    rows = [
        {
            "id": new_id("row"),
            "org_id": principal.org_id,
            "project_id": principal.project_id,
            "owner_id": principal.owner_id,
            "created_ms": now_ms(),
            "holder_id": holder_id,
            "item_id": item["id"],
            "side": side,
            "item": msgspec.json.encode(item).decode(),
        }
        for item in added
    ]
    connection.execute(items.insert(), rows)


def check_new(known: Iterable[str], added: Sequence[Item]) -> None:
    """Raise InvalidInput for an item whose id is known, or comes twice."""
    taken = set(known)
    for item in added:
        if item["id"] in taken:
            raise InvalidInput(
                f"Duplicate item found with id {item['id']}.",
                next_step="send only items that are new",
                param="input",
            )
        taken.add(item["id"])


def read_all(connection: sa.Connection, holder_id: str, side: Side | None = None) -> list[Item]:
    """All items of a holder, oldest first."""
    mine = (items.c.holder_id == holder_id) & _IS_THERE
    query = sa.select(items.c.item).where(mine).order_by(items.c.id)
    if side is not None:
        query = query.where(items.c.side == side)
    return [msgspec.json.decode(text) for text in connection.execute(query).scalars()]


def read_some(
    connection: sa.Connection, holder_id: str, asked: PageRequest, side: Side | None = None
) -> tuple[list[Item], bool]:
    """A page of them, and whether there are more. Cursors are the ids that clients know.

    Raises:
        InvalidInput: a cursor names nothing in this list.
    """
    mine = items.c.holder_id == holder_id
    if side is not None:
        mine &= items.c.side == side
    rows_of = sa.select(items.c.id).where(mine)
    after = asked.after and (
        connection.execute(rows_of.where(items.c.item_id == asked.after)).scalar() or asked.after
    )
    page: Page = read_page(connection, items, mine & _IS_THERE, asked._replace(after=after))
    return [msgspec.json.decode(row.item) for row in page.rows], page.has_more


def read_one(connection: sa.Connection, holder_id: str, item_id: str) -> Item:
    """Raises NotFound."""
    mine = (items.c.holder_id == holder_id) & (items.c.item_id == item_id) & _IS_THERE
    text = connection.execute(sa.select(items.c.item).where(mine)).scalar()
    if text is None:
        raise NotFound(f"Item with id '{item_id[:100]}' not found in {holder_id}.", param="item_id")
    found: Item = msgspec.json.decode(text)
    return found


def delete(connection: sa.Connection, holder_id: str) -> None:
    """All items of a holder."""
    connection.execute(items.delete().where(items.c.holder_id == holder_id))


def take_out(connection: sa.Connection, holder_id: str, item_id: str) -> None:
    """Forget one item, but not where it was: who deletes what they list goes on behind it."""
    mine = (items.c.holder_id == holder_id) & (items.c.item_id == item_id)
    connection.execute(items.update().where(mine).values(item=_TAKEN_OUT))


def resolve(connection: sa.Connection, principal: Principal, sent: Sequence[Item]) -> list[Item]:
    """The items with those that were only referred to by id, as the project's holders have them.

    Raises:
        NotFound: the project has none of this id.
    """
    return [
        _referred(connection, principal, item["id"]) if item["type"] == REFERENCE else item
        for item in sent
    ]


def messages_of(spoken: Iterable[Item], instructions: str | None) -> list[Message]:
    """What a model reads. Calls that follow a message of the assistant are a part of it.

    >>> messages_of([{"type": "function_call_output", "call_id": "c1", "output": "4"}], None)
    [{'role': 'tool', 'tool_call_id': 'c1', 'content': '4'}]
    """
    found: list[Message] = []
    if instructions:
        found.append({"role": "system", "content": instructions})
    for item in spoken:
        if item["type"] == "message":
            role = "system" if item["role"] == "developer" else item["role"]
            found.append({"role": role, "content": text_of(item["content"])})
        elif item["type"] == "function_call":
            if not found or found[-1]["role"] != "assistant":
                found.append({"role": "assistant", "content": ""})
            found[-1].setdefault("tool_calls", []).append(_call(item))
        else:
            said = text_of(item["output"])
            found.append({"role": "tool", "tool_call_id": item["call_id"], "content": said})
    return found


def check_results(spoken: Sequence[Item]) -> None:
    """Raise InvalidInput for a result that answers no call before it."""
    called = set[str]()
    for item in spoken:
        if item["type"] == "function_call":
            called.add(item["call_id"])
        elif item["type"] == "function_call_output" and item["call_id"] not in called:
            raise InvalidInput(
                "No tool call found for function call output with call_id"
                f" {item['call_id'][:100]}.",
                param="input",
            )


def text_of(content: str | Sequence[Item]) -> str:
    if isinstance(content, str):
        return content
    return "".join(
        part["refusal"] if part["type"] == "refusal" else part["text"] for part in content
    )


def _call(item: Item) -> Message:
    function = {"name": item["name"], "arguments": item["arguments"]}
    return {"id": item["call_id"], "type": "function", "function": function}


def _referred(connection: sa.Connection, principal: Principal, item_id: str) -> Item:
    mine = (items.c.project_id == principal.project_id) & (items.c.item_id == item_id) & _IS_THERE
    query = sa.select(items.c.item).where(mine).order_by(items.c.id.desc()).limit(1)
    text = connection.execute(query).scalar()
    if text is None:
        raise NotFound(f"Item with id '{item_id[:100]}' not found.", param="input")
    found: Item = msgspec.json.decode(text)
    return found
