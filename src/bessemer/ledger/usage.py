"""What was used: sums by minute, hour or day, in groups, of what matches.

Sums are of integers, so the parts of any division add up to the whole exactly. A request is in the
bucket in which it was reserved, the one its budget and its price are of; a bucket that has just
ended still grows by the requests that are in flight.

Hours and days are read from the sums that `hours` keeps; minutes, and the parts of hours at the
two ends of a query, from the rows themselves, by the index of their time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import sqlalchemy as sa

from bessemer.core.database import Database
from bessemer.core.errors import InvalidInput
from bessemer.ledger import tables
from bessemer.ledger.counts import Counts
from bessemer.ledger.hours import HOUR_MS, SUMS

Width = Literal["minute", "hour", "day"]
Dimension = Literal["project", "user", "key", "model", "kind", "batch", "card"]

WIDTH_MS: dict[Width, int] = {"minute": 60_000, "hour": HOUR_MS, "day": 86_400_000}
MOST_BUCKETS = 1500  # a day of minutes, two months of hours, four years of days


def _literal(word: str) -> sa.ColumnElement[str]:
    return sa.literal_column(f"'{word}'")


_COLUMNS: dict[Dimension, str] = {
    "project": "project_id",
    "user": "owner_id",
    "key": "key_id",
    "model": "model",
    "kind": "kind",
    "card": "card",
}
# Literals, since PostgreSQL groups by an expression only where it is the same to the letter.
_BATCHES = [_literal("batch"), _literal("batch_embedding")]
_TRUE, _FALSE = _literal("true"), _literal("false")


@dataclass(frozen=True)
class UsageQuery:
    """Which rows, and how they are put together.

    `only` holds, for each dimension to filter by, the values to keep; an empty collection keeps
    none. `group_by` without a dimension gives one sum a bucket.
    """

    org_id: str
    start_ms: int  # Unix milliseconds, included
    end_ms: int  # excluded
    width: Width = "day"
    group_by: tuple[Dimension, ...] = ()
    only: Mapping[Dimension, Collection[str]] = field(default_factory=dict)


class Sum(NamedTuple):
    """Of one group: the values of `group_by` in its order (a key may be None), and what it used."""

    group: tuple[str | None, ...]
    requests: int
    counts: Counts
    cost_micro: int


class Bucket(NamedTuple):
    """A stretch of time, aligned to UTC. `sums` is empty where nothing was used."""

    start_ms: int
    end_ms: int
    sums: tuple[Sum, ...]


def usage(db: Database, query: UsageQuery) -> list[Bucket]:
    """Every bucket from the start to the end, in order, those without usage included.

    The first and the last hold only what is within the query's times.

    Raises:
        InvalidInput: a width or dimension that is none, no time between start and end, or more than
            `MOST_BUCKETS` buckets.
    """
    starts = _starts(query)
    sums: dict[int, dict[tuple[Any, ...], list[int]]] = {}
    with db.read() as connection:
        for statement in _statements(query):
            for at_ms, *rest in connection.execute(statement):
                found = sums.setdefault(at_ms, {})
                one = found.setdefault(tuple(rest[len(SUMS) :]), [0] * len(SUMS))
                for place, more in enumerate(rest[: len(SUMS)]):
                    one[place] += int(more)  # PostgreSQL's sums of big integers are decimals
    width_ms = WIDTH_MS[query.width]
    return [
        Bucket(start, start + width_ms, tuple(_sums(query, sums.get(start, {}))))
        for start in starts
    ]


def _statements(query: UsageQuery) -> Iterator[sa.Select[Any]]:
    """Of which the sums together are the answer: of hours, and of the rows that are in none."""
    rows, hours = tables.usage, tables.usage_hours
    first_ms = query.start_ms + -query.start_ms % HOUR_MS
    last_ms = query.end_ms - query.end_ms % HOUR_MS
    if query.width == "minute" or last_ms <= first_ms:
        yield _statement(query, rows, rows.c.created_ms, query.start_ms, query.end_ms)
        return
    yield _statement(query, hours, hours.c.hour_ms, first_ms, last_ms)
    for start_ms, end_ms in ((query.start_ms, first_ms), (last_ms, query.end_ms)):
        if start_ms < end_ms:
            yield _statement(query, rows, rows.c.created_ms, start_ms, end_ms)


def _statement(
    query: UsageQuery, table: sa.Table, time: sa.Column[Any], start_ms: int, end_ms: int
) -> sa.Select[Any]:
    at = (time - time % sa.literal_column(str(WIDTH_MS[query.width]))).label("at")
    of = {"requests": sa.func.count()} if table is tables.usage else {}
    sums = [of.get(name, sa.func.sum(table.c.get(name))) for name in SUMS]
    groups = [_column(table, name).label(f"by_{name}") for name in query.group_by]
    chosen = [_column(table, name).in_(list(values)) for name, values in query.only.items()]
    return (
        sa.select(at, *sums, *groups)
        .where(table.c.org_id == query.org_id, time >= start_ms, time < end_ms, *chosen)
        .group_by(at, *groups)
    )


def _column(table: sa.Table, name: Dimension) -> sa.ColumnElement[Any]:
    if name == "batch":
        return sa.case((table.c.kind.in_(_BATCHES), _TRUE), else_=_FALSE)
    column = table.c[_COLUMNS[name]]
    return sa.func.coalesce(column, _literal("")) if name == "key" else column


def _sums(query: UsageQuery, found: Mapping[tuple[Any, ...], list[int]]) -> Iterator[Sum]:
    for group in sorted(found):
        requests, *counts, cost_micro = found[group]
        named = zip(query.group_by, group, strict=True)
        shown = tuple(None if name == "key" and not value else value for name, value in named)
        yield Sum(shown, requests, Counts(*counts), cost_micro)


def _starts(query: UsageQuery) -> range:
    if query.width not in WIDTH_MS:
        raise InvalidInput(f"a bucket is a {' or '.join(WIDTH_MS)}, not {query.width!r}",
                           param="width")  # fmt: skip
    for name in (*query.group_by, *query.only):
        if name not in get_args(Dimension):
            raise InvalidInput(
                f"usage has no dimension {name!r}; it has: {', '.join(get_args(Dimension))}"
            )
    if query.end_ms <= query.start_ms:
        raise InvalidInput(f"from {query.start_ms} to {query.end_ms} there is no time")
    width_ms = WIDTH_MS[query.width]
    starts = range(query.start_ms - query.start_ms % width_ms, query.end_ms, width_ms)
    if len(starts) > MOST_BUCKETS:
        raise InvalidInput(
            f"that is {len(starts):,} buckets of a {query.width}; at most {MOST_BUCKETS:,} are"
            " given at once",
            next_step="ask for wider buckets, or a part of the time",
        )
    return starts
