"""What was used and what it cost, and the requests that a crash left open.

Nothing closes those by itself: nobody knows whether their answers were delivered. Somebody settles
them, if the counts are known, or releases them and says why.
"""

from __future__ import annotations

from dataclasses import replace

from bessemer.app.platform import Platform
from bessemer.core.errors import NotFound
from bessemer.core.principal import Principal
from bessemer.ledger import usage as ledger_usage
from bessemer.ledger.counts import Counts
from bessemer.ledger.entries import Charge, Reservation
from bessemer.ledger.ledger import Ledger, unsettled
from bessemer.ledger.rate_card import money
from bessemer.ledger.usage import Bucket, Dimension, Sum, UsageQuery, Width

# With what a face needs of the ledger, which it does not import.
__all__ = [
    "READ_SCOPE",
    "WRITE_SCOPE",
    "Bucket",
    "Charge",
    "Counts",
    "Dimension",
    "Reservation",
    "Sum",
    "UsageQuery",
    "Width",
    "list_unsettled",
    "money",
    "read_usage",
    "release",
    "settle",
]  # fmt: skip

READ_SCOPE = "usage:read"
WRITE_SCOPE = "org:write"


def read_usage(platform: Platform, principal: Principal, query: UsageQuery) -> list[Bucket]:
    """Of the principal's organization, whatever the query says of it; see `ledger.usage.usage`."""
    principal.require(READ_SCOPE)
    return ledger_usage.usage(platform.db, replace(query, org_id=principal.org_id))


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
