"""Who pays, at which prices, in which database."""

from __future__ import annotations

from pathlib import Path

from bessemer.core.database import Database
from bessemer.core.principal import Principal
from bessemer.core.tables import metadata
from bessemer.ledger import budgets, cards, rate_limits, tables
from bessemer.ledger.budgets import Period, Scope
from bessemer.ledger.counts import Counts
from bessemer.ledger.rate_card import RateCard
from bessemer.ledger.rate_limits import LimitOf, RateLimit
from tests.postgres import homes

# A completion token costs one micro-unit, so that limits can be read as numbers of tokens.
CARD = RateCard.parse(
    """
    currency = "usd"
    [[rates]]
    model = "smollm2"
    prompt = 150_000
    cached = 75_000
    completion = 1_000_000
    [[rates]]
    model = "ft:*"
    prompt = 0
    completion = 2_000_000
    device_hour = 3_600_000
    """
)
ALICE = Principal("org_a", "project_a", "person_a", frozenset({"*"}), key_id="key_a")
BOB = Principal("org_a", "project_b", "person_b", frozenset({"*"}), key_id="key_b")
TABLES = [
    tables.reservations, tables.usage, tables.usage_hours, tables.balances, tables.budgets,
    tables.rate_cards, tables.rate_limits, tables.spend_alerts, tables.spend_firings,
]  # fmt: skip


def make_database(path: Path) -> Database:
    """A real file with the ledger's tables; one that is there already is only opened.

    On PostgreSQL a database; the file is empty, and there to say that it was made.
    """
    fresh = not path.exists()
    if homes.on_postgres():
        homes.leave_empty(path)
        path.touch()
        db = Database(homes.url_of(path))
    else:
        db = Database(f"sqlite:///{path}")
    if fresh:
        with db.write() as connection:
            metadata.create_all(connection, tables=TABLES)
    return db


def adopt(db: Database, principal: Principal, card: RateCard) -> None:
    with db.write() as connection:
        cards.adopt(connection, principal, card)


def set_budget(
    db: Database, principal: Principal, scope: Scope, period: Period, limit_micro: int | None
) -> None:
    with db.write() as connection:
        budgets.set_budget(connection, principal, scope, period, limit_micro)


def set_rate_limit(db: Database, principal: Principal, of: LimitOf, limit: RateLimit) -> None:
    with db.write() as connection:
        rate_limits.set_rate_limit(connection, principal, of, limit)


def watch(db: Database, alert_id: str, account: str, threshold_micro: int) -> None:
    """Set a spend alert."""
    row = {
        "org_id": "org_a", "project_id": "project_a", "owner_id": "person_a", "created_ms": 0,
        "account": account, "threshold_micro": threshold_micro, "channel": "{}",
    }  # fmt: skip
    with db.write() as connection:
        connection.execute(tables.spend_alerts.insert().values(id=alert_id, **row))


def written(tokens: int) -> Counts:
    return Counts(completion=tokens)
