"""A platform that charges: prices of whole micro-units, and what its ledger says."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from bessemer.app.platform import Platform
from bessemer.core.principal import Principal
from bessemer.ledger import hours, tables
from bessemer.ledger.counts import Counts
from bessemer.ledger.ledger import unsettled
from bessemer.ledger.rate_card import RateCard
from bessemer.ledger.reconciling import differences, unmatched
from tests.ledger.house import adopt

# A completion token costs one micro-unit; what is read is free, so that limits count answers.
CARD = RateCard.parse(
    'currency = "usd"\n[[rates]]\nmodel = "*"\nprompt = 0\ncompletion = 1_000_000\n'
)
PAYER = Principal("org", "p1", "u1", frozenset({"*"}), key_id="key_1")


class Row(NamedTuple):
    """Of one request: its state, what it was charged for, and for how much."""

    id: str
    state: str
    kind: str
    model: str
    reserved: int
    used: Counts | None
    cost: int | None
    reason: str | None


def charge(platform: Platform) -> None:
    """Put `CARD` in force."""
    adopt(platform.db, PAYER, CARD)


def rows_of(platform: Platform) -> list[Row]:
    """Every request in the order in which it was reserved, after checking that all adds up."""
    reserved, used = tables.reservations, tables.usage
    counts = [used.c[name] for name in Counts._fields]
    query = (
        sa.select(reserved, used.c.cost_micro, *counts)
        .select_from(reserved.outerjoin(used, reserved.c.id == used.c.id))
        .order_by(reserved.c.created_ms, reserved.c.id)
    )
    assert differences(platform.db) == [] and unmatched(platform.db) == []
    assert hours.differing(platform.db) == []
    with platform.db.read() as connection:
        found = connection.execute(query).all()
    open_ = {row.id for row in unsettled(platform.db)}
    assert open_ == {row.id for row in found if row.state == "open"}
    return [
        Row(
            row.id,
            row.state,
            row.kind,
            row.model,
            row.reserved_micro,
            None if row.cost_micro is None else Counts(*row[-len(counts) :]),
            row.cost_micro,
            row.reason,
        )
        for row in found
    ]
