"""What work cost: sums of the charges themselves, so they are right to the micro-unit.

A charge is rounded once, for its whole request (`ledger.rate_card`), so the lines of a bill are
models with kinds of work, which share no request, and not classes of tokens, which would.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from bessemer.app.platform import Platform
from bessemer.app.usage import read_page
from bessemer.core.principal import Principal
from bessemer.ledger.cards import Cards
from bessemer.ledger.counts import Counts
from bessemer.ledger.usage import Bucket, Dimension, Sum, UsageQuery

Group = Literal["project_id", "api_key_id", "line_item"]
Unit = Literal["tokens", "duration_seconds"]

_DIMENSIONS: dict[Group, tuple[Dimension, ...]] = {
    "project_id": ("project",),
    "api_key_id": ("key",),
    "line_item": ("model", "kind"),
}


class Cost(NamedTuple):
    """Of one group in one currency. `quantity` is None where no one unit says it."""

    group: tuple[str | None, ...]
    currency: str
    cost_micro: int
    quantity: float | None
    unit: Unit | None


class CostBucket(NamedTuple):
    """From `start_ms` on, before `end_ms`; one cost for each group that had any."""

    start_ms: int
    end_ms: int
    costs: Sequence[Cost]


class CostPage(NamedTuple):
    """`next_ms` is where the next page begins; None after the last."""

    buckets: Sequence[CostBucket]
    next_ms: int | None


def read_costs(
    platform: Platform,
    principal: Principal,
    query: UsageQuery,
    groups: Sequence[Group],
    limit: int,
    from_ms: int | None = None,
) -> CostPage:
    """As `usage.read_page`, with the query's groups replaced by these."""
    dimensions = [name for group in groups for name in _DIMENSIONS[group]]
    asked = replace(query, group_by=(*dimensions, "card"))
    buckets, next_ms = read_page(platform, principal, asked, limit, from_ms)
    cards = {one.group[-1] for bucket in buckets for one in bucket.sums}
    currencies = _currencies(platform, [card for card in cards if card is not None])
    return CostPage([_bucket(bucket, groups, currencies) for bucket in buckets], next_ms)


def _currencies(platform: Platform, digests: Iterable[str]) -> dict[str | None, str]:
    cards = Cards()
    with platform.db.read() as connection:
        return {digest: cards.of(connection, digest).currency for digest in digests}


def _bucket(
    bucket: Bucket, groups: Sequence[Group], currencies: dict[str | None, str]
) -> CostBucket:
    """Sums of several cards in one currency are one sum."""
    found: dict[tuple[tuple[str | None, ...], str], Sum] = {}
    for one in bucket.sums:
        key = _names(one.group[:-1], groups), currencies[one.group[-1]]
        before = found.get(key, Sum((), 0, Counts(), 0))
        counts = Counts(*map(sum, zip(before.counts, one.counts, strict=True)))
        found[key] = Sum(
            (), before.requests + one.requests, counts, before.cost_micro + one.cost_micro
        )
    costs = [
        Cost(names, currency, one.cost_micro, *_quantity(one.counts))
        for (names, currency), one in found.items()
    ]
    return CostBucket(bucket.start_ms, bucket.end_ms, costs)


def _names(values: tuple[str | None, ...], groups: Sequence[Group]) -> tuple[str | None, ...]:
    """One for each group: a line item is `smollm2, chat`."""
    left, names = list(values), []
    for group in groups:
        taken = [left.pop(0) for _ in _DIMENSIONS[group]]
        names.append(taken[0] if len(taken) == 1 else ", ".join(map(str, taken)))
    return tuple(names)


def _quantity(used: Counts) -> tuple[float | None, Unit | None]:
    tokens = used.tokens + used.training
    if not used.device_ms:
        return tokens, "tokens"
    return (None, None) if tokens else (used.device_ms / 1000, "duration_seconds")
