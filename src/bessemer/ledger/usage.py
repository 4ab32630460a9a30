"""What was used: sums by minute, hour or day, in groups, of what matches.

Sums are of integers, so the parts of any division add up to the whole exactly. A request is in the
bucket in which it was reserved, the one its budget and its price are of; a bucket that has just
ended still grows by the requests that are in flight.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import sqlalchemy as sa

from bessemer.core.database import Database
from bessemer.core.errors import InvalidInput
from bessemer.ledger import tables
from bessemer.ledger.counts import Counts

Width = Literal["minute", "hour", "day"]
Dimension = Literal["project", "user", "key", "model", "kind", "batch"]

WIDTH_MS: dict[Width, int] = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000}
MOST_BUCKETS = 1500  # a day of minutes, two months of hours, four years of days

_COLUMNS: dict[Dimension, sa.ColumnElement[Any]] = {
    "project": tables.usage.c.project_id,
    "user": tables.usage.c.owner_id,
    "key": tables.usage.c.key_id,
    "model": tables.usage.c.model,
    "kind": tables.usage.c.kind,
    "batch": sa.case((tables.usage.c.kind == "batch", "true"), else_="false"),
}


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
    row, width_ms = tables.usage.c, WIDTH_MS[query.width]
    at = (row.created_ms - row.created_ms % width_ms).label("at")
    groups = [_COLUMNS[name] for name in query.group_by]
    counts = [sa.func.sum(row[name]) for name in Counts._fields]
    chosen = [_COLUMNS[name].in_(list(values)) for name, values in query.only.items()]
    statement = (
        sa.select(at, sa.func.count(), sa.func.sum(row.cost_micro), *counts, *groups)
        .where(row.org_id == query.org_id, *chosen)
        .where(row.created_ms >= query.start_ms, row.created_ms < query.end_ms)
        .group_by(at, *groups)
        .order_by(at, *groups)
    )
    sums: dict[int, list[Sum]] = {}
    with db.read() as connection:
        for start_ms, requests, cost, *rest in connection.execute(statement):
            # PostgreSQL's sums of big integers are decimals.
            used = Counts(*map(int, rest[: len(counts)]))
            group = tuple(rest[len(counts) :])
            sums.setdefault(start_ms, []).append(Sum(group, requests, used, int(cost)))
    return [Bucket(start, start + width_ms, tuple(sums.get(start, ()))) for start in starts]


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
