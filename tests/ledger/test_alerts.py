"""An alert is said once a month, whoever crosses its threshold and however many do so at once."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from bessemer.core.database import Database
from bessemer.ledger import tables
from bessemer.ledger.ledger import Ledger
from tests.ledger.house import ALICE, BOB, make_database, watch, written

DECEMBER_MS = 1_764_547_200_000
DAY_MS = 86_400_000


def said(db: Database) -> list[tuple[str, str, int]]:
    rows = tables.spend_firings.c
    query = sa.select(rows.alert_id, rows.month, rows.threshold_micro).order_by(rows.id)
    with db.read() as connection:
        return [tuple(row) for row in connection.execute(query)]


def spend(ledger: Ledger, name: str, tokens: int, who: object = ALICE) -> None:
    ledger.reserve(ALICE if who is ALICE else BOB, name, "smollm2", "chat", written(1)).result()
    ledger.settle(name, written(tokens)).result()


def test_it_is_said_by_the_charge_that_reaches_it_and_by_no_later_one(
    db: Database, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    watch(db, "alert_1", "project:project_a", 10)
    with caplog.at_level(logging.WARNING):
        for number, tokens in enumerate((4, 5, 1, 7)):
            assert bool(said(db)) is (number > 2)
            spend(ledger, f"r{number}", tokens)
    assert [key[0] for key in said(db)] == ["alert_1"]
    (line,) = caplog.messages
    assert "alert_1: project project_a has spent 0.00001 in " in line


@pytest.mark.parametrize("at_once", [1, 500])
def test_200_requests_at_once_cross_it_once(db: Database, at_once: int) -> None:
    watch(db, "alert_1", "project:project_a", 100)
    watch(db, "alert_2", "org:org_a", 150)
    watch(db, "alert_3", "org:org_a", 201)
    # Two ledgers, as two server processes have.
    with (
        Ledger(db, at_once=at_once) as one,
        Ledger(db, at_once=at_once) as other,
        ThreadPoolExecutor(50) as threads,
    ):
        ledgers = (one, other)
        list(threads.map(lambda n: spend(ledgers[n % 2], f"r{n}", 1), range(200)))
    assert sorted(key[0] for key in said(db)) == ["alert_1", "alert_2"]


def test_each_month_and_each_threshold_is_said_anew(db: Database) -> None:
    watch(db, "alert_1", "project:project_a", 10)
    at_ms = [DECEMBER_MS - DAY_MS]
    with Ledger(db, clock_ms=lambda: at_ms[0]) as ledger:
        spend(ledger, "r1", 10)
        at_ms[0] = DECEMBER_MS
        spend(ledger, "r2", 9)
        assert said(db) == [("alert_1", "2025-11", 10)]
        spend(ledger, "r3", 1)
        with db.write() as connection:
            connection.execute(tables.spend_alerts.update().values(threshold_micro=12))
        spend(ledger, "r4", 1)
        spend(ledger, "r5", 1)
        spend(ledger, "r6", 1)
        with db.write() as connection:
            connection.execute(tables.spend_alerts.update().values(threshold_micro=10))
        spend(ledger, "r7", 1)
    assert said(db) == [
        ("alert_1", "2025-11", 10), ("alert_1", "2025-12", 10), ("alert_1", "2025-12", 12)
    ]  # fmt: skip


def test_what_others_spend_is_not_counted(db: Database, ledger: Ledger) -> None:
    watch(db, "alert_1", "project:project_a", 10)
    spend(ledger, "r1", 1000, who=BOB)
    assert said(db) == []


def test_the_database_itself_refuses_a_second_time(tmp_path: Path) -> None:
    db = make_database(tmp_path / "db.sqlite")
    row = {
        "org_id": "o", "project_id": "p", "owner_id": "u", "created_ms": 1, "alert_id": "a",
        "account": "project:p", "month": "2025-11", "threshold_micro": 1, "settled_micro": 1,
    }  # fmt: skip
    with db.write() as connection:
        connection.execute(tables.spend_firings.insert().values(id="f1", **row))
    with pytest.raises(sa.exc.IntegrityError), db.write() as connection:
        connection.execute(tables.spend_firings.insert().values(id="f2", **row))
    db.close()
