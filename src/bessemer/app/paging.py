"""Lists in pages, as OpenAI's API turns them: a cursor is the id of an object of the list.

Ids sort by the time of their creation, so the primary key is the order and the cursor at once, and
a page costs the same however long the list is.

A cursor may be the id of an object that is not there any more: who deletes what they list, page by
page, goes on behind the last one that they deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from bessemer.core.errors import InvalidInput
from bessemer.core.ids import kind_of

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
    connection: sa.Connection,
    table: sa.Table,
    where: sa.ColumnElement[bool],
    asked: PageRequest,
    key: sa.Column[Any] | None = None,
) -> Page:
    """The rows of `table` that are `where`, in one page.

    Args:
        key: what the list is ordered by and a cursor names, where that is another's id; it has to
            be unique among these rows.

    Raises:
        InvalidInput: a cursor is no id of such an object.
    """
    named = table.c.id if key is None else key
    query = sa.select(table).where(where)
    for name, cursor in (("after", asked.after), ("before", asked.before)):
        if cursor is None:
            continue
        if not _is_place(connection, named, where, cursor):
            raise InvalidInput(f"there is no {cursor[:100]!r} in this list", param=name)
        older = (asked.order == "desc") is (name == "after")
        query = query.where(named < cursor if older else named > cursor)
    # A page before a cursor is the one that ends at it, so it is read from there backwards.
    backwards = asked.before is not None and asked.after is None
    descending = (asked.order == "desc") is not backwards
    ordered = named.desc() if descending else named.asc()
    rows = connection.execute(query.order_by(ordered).limit(asked.limit + 1)).all()
    found = rows[: asked.limit]
    return Page(found[::-1] if backwards else found, len(rows) > asked.limit)


def _is_place(
    connection: sa.Connection,
    named: sa.Column[Any],
    where: sa.ColumnElement[bool],
    cursor: str,
) -> bool:
    """Whether it is in the list, or has the form of what is."""
    ids = sa.select(named).where(where)
    if connection.execute(ids.where(named == cursor)).first() is not None:
        return True
    kind = kind_of(cursor)
    other = connection.execute(ids.limit(1)).scalar()
    return kind is not None and (other is None or kind_of(other) in (None, kind))
