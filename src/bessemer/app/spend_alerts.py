"""Spend alerts: who wants to know when a month's charges reach a threshold.

When one is reached is decided in the ledger, in the transaction of the charge (`ledger.alerts`). It
is then in the server's log and in `fired` of the alert, for good. No mail is sent: whoever watches
the log or asks this list tells the recipients.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from bessemer.access.tables import ORGANIZATION
from bessemer.app import audit
from bessemer.app.paging import PageRequest, read_page
from bessemer.app.platform import Platform
from bessemer.app.spending import account_of, within
from bessemer.core.database import now_ms
from bessemer.core.errors import InvalidInput, NotFound
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal
from bessemer.ledger.tables import spend_alerts, spend_firings

MAX_RECIPIENTS = 100
MAX_TEXT = 320
MOST_MICRO = 2**62


class Channel(NamedTuple):
    """Whom an alert is for."""

    recipients: Sequence[str]
    subject_prefix: str | None = None


class Fired(NamedTuple):
    """That the threshold was reached in a month, and what was charged by then."""

    month: str
    at_ms: int
    threshold_micro: int
    settled_micro: int


class SpendAlert(NamedTuple):
    """`fired` newest first."""

    id: str
    threshold_micro: int
    channel: Channel
    fired: Sequence[Fired]


def create(
    platform: Platform,
    principal: Principal,
    project_id: str | None,
    threshold_micro: int,
    channel: Channel,
) -> SpendAlert:
    """For a project, or (None) for the organization."""
    _check(threshold_micro, channel)
    with platform.db.write() as connection:
        there = within(connection, principal, project_id, write=True)
        alert = SpendAlert(new_id("alert"), threshold_micro, channel, ())
        row = {
            "id": alert.id,
            "org_id": there.org_id,
            "project_id": project_id or ORGANIZATION,
            "owner_id": there.owner_id,
            "created_ms": now_ms(),
            "account": _account(there, project_id),
            "threshold_micro": threshold_micro,
            "channel": json.dumps(channel._asdict()),
        }
        connection.execute(spend_alerts.insert().values(row))
        _record(connection, principal, "created", alert.id, project_id, None, alert)
    return alert


def list_alerts(
    platform: Platform, principal: Principal, project_id: str | None, asked: PageRequest
) -> tuple[list[SpendAlert], bool]:
    """A page of the project's, or (None) the organization's."""
    with platform.db.read() as connection:
        there = within(connection, principal, project_id)
        mine = spend_alerts.c.account == _account(there, project_id)
        rows, has_more = read_page(connection, spend_alerts, mine, asked)
        return [_alert(connection, row) for row in rows], has_more


def get(
    platform: Platform, principal: Principal, project_id: str | None, alert_id: str
) -> SpendAlert:
    """Raises NotFound."""
    with platform.db.read() as connection:
        there = within(connection, principal, project_id)
        return _read(connection, _account(there, project_id), alert_id)


def update(
    platform: Platform,
    principal: Principal,
    project_id: str | None,
    alert_id: str,
    threshold_micro: int,
    channel: Channel,
) -> SpendAlert:
    """Another threshold is reached anew, in this month too."""
    _check(threshold_micro, channel)
    with platform.db.write() as connection:
        there = within(connection, principal, project_id, write=True)
        before = _read(connection, _account(there, project_id), alert_id)
        after = before._replace(threshold_micro=threshold_micro, channel=channel)
        if after == before:
            return before
        values = {"threshold_micro": threshold_micro, "channel": json.dumps(channel._asdict())}
        mine = spend_alerts.c.id == alert_id
        connection.execute(spend_alerts.update().where(mine).values(values))
        _record(connection, principal, "updated", alert_id, project_id, before, after)
    return after


def delete(platform: Platform, principal: Principal, project_id: str | None, alert_id: str) -> None:
    """That it was reached stays written down."""
    with platform.db.write() as connection:
        there = within(connection, principal, project_id, write=True)
        before = _read(connection, _account(there, project_id), alert_id)
        connection.execute(spend_alerts.delete().where(spend_alerts.c.id == alert_id))
        _record(connection, principal, "deleted", alert_id, project_id, before, None)


def _account(there: Principal, project_id: str | None) -> str:
    return account_of(there, "org" if project_id is None else "project")


def _read(connection: sa.Connection, account: str, alert_id: str) -> SpendAlert:
    mine = (spend_alerts.c.id == alert_id) & (spend_alerts.c.account == account)
    row = connection.execute(sa.select(spend_alerts).where(mine)).first()
    if row is None:
        raise NotFound(f"there is no spend alert {alert_id[:100]!r} here", param="alert_id")
    return _alert(connection, row)


def _alert(connection: sa.Connection, row: sa.Row[Any]) -> SpendAlert:
    said = spend_firings.c
    query = sa.select(said.month, said.created_ms, said.threshold_micro, said.settled_micro)
    mine = query.where(said.alert_id == row.id).order_by(said.id.desc())
    fired = [Fired(*one) for one in connection.execute(mine)]
    return SpendAlert(row.id, row.threshold_micro, Channel(**json.loads(row.channel)), fired)


def _record(
    connection: sa.Connection,
    principal: Principal,
    verb: str,
    alert_id: str,
    project_id: str | None,
    before: SpendAlert | None,
    after: SpendAlert | None,
) -> None:
    audit.record(
        connection, principal, f"spend_alert.{verb}", alert_id,
        before=_facts(before), after=_facts(after), project_id=project_id or ORGANIZATION,
    )  # fmt: skip


def _facts(alert: SpendAlert | None) -> audit.Facts | None:
    if alert is None:
        return None
    return {"threshold_micro": alert.threshold_micro, **alert.channel._asdict()}


def _check(threshold_micro: int, channel: Channel) -> None:
    if not 0 <= threshold_micro <= MOST_MICRO:
        raise InvalidInput(
            f"a threshold of {threshold_micro:,} micro-units cannot be", param="threshold_amount"
        )
    texts = [*channel.recipients, channel.subject_prefix or "-"]
    if len(channel.recipients) > MAX_RECIPIENTS or any(not 0 < len(t) <= MAX_TEXT for t in texts):
        raise InvalidInput(
            f"'notification_channel' takes up to {MAX_RECIPIENTS} recipients and a subject prefix"
            f" of 1 to {MAX_TEXT} characters each",
            param="notification_channel",
        )
