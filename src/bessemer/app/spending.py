"""What work costs here, and how much of it may be had: the rate card in force, and budgets."""

from __future__ import annotations

from typing import NamedTuple

from bessemer.app.platform import Platform
from bessemer.core.database import now_ms
from bessemer.core.principal import Principal
from bessemer.ledger import budgets, cards
from bessemer.ledger.budgets import Balance, Period, Scope
from bessemer.ledger.entries import accounts_of
from bessemer.ledger.ledger import balance
from bessemer.ledger.rate_card import RateCard

# With what a face needs of the ledger, which it does not import.
__all__ = [
    "Budget", "Period", "RateCard", "Scope", "list_budgets", "prices", "set_budget", "set_prices",
]  # fmt: skip

READ_SCOPE = "usage:read"
WRITE_SCOPE = "org:write"


class Budget(NamedTuple):
    """A limit, and what of it is spent and held in its period."""

    scope: Scope
    period: Period
    limit_micro: int
    balance: Balance


def prices(platform: Platform, principal: Principal) -> RateCard:
    """The rate card in force."""
    principal.require(READ_SCOPE)
    with platform.db.read() as connection:
        return cards.Cards().in_force(connection) or cards.FREE


def set_prices(platform: Platform, principal: Principal, text: str, where: str) -> RateCard:
    """Put a rate card (TOML) in force, for requests from now on.

    Raises:
        InvalidInput: what is wrong, and where.
    """
    principal.require(WRITE_SCOPE)
    card = RateCard.parse(text, where)
    cards.adopt(platform.db, principal, card)
    return card


def list_budgets(platform: Platform, principal: Principal) -> list[Budget]:
    """Those in force for the principal's project and organization."""
    principal.require(READ_SCOPE)
    project, org = accounts_of(principal.project_id, principal.org_id)
    with platform.db.read() as connection:
        limits = budgets.limits_of(connection, (project, org))
    month = budgets.month_of(now_ms())
    found = []
    for (account, period), limit in sorted(limits.items()):
        scope: Scope = "org" if account == org else "project"
        at = month if period == "month" else None
        spent = balance(platform.db, principal, scope, at)
        found.append(Budget(scope, period, limit, spent))
    return found


def set_budget(
    platform: Platform,
    principal: Principal,
    scope: Scope,
    period: Period,
    limit_micro: int | None,
) -> None:
    """Set, change or (None) lift a budget. Raises InvalidInput as `ledger.budgets.set_budget`."""
    principal.require(WRITE_SCOPE)
    budgets.set_budget(platform.db, principal, scope, period, limit_micro)
