"""Usage by the hour: sums of usage rows, kept in the transactions that write those rows.

What is asked for by hours and days is read from here, and costs what there were callers, models and
hours, however many requests those made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from bessemer.core.database import Database
from bessemer.ledger import tables
from bessemer.ledger.counts import Counts
from bessemer.ledger.statements import Statement

HOUR_MS = 3_600_000

KEY = ("org_id", "hour_ms", "project_id", "owner_id", "key_id", "model", "kind", "card")
SUMS = ("requests", *Counts._fields, "cost_micro")

Key = tuple[Any, ...]
"""The values of `KEY`, in its order."""

_ROWS = tables.usage_hours
# Parameters have names of their own, since those of columns are taken for values to set.
_ADD = (
    _ROWS.update()
    .where(*(_ROWS.c[name] == sa.bindparam(f"of_{name}") for name in KEY))
    .values({name: _ROWS.c[name] + sa.bindparam(f"more_{name}") for name in SUMS})
)
_ADD_AGAIN = Statement(_ADD)


def add(connection: sa.Connection, rows: Iterable[Mapping[str, Any]], known: set[Key]) -> None:
    """Add new usage rows to their hours.

    Args:
        known: hours that have a row already; those of `rows` are added to it, and old ones leave.
    """
    added: dict[Key, list[int]] = {}
    for row in rows:
        _count(added, row)
    if not added:
        return
    again = [key for key in added if key in known]
    _ADD_AGAIN.run(connection, [_more(key, added[key]) for key in again])
    for key in added.keys() - set(again):
        if not connection.execute(_ADD, _more(key, added[key])).rowcount:
            values = dict(zip((*KEY, *SUMS), (*key, *added[key]), strict=True))
            connection.execute(_ROWS.insert().values(values))
    newest = max(key[1] for key in added)
    known |= added.keys()
    known -= {key for key in known if key[1] < newest}


def differing(db: Database) -> list[Key]:
    """Hours that are not the sums of their rows: none, unless somebody else wrote."""
    rows = tables.usage.c
    names = [name for name in (*KEY, *SUMS[1:]) if name != "hour_ms"]
    query = sa.select(rows.created_ms, *(rows[name] for name in names))
    counted: dict[Key, list[int]] = {}
    with db.read() as connection:
        for row in connection.execute(query).mappings():
            _count(counted, row)
        found = connection.execute(sa.select(*(_ROWS.c[name] for name in (*KEY, *SUMS))))
        stored = {tuple(row[: len(KEY)]): list(row[len(KEY) :]) for row in found}
    return sorted(
        key for key in stored.keys() | counted.keys() if stored.get(key) != counted.get(key)
    )


def _count(sums: dict[Key, list[int]], row: Mapping[Any, Any]) -> None:
    hour_ms = row["created_ms"] - row["created_ms"] % HOUR_MS
    values = {**row, "hour_ms": hour_ms, "key_id": row["key_id"] or ""}
    found = sums.setdefault(tuple(values[name] for name in KEY), [0] * len(SUMS))
    for place, more in enumerate((1, *(row[name] for name in SUMS[1:]))):
        found[place] += more


def _more(key: Key, sums: list[int]) -> dict[str, Any]:
    of = {f"of_{name}": value for name, value in zip(KEY, key, strict=True)}
    return of | {f"more_{name}": value for name, value in zip(SUMS, sums, strict=True)}
