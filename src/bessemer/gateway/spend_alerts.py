"""`spend_alerts` of the organization and of a project: reached once a month, and then in `fired`.

`fired` is an extension: OpenAI sends a mail, and this server sends none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from bessemer.app import projects, spend_alerts
from bessemer.app.metering import Meter
from bessemer.app.platform import Platform
from bessemer.gateway.query import PAGING
from bessemer.gateway.routes import Call, Deleted, ListShape, Route
from bessemer.gateway.spend_limits import CENT_MICRO, Cents, check_currency, currency_of

_AFTER = "/{alert_id}"


class _Channel(msgspec.Struct, forbid_unknown_fields=True):
    recipients: list[str]
    type: Literal["email"]
    subject_prefix: str | None = None


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    threshold_amount: Cents
    currency: str
    interval: Literal["month"]
    notification_channel: _Channel


class _Fired(msgspec.Struct):
    """Amounts in cents, rounded down."""

    month: str
    at: int
    threshold_amount: int
    spent_amount: int


class _Alert(msgspec.Struct):
    id: str
    object: str
    threshold_amount: int
    currency: str
    notification_channel: _Channel
    fired: Sequence[_Fired]
    interval: Literal["month"] = "month"


def routes(platform: Platform, meter: Meter | None) -> list[Route]:
    return [
        *_routes(platform, meter, "/v1/organization/spend_alerts", "organization.spend_alert"),
        *_routes(
            platform,
            meter,
            "/v1/organization/projects/{project_id}/spend_alerts",
            "project.spend_alert",
        ),
    ]


def _routes(platform: Platform, meter: Meter | None, path: str, kind: str) -> list[Route]:
    decoder = msgspec.json.Decoder(_Body)

    async def settled() -> None:
        """What was answered is charged, so that an alert that it reached is told."""
        if meter is not None:
            await meter.flush()

    async def told(call: Call, found: Sequence[spend_alerts.SpendAlert]) -> list[_Alert]:
        currency = await call.work(currency_of, platform)
        return [_shape(one, kind, currency) for one in found]

    async def read(call: Call) -> tuple[int, spend_alerts.Channel]:
        call.principal.require(projects.WRITE_SCOPE)
        body = await call.body(decoder)
        await call.work(check_currency, platform, body.currency)
        channel = body.notification_channel
        return body.threshold_amount * CENT_MICRO, spend_alerts.Channel(
            channel.recipients, channel.subject_prefix
        )

    async def create(call: Call) -> None:
        """Be told once a month when charges reach `threshold_amount`, in cents."""
        threshold, channel = await read(call)
        made = await call.work(
            spend_alerts.create,
            platform,
            call.principal,
            call.ids.get("project_id"),
            threshold,
            channel,
        )
        await call.reply((await told(call, [made]))[0])

    async def list_all(call: Call) -> None:
        """Spend alerts, and when each was reached."""
        await settled()
        found, has_more = await call.work(
            spend_alerts.list_alerts,
            platform,
            call.principal,
            call.ids.get("project_id"),
            call.query.page(order="asc"),
        )
        await call.reply(ListShape.of(await told(call, found), has_more))

    async def get(call: Call) -> None:
        """One of them."""
        await settled()
        found = await call.work(
            spend_alerts.get,
            platform,
            call.principal,
            call.ids.get("project_id"),
            call.ids["alert_id"],
        )
        await call.reply((await told(call, [found]))[0])

    async def update(call: Call) -> None:
        """Give it another threshold or recipients; a new threshold is reached anew."""
        threshold, channel = await read(call)
        found = await call.work(
            spend_alerts.update,
            platform,
            call.principal,
            call.ids.get("project_id"),
            call.ids["alert_id"],
            threshold,
            channel,
        )
        await call.reply((await told(call, [found]))[0])

    async def delete(call: Call) -> None:
        """Be told no more."""
        await call.work(
            spend_alerts.delete,
            platform,
            call.principal,
            call.ids.get("project_id"),
            call.ids["alert_id"],
        )
        await call.reply(Deleted(call.ids["alert_id"], f"{kind}.deleted"))

    return [
        Route("POST", path, create),
        Route("GET", path, list_all, query=(*PAGING, "before")),
        Route("GET", path + _AFTER, get),
        Route("POST", path + _AFTER, update),
        Route("DELETE", path + _AFTER, delete),
    ]


def _shape(alert: spend_alerts.SpendAlert, kind: str, currency: str) -> _Alert:
    fired = [
        _Fired(
            one.month,
            one.at_ms // 1000,
            one.threshold_micro // CENT_MICRO,
            one.settled_micro // CENT_MICRO,
        )
        for one in alert.fired
    ]
    channel = _Channel(list(alert.channel.recipients), "email", alert.channel.subject_prefix)
    return _Alert(alert.id, kind, alert.threshold_micro // CENT_MICRO, currency, channel, fired)
