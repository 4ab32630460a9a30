"""Kill -9 at any moment: nothing is lost, nothing is charged twice, the rest is listed."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from bessemer.core.database import Database
from bessemer.ledger import hours, tables
from bessemer.ledger.budgets import Balance
from bessemer.ledger.ledger import Ledger, balance, unsettled
from bessemer.ledger.reconciling import differences, unmatched
from tests.ledger.drill import RESERVED, THREADS, tokens_of
from tests.ledger.house import ALICE, watch

ROOT = Path(__file__).parents[2]


def run_and_kill(database: Path, journal: Path, name: str, wait_s: float) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.ledger.drill", str(database), str(journal), name],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        assert child.stdout is not None and child.stdout.readline() == "going\n"
        time.sleep(wait_s)  # the moment of the kill is the test's subject
    finally:
        child.kill()
        assert child.wait() == -9


# A few of them are reached in each life of the ledger.
ALERTS = {f"alert_{number:03}": number * 2_000 for number in range(1, 400)}


def states(db: Database) -> dict[str, str]:
    with db.read() as connection:
        rows = tables.reservations.c
        return {row.id: row.state for row in connection.execute(sa.select(rows.id, rows.state))}


def charges(db: Database) -> dict[str, int]:
    with db.read() as connection:
        found = [(row.id, row.cost_micro) for row in connection.execute(sa.select(tables.usage))]
    assert len({name for name, _ in found}) == len(found)
    return dict(found)


def check(db: Database, journal: Path) -> None:
    """What was answered is there; what was not even asked for is not."""
    said = {tuple(line.split()) for line in journal.read_text().splitlines()}
    state, charged = states(db), charges(db)
    for verb, expected in (("reserve", None), ("settle", "settled"), ("release", "released")):
        for name in (words[2] for words in said if words[:2] == ("done", verb)):
            assert name in state, f"{name} was reserved and is lost"
            assert expected in (None, state[name]), (name, state[name], expected)
    for name, now in state.items():
        assert ("ask", "reserve", name) in said
        assert now != "settled" or ("ask", "settle", name) in said
        assert now in ("settled", "released", "open")
    assert charged == {name: tokens_of(name) for name, now in state.items() if now == "settled"}
    still = unsettled(db)
    assert sorted(row.id for row in still) == sorted(n for n, now in state.items() if now == "open")
    assert balance(db, ALICE, "org", None) == Balance(sum(charged.values()), RESERVED * len(still))
    assert differences(db) == [] and unmatched(db) == [] and hours.differing(db) == []
    with db.read() as connection:
        said = list(connection.scalars(sa.select(tables.spend_firings.c.alert_id)))
    reached = [name for name, most in ALERTS.items() if sum(charged.values()) >= most]
    assert sorted(said) == reached, "an alert was lost, or said twice, or too early"


def drill(db: Database, folder: Path, kills: int) -> None:
    for name, threshold_micro in ALERTS.items():
        watch(db, name, "org:org_a", threshold_micro)
    journal = folder / "journal"
    left = 0
    for number in range(kills):
        run_and_kill(folder / "db.sqlite", journal, f"run{number}", random.uniform(0, 0.15))
        check(db, journal)
        # Half of what was left is given up, by an explicit act; half stays, over the next crash.
        open_ = [row.id for row in unsettled(db)]
        left += len(open_)
        assert len(open_) <= THREADS * (number + 1)
        with Ledger(db) as ledger:
            for name in open_[::2]:
                with journal.open("a") as file:
                    file.write(f"ask release {name}\n")
                ledger.release(name, "operator", f"killed in run {number}").result()
        check(db, journal)
    assert left, "no kill left a request open: the drill did not bite"
    assert charges(db), "no request was ever settled"


def test_ten_kills_lose_nothing_and_charge_nothing_twice(db: Database, tmp_path: Path) -> None:
    drill(db, tmp_path, kills=10)


@pytest.mark.slow
def test_a_hundred_kills(db: Database, tmp_path: Path) -> None:
    drill(db, tmp_path, kills=100)
