"""Spend alerts: said once a month, when what was charged to an account reaches a threshold.

The charge that reaches it and the row that says so are one transaction, so an alert is never lost
by a crash and never said twice, however many requests pass the threshold at the same time. A
threshold that is changed is another one, which is said again when it is reached. One that is below
what was charged already is said at the next charge.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import sqlalchemy as sa

from bessemer.core.ids import new_id
from bessemer.ledger import tables
from bessemer.ledger.budgets import Balance


class Alert(NamedTuple):
    """What of a row decides whether it is said."""

    id: str
    org_id: str
    project_id: str
    owner_id: str
    account: str
    threshold_micro: int

    def key(self, month: str) -> Key:
        return self.id, month, self.threshold_micro


Key = tuple[str, str, int]
"""What is said once: an alert, a month, a threshold."""


class Firing(NamedTuple):
    """That an alert was said."""

    alert_id: str
    account: str
    month: str
    threshold_micro: int
    settled_micro: int


def alerts_of(connection: sa.Connection, accounts: Collection[str]) -> list[Alert]:
    """All alerts of these accounts."""
    rows = tables.spend_alerts.c
    columns = [rows[name] for name in Alert._fields]
    query = sa.select(*columns).where(rows.account.in_(accounts)).order_by(rows.id)
    return [Alert(*row) for row in connection.execute(query)]


def fired_of(connection: sa.Connection, alerts: Collection[Alert]) -> set[Key]:
    """What of them was said."""
    if not alerts:
        return set()
    rows = tables.spend_firings.c
    query = sa.select(rows.alert_id, rows.month, rows.threshold_micro)
    found = connection.execute(query.where(rows.alert_id.in_({alert.id for alert in alerts})))
    return {(alert_id, month, threshold) for alert_id, month, threshold in found}


def fire(
    connection: sa.Connection, alert: Alert, month: str, balance: Balance, at_ms: int
) -> Firing:
    """Write down that the account reached the alert's threshold."""
    firing = Firing(alert.id, alert.account, month, alert.threshold_micro, balance.settled_micro)
    row = {
        "id": new_id("firing"),
        "org_id": alert.org_id,
        "project_id": alert.project_id,
        "owner_id": alert.owner_id,
        "created_ms": at_ms,
        **firing._asdict(),
    }
    connection.execute(tables.spend_firings.insert().values(row))
    return firing
