"""Budgets: how much a project or an organization may spend in a calendar month, or at all.

What a budget limits is what was settled plus what is held, so requests that run at the same time
cannot pass it together. Months are UTC's, and a request belongs to the one it was reserved in.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple, get_args

import sqlalchemy as sa

from bessemer.core.database import now_ms
from bessemer.core.errors import BudgetExceeded, InvalidInput
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal
from bessemer.ledger import tables
from bessemer.ledger.entries import accounts_of
from bessemer.ledger.rate_card import money

Scope = Literal["project", "org"]
Period = Literal["month", "total"]

Limits = Mapping[tuple[str, Period], int]


class Balance(NamedTuple):
    """Of an account: what was charged, and what open reservations hold."""

    settled_micro: int = 0
    held_micro: int = 0

    def plus(self, settled_micro: int = 0, held_micro: int = 0) -> Balance:
        return Balance(self.settled_micro + settled_micro, self.held_micro + held_micro)


def set_budget(
    connection: sa.Connection,
    principal: Principal,
    scope: Scope,
    period: Period,
    limit_micro: int | None,
) -> int | None:
    """Set, change or (None) lift a budget of the principal's project or organization.

    It counts from the next reservation on. A limit below what is spent already is allowed: then
    nothing more is. Returns the limit that was in force before.
    """
    if scope not in get_args(Scope) or period not in get_args(Period):
        raise InvalidInput(f"a budget is per project or org, and month or total; got {scope!r}, "
                           f"{period!r}")  # fmt: skip
    if limit_micro is not None and not 0 <= limit_micro < 2**63:
        raise InvalidInput(f"a budget of {limit_micro:,} micro-units cannot be", param="limit")
    project, org = accounts_of(principal.project_id, principal.org_id)
    account = project if scope == "project" else org
    before = limits_of(connection, {account}).get((account, period))
    row = {
        "id": new_id("budget"),
        "org_id": principal.org_id,
        "project_id": principal.project_id,
        "owner_id": principal.owner_id,
        "created_ms": now_ms(),
        "account": account,
        "period": period,
        "limit_micro": limit_micro,
    }
    connection.execute(tables.budgets.insert().values(row))
    return before


def limits_of(connection: sa.Connection, accounts: Collection[str]) -> Limits:
    """The limits that are in force for these accounts."""
    rows = tables.budgets
    found = connection.execute(
        sa.select(rows.c.account, rows.c.period, rows.c.limit_micro)
        .where(rows.c.account.in_(accounts))
        .order_by(rows.c.id)
    )
    newest = {(account, period): limit for account, period, limit in found}
    return {key: limit for key, limit in newest.items() if limit is not None}


def check(
    limits: Limits, balances: Mapping[tuple[str, str], Balance], account: str, month: str, cost: int
) -> None:
    """Raise BudgetExceeded if `cost` more micro-units do not fit the account's budgets.

    What is free always fits. `balances` is by account and month.
    """
    for period in get_args(Period):
        limit = limits.get((account, period))
        if limit is None or cost == 0:
            continue
        settled, held = total(balances, account, month if period == "month" else None)
        if settled + held + cost > limit:
            left = max(0, limit - settled - held)
            name = f"{period} budget" + (f" for {month}" if period == "month" else "")
            raise BudgetExceeded(
                f"this request may cost {money(cost)}, and {money(left)} is left of the {name} of"
                f" {account.replace(':', ' ')}: {money(settled)} spent and {money(held)} held of"
                f" {money(limit)}",
                next_step=_next_step(period, month),
                account=account,
                period=period,
                limit_micro=limit,
                settled_micro=settled,
                held_micro=held,
                cost_micro=cost,
            )


def total(balances: Mapping[tuple[str, str], Balance], account: str, month: str | None) -> Balance:
    """The account's balance of one month, or (None) of all."""
    chosen = [
        balance for (of, at), balance in balances.items() if of == account and month in (None, at)
    ]
    return Balance(sum(b.settled_micro for b in chosen), sum(b.held_micro for b in chosen))


def month_of(at_ms: int) -> str:
    """
    >>> month_of(1_764_547_199_999), month_of(1_764_547_200_000)
    ('2025-11', '2025-12')
    """
    return datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC).strftime("%Y-%m")


def _next_step(period: Period, month: str) -> str:
    smaller = "ask for fewer tokens, or have the budget raised"
    if period == "total":
        return smaller
    year, number = divmod(int(month[:4]) * 12 + int(month[5:]), 12)
    return f"{smaller}; the next month begins on {year}-{number + 1:02d}-01 UTC"
