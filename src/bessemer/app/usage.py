"""What was used and what it cost, and the requests that a crash left open.

Nothing closes those by itself: nobody knows whether their answers were delivered. Somebody settles
them, if the counts are known, or releases them and says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from bessemer.app.platform import Platform
from bessemer.core.errors import InvalidInput, NotFound
from bessemer.core.principal import Principal
from bessemer.ledger import usage as ledger_usage
from bessemer.ledger.counts import Counts
from bessemer.ledger.entries import Charge, Kind, Reservation
from bessemer.ledger.ledger import Ledger, unsettled
from bessemer.ledger.rate_card import money
from bessemer.ledger.usage import WIDTH_MS, Bucket, Dimension, Sum, UsageQuery, Width

# With what a face needs of the ledger, which it does not import.
__all__ = [
    "COMPLETIONS",
    "EMBEDDINGS",
    "ORG_SCOPE",
    "READ_SCOPE",
    "WIDTH_MS",
    "WRITE_SCOPE",
    "Bucket",
    "Charge",
    "Counts",
    "Dimension",
    "Reservation",
    "Sum",
    "UsagePage",
    "UsageQuery",
    "Width",
    "list_unsettled",
    "money",
    "read_page",
    "read_usage",
    "release",
    "settle",
]  # fmt: skip

READ_SCOPE = "usage:read"
ORG_SCOPE = "org:read"
WRITE_SCOPE = "org:write"

# Kinds of work that answer a prompt, and that give vectors. Training, and what it samples for
# itself, are neither: they are in costs.
COMPLETIONS: Sequence[Kind] = ("chat", "completion", "response", "batch", "evaluation")
EMBEDDINGS: Sequence[Kind] = ("embedding", "batch_embedding")


class UsagePage(NamedTuple):
    """Buckets in order, cut to the times that were asked for, and where the next page begins."""

    buckets: list[Bucket]
    next_ms: int | None


def read_usage(platform: Platform, principal: Principal, query: UsageQuery) -> list[Bucket]:
    """Of the principal's organization, whatever the query says of it; see `ledger.usage.usage`."""
    principal.require(ORG_SCOPE)
    return ledger_usage.usage(platform.db, replace(query, org_id=principal.org_id))


def read_page(
    platform: Platform,
    principal: Principal,
    query: UsageQuery,
    limit: int,
    from_ms: int | None = None,
) -> UsagePage:
    """At most `limit` buckets of the query, from its start or from a `next_ms` on.

    Pages together are the whole: each bucket is in one of them, and is read for it alone.

    Raises:
        InvalidInput: `from_ms` begins no bucket of the query; else as `ledger.usage.usage`.
    """
    width_ms = WIDTH_MS[query.width]
    start_ms = query.start_ms if from_ms is None else from_ms
    if from_ms is not None and (from_ms % width_ms or not query.start_ms < from_ms < query.end_ms):
        raise InvalidInput(
            "this page is none of this query; pages are asked for with the query that named them",
            param="page",
        )
    end_ms = min(query.end_ms, start_ms - start_ms % width_ms + limit * width_ms)
    part = replace(query, start_ms=start_ms, end_ms=end_ms)
    cut = [
        bucket._replace(start_ms=max(bucket.start_ms, start_ms), end_ms=min(bucket.end_ms, end_ms))
        for bucket in read_usage(platform, principal, part)
    ]
    return UsagePage(cut, end_ms if end_ms < query.end_ms else None)


def list_unsettled(
    platform: Platform, principal: Principal, before_ms: int | None = None
) -> list[Reservation]:
    """The organization's open reservations, oldest first; of a running server, those in flight
    too, unless they were made before `before_ms`."""
    principal.require(READ_SCOPE)
    found = unsettled(platform.db, before_ms)
    return [row for row in found if row.org_id == principal.org_id]


def settle(platform: Platform, principal: Principal, request_id: str, used: Counts) -> Charge:
    """Charge a request that was left open. Raises as `Ledger.settle`."""
    _find_open(platform, principal, request_id)
    with Ledger(platform.db) as ledger:
        return ledger.settle(request_id, used).result()


def release(platform: Platform, principal: Principal, request_id: str, reason: str) -> Reservation:
    """Charge nothing for a request that was left open. Raises as `Ledger.release`."""
    _find_open(platform, principal, request_id)
    with Ledger(platform.db) as ledger:
        return ledger.release(request_id, principal.owner_id, reason).result()


def _find_open(platform: Platform, principal: Principal, request_id: str) -> None:
    principal.require(WRITE_SCOPE)
    if all(row.id != request_id for row in list_unsettled(platform, principal)):
        raise NotFound(
            f"there is no open request {request_id[:100]!r}", next_step="bessemer usage unsettled"
        )
