"""What work costs here, and how much of it may be had: the rate card in force, and budgets."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import sqlalchemy as sa

from bessemer.access.tables import ORGANIZATION
from bessemer.app import audit
from bessemer.app.platform import Platform
from bessemer.app.projects import READ_SCOPE as ORG_READ_SCOPE
from bessemer.app.projects import reach
from bessemer.core.database import now_ms
from bessemer.core.errors import NotFound
from bessemer.core.principal import Principal
from bessemer.ledger import budgets, cards
from bessemer.ledger.budgets import Balance, Period, Scope
from bessemer.ledger.entries import accounts_of
from bessemer.ledger.ledger import balance
from bessemer.ledger.rate_card import RateCard, micro_units

# With what a face needs of the ledger, which it does not import.
__all__ = [
    "Budget", "Period", "RateCard", "Scope", "account_of", "get_budget", "list_budgets",
    "micro_units", "prices", "set_budget", "set_prices", "within",
]  # fmt: skip

READ_SCOPE = "usage:read"
WRITE_SCOPE = "org:write"


class Budget(NamedTuple):
    """A limit, and what of it is spent and held in its period."""

    scope: Scope
    period: Period
    limit_micro: int
    balance: Balance

    @property
    def is_spent(self) -> bool:
        """Whether nothing that costs something fits any more."""
        return sum(self.balance) >= self.limit_micro


def within(
    connection: sa.Connection,
    principal: Principal,
    project_id: str | None,
    *,
    write: bool = False,
) -> Principal:
    """The same person in that project, or (None) for the organization, if money there is theirs.

    Only who changes the organization changes what may be spent; a project's own people read theirs.

    Raises:
        PermissionDenied: it is not.
        NotFound: there is no such project in their sight.
    """
    if write or project_id is None:
        principal.require(WRITE_SCOPE if write else ORG_READ_SCOPE)
    if project_id is None:
        return principal
    reach(connection, principal, project_id, write=write)
    return replace(principal, project_id=project_id)


def account_of(principal: Principal, scope: Scope) -> str:
    """The name of the account in the ledger."""
    project, org = accounts_of(principal.project_id, principal.org_id)
    return project if scope == "project" else org


def prices(platform: Platform, principal: Principal) -> RateCard:
    """The rate card in force."""
    principal.require(READ_SCOPE)
    return card_in_force(platform)


def card_in_force(platform: Platform) -> RateCard:
    """For who serves and charges, and needs no scope; the free one where none was set."""
    with platform.db.read() as connection:
        return cards.Cards().in_force(connection) or cards.FREE


def set_prices(platform: Platform, principal: Principal, text: str, where: str) -> RateCard:
    """Put a rate card (TOML) in force, for requests from now on.

    Raises:
        InvalidInput: what is wrong, and where.
    """
    principal.require(WRITE_SCOPE)
    card = RateCard.parse(text, where)
    with platform.db.write() as connection:
        before = cards.adopt(connection, principal, card)
        if before == card.digest:
            return card
        audit.record(
            connection, principal, "rate_card.updated", card.digest,
            before=None if before is None else {"digest": before},
            after={"digest": card.digest, "currency": card.currency, "rates": len(card.rates)},
            project_id=ORGANIZATION,
        )  # fmt: skip
    return card


def list_budgets(platform: Platform, principal: Principal) -> list[Budget]:
    """Those in force for the principal's project and organization."""
    principal.require(READ_SCOPE)
    scopes: dict[str, Scope] = {account_of(principal, "org"): "org"}
    scopes[account_of(principal, "project")] = "project"
    with platform.db.read() as connection:
        limits = budgets.limits_of(connection, scopes)
    return [
        _budget(platform, principal, scopes[account], period, limit)
        for (account, period), limit in sorted(limits.items())
    ]


def get_budget(
    platform: Platform, principal: Principal, scope: Scope, period: Period, project_id: str | None
) -> Budget:
    """Raises NotFound where none is set."""
    with platform.db.read() as connection:
        there = within(connection, principal, project_id)
        account = account_of(there, scope)
        limit = budgets.limits_of(connection, {account}).get((account, period))
    if limit is None:
        raise _none(scope, period)
    return _budget(platform, there, scope, period, limit)


def set_budget(
    platform: Platform,
    principal: Principal,
    scope: Scope,
    period: Period,
    limit_micro: int | None,
    *,
    must_be_there: bool = False,
) -> None:
    """Set, change or (None) lift a budget of the principal's project or their organization.

    Raises:
        InvalidInput: as `ledger.budgets.set_budget`.
        NotFound: there is none to lift, where one has to be.
    """
    with platform.db.write() as connection:
        where = None if scope == "org" else principal.project_id
        within(connection, principal, where, write=True)
        before = budgets.set_budget(connection, principal, scope, period, limit_micro)
        if must_be_there and before is None:
            raise _none(scope, period)
        if before == limit_micro:
            return
        audit.record(
            connection, principal,
            "budget.deleted" if limit_micro is None else "budget.updated",
            account_of(principal, scope),
            before=None if before is None else {"period": period, "limit_micro": before},
            after=None if limit_micro is None else {"period": period, "limit_micro": limit_micro},
            project_id=where or ORGANIZATION,
        )  # fmt: skip


def _budget(
    platform: Platform, principal: Principal, scope: Scope, period: Period, limit: int
) -> Budget:
    at = budgets.month_of(now_ms()) if period == "month" else None
    return Budget(scope, period, limit, balance(platform.db, principal, scope, at))


def _none(scope: Scope, period: Period) -> NotFound:
    return NotFound(
        f"the {scope} has no {period} budget", next_step="bessemer budget set --help lists ways"
    )
