"""Who pays, at which prices, in which database."""

from __future__ import annotations

from pathlib import Path

from bessemer.core.database import Database
from bessemer.core.principal import Principal
from bessemer.core.tables import metadata
from bessemer.ledger import tables
from bessemer.ledger.counts import Counts
from bessemer.ledger.rate_card import RateCard

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
    tables.rate_cards,
]  # fmt: skip


def make_database(path: Path) -> Database:
    """A real file with the ledger's tables; one that is there already is only opened."""
    db = Database(f"sqlite:///{path}")
    if not path.exists():
        with db.write() as connection:
            metadata.create_all(connection, tables=TABLES)
    return db


def written(tokens: int) -> Counts:
    return Counts(completion=tokens)
