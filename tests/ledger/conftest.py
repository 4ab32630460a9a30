"""A database of its own with the ledger's tables, a card, and somebody who pays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bessemer.core.database import Database
from bessemer.core.principal import Principal
from bessemer.ledger.ledger import Ledger
from tests.ledger.house import ALICE, CARD, adopt, make_database


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    db = make_database(tmp_path / "db.sqlite")
    adopt(db, ALICE, CARD)
    yield db
    db.close()


@pytest.fixture
def ledger(db: Database) -> Iterator[Ledger]:
    with Ledger(db) as ledger:
        yield ledger


@pytest.fixture
def alice() -> Principal:
    return ALICE
