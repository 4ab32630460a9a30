"""`spend_limit` of the organization and of a project: its budget for a calendar month.

The same row as `bessemer budget`, which also has budgets for ever, and digits beyond cents.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import msgspec

from bessemer.app import projects, spending
from bessemer.app.metering import Meter
from bessemer.app.platform import Platform
from bessemer.core.errors import InvalidInput
from bessemer.gateway.routes import Call, Route

CENT_MICRO = 10_000
_MOST_CENTS = 10**14

Cents = Annotated[int, msgspec.Meta(ge=0, le=_MOST_CENTS)]


class _Enforcement(msgspec.Struct):
    """`enforcing` once nothing is left, so that what costs something is refused."""

    status: Literal["inactive", "enforcing"]


class _Limit(msgspec.Struct):
    object: str
    threshold_amount: int
    currency: str
    enforcement: _Enforcement
    interval: Literal["month"] = "month"


class _Deleted(msgspec.Struct):
    object: str
    deleted: Literal[True] = True


class _Update(msgspec.Struct, forbid_unknown_fields=True):
    threshold_amount: Annotated[int, msgspec.Meta(ge=1, le=_MOST_CENTS)]
    currency: str
    interval: Literal["month"]


def routes(platform: Platform, meter: Meter | None) -> list[Route]:
    return [
        *_routes(platform, meter, "/v1/organization/spend_limit", "org"),
        *_routes(platform, meter, "/v1/organization/projects/{project_id}/spend_limit", "project"),
    ]


def _routes(
    platform: Platform, meter: Meter | None, path: str, scope: spending.Scope
) -> list[Route]:
    update_body = msgspec.json.Decoder(_Update)
    kind = f"{'organization' if scope == 'org' else 'project'}.spend_limit"

    async def told(call: Call) -> _Limit:
        if meter is not None:
            await meter.flush()
        found = await call.work(
            spending.get_budget,
            platform,
            call.principal,
            scope,
            "month",
            call.ids.get("project_id"),
        )
        state: Literal["inactive", "enforcing"] = "enforcing" if found.is_spent else "inactive"
        currency = await call.work(currency_of, platform)
        cents = found.limit_micro // CENT_MICRO
        return _Limit(kind, cents, currency, _Enforcement(state))

    async def change(call: Call, limit_micro: int | None) -> None:
        there = call.principal
        if "project_id" in call.ids:
            there = replace(there, project_id=call.ids["project_id"])
        await call.work(
            spending.set_budget, platform, there, scope, "month", limit_micro,
            must_be_there=limit_micro is None,
        )  # fmt: skip

    async def get(call: Call) -> None:
        """What may be spent in a calendar month; 404 while there is no limit."""
        await call.reply(await told(call))

    async def update(call: Call) -> None:
        """Limit what may be spent in a calendar month, from the next request on."""
        call.principal.require(projects.WRITE_SCOPE)
        body = await call.body(update_body)
        await call.work(check_currency, platform, body.currency)
        await change(call, body.threshold_amount * CENT_MICRO)
        await call.reply(await told(call))

    async def delete(call: Call) -> None:
        """Let any amount be spent again."""
        await change(call, None)
        await call.reply(_Deleted(f"{kind}.deleted"))

    return [Route("GET", path, get), Route("POST", path, update), Route("DELETE", path, delete)]


def currency_of(platform: Platform) -> str:
    """Of the prices in force, as OpenAI spells it."""
    return spending.card_in_force(platform).currency.upper()


def check_currency(platform: Platform, asked: str) -> None:
    """Raises InvalidInput unless prices are in it: an amount in another one says nothing."""
    ours = currency_of(platform)
    if asked != ours:
        raise InvalidInput(
            f"'currency' is {asked[:20]!r}; prices here are in {ours}.", param="currency"
        )
