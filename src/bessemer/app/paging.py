"""Lists in pages, as OpenAI's API turns them: a cursor is the id of an object of the list.

Ids sort by the time of their creation, so the primary key is the order and the cursor at once, and
a page costs the same however long the list is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from bessemer.core.errors import InvalidInput

Order = Literal["asc", "desc"]


class PageRequest(NamedTuple):
    """At most `limit` objects that come after the one with the id `after`, or before `before`."""

    limit: int = 20
    order: Order = "desc"
    after: str | None = None
    before: str | None = None


class Page(NamedTuple):
    """Rows in the asked order, and whether there are more behind the last one."""

    rows: Sequence[sa.Row[Any]]
    has_more: bool


def read_page(
    connection: sa.Connection, table: sa.Table, where: sa.ColumnElement[bool], asked: PageRequest
) -> Page:
    """The rows of `table` that are `where`, in one page.

    Raises:
        InvalidInput: a cursor names nothing in this list.
    """
    query = sa.select(table).where(where)
    for name, cursor in (("after", asked.after), ("before", asked.before)):
        if cursor is None:
            continue
        known = connection.execute(sa.select(table.c.id).where(where, table.c.id == cursor)).first()
        if known is None:
            raise InvalidInput(f"there is no {cursor[:100]!r} in this list", param=name)
        older = (asked.order == "desc") is (name == "after")
        query = query.where(table.c.id < cursor if older else table.c.id > cursor)
    # A page before a cursor is the one that ends at it, so it is read from there backwards.
    backwards = asked.before is not None and asked.after is None
    descending = (asked.order == "desc") is not backwards
    key = table.c.id.desc() if descending else table.c.id.asc()
    rows = connection.execute(query.order_by(key).limit(asked.limit + 1)).all()
    found = rows[: asked.limit]
    return Page(found[::-1] if backwards else found, len(rows) > asked.limit)
