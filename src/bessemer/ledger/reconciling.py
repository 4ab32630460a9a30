"""Adding everything up again: the balances against the rows they are sums of."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from bessemer.core.database import Database
from bessemer.ledger import tables
from bessemer.ledger.budgets import Balance
from bessemer.ledger.entries import accounts_of


class Difference(NamedTuple):
    """An account's month, as it is stored and as its rows add up."""

    account: str
    month: str
    stored: Balance
    counted: Balance


def differences(db: Database) -> list[Difference]:
    """Where balances and rows disagree: nowhere, unless somebody else wrote into the database.

    Reads every reservation and its usage row once; what has no counterpart is in `unmatched`.
    """
    reserved, used = tables.reservations, tables.usage
    opened = sa.case((reserved.c.state == "open", reserved.c.reserved_micro), else_=0)
    sums = (
        sa.select(
            reserved.c.project_id,
            reserved.c.org_id,
            reserved.c.month,
            sa.func.sum(sa.func.coalesce(used.c.cost_micro, 0)),
            sa.func.sum(opened),
        )
        .select_from(reserved.outerjoin(used, reserved.c.id == used.c.id))
        .group_by(reserved.c.project_id, reserved.c.org_id, reserved.c.month)
    )
    counted: dict[tuple[str, str], Balance] = {}
    with db.read() as connection:
        for project_id, org_id, month, settled, held in connection.execute(sums):
            for account in accounts_of(project_id, org_id):
                before = counted.get((account, month), Balance())
                counted[account, month] = before.plus(int(settled), int(held))
        stored = {
            (row.account, row.month): Balance(row.settled_micro, row.held_micro)
            for row in connection.execute(sa.select(tables.balances))
        }
    return [
        Difference(account, month, was, adds_up)
        for account, month in sorted(stored.keys() | counted.keys())
        if (was := stored.get((account, month), Balance()))
        != (adds_up := counted.get((account, month), Balance()))
    ]


def unmatched(db: Database) -> list[str]:
    """Ids of requests whose state and usage disagree: a charge without a settled reservation, or a
    settled reservation without a charge. There are none, unless somebody else wrote.
    """
    reserved, used = tables.reservations, tables.usage
    both = reserved.c.id == used.c.id
    uncharged = (
        sa.select(reserved.c.id)
        .select_from(reserved.outerjoin(used, both))
        .where((reserved.c.state == "settled") != used.c.id.is_not(None))
    )
    unreserved = (
        sa.select(used.c.id)
        .select_from(used.outerjoin(reserved, both))
        .where(reserved.c.id.is_(None))
    )
    with db.read() as connection:
        return sorted(connection.scalars(sa.union_all(uncharged, unreserved)))
