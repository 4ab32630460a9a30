"""What a budget has room for gets through, however many ask at once; the rest is told why not."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bessemer.core.database import Database
from bessemer.core.errors import BudgetExceeded, InvalidInput
from bessemer.core.principal import Principal
from bessemer.ledger.budgets import Balance, Period, Scope
from bessemer.ledger.counts import Counts
from bessemer.ledger.ledger import Ledger, balance, unsettled
from tests.ledger.house import ALICE, BOB, set_budget, written

ROOT = Path(__file__).parents[2]
EACH = 10  # micro-units that one request may cost
NOVEMBER_MS, DECEMBER_MS = 1_764_547_199_999, 1_764_547_200_000

# Waits for a line, so that both processes begin together; prints how many were let in.
RIVAL = """
import sys
from pathlib import Path
from bessemer.core.errors import BudgetExceeded
from bessemer.ledger.ledger import Ledger
from tests.ledger.house import ALICE, make_database, written

name, path, requests, at_once = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
db = make_database(path)
with Ledger(db, at_once=at_once) as ledger:
    print("ready", flush=True)
    sys.stdin.readline()
    futures = [
        ledger.reserve(ALICE, f"{name}_{n}", "smollm2", "chat", written(10))
        for n in range(requests)
    ]
    faults = [future.exception() for future in futures]
assert {type(fault) for fault in faults} <= {type(None), BudgetExceeded}, faults
print(faults.count(None))
"""


def test_200_tasks_against_room_for_50_pass_50(db: Database, ledger: Ledger) -> None:
    set_budget(db, ALICE, "project", "month", 50 * EACH)

    async def ask(number: int) -> bool:
        reserved = ledger.reserve(ALICE, f"req_{number}", "smollm2", "chat", written(EACH))
        try:
            await asyncio.wrap_future(reserved)
        except BudgetExceeded:
            return False
        return True

    async def all_at_once() -> list[bool]:
        return await asyncio.gather(*(ask(number) for number in range(200)))

    assert sum(asyncio.run(all_at_once())) == len(unsettled(db)) == 50
    assert balance(db, ALICE, "project", None) == Balance(0, 50 * EACH)


def test_200_threads_with_a_transaction_each_pass_50(db: Database) -> None:
    set_budget(db, ALICE, "org", "total", 50 * EACH + EACH - 1)
    with Ledger(db, at_once=1) as one, Ledger(db, at_once=1) as other:

        def ask(number: int) -> bool:
            chosen = (one, other)[number % 2]
            reserved = chosen.reserve(ALICE, f"req_{number}", "smollm2", "chat", written(EACH))
            return reserved.exception() is None

        with ThreadPoolExecutor(200) as pool:
            assert sum(pool.map(ask, range(200))) == len(unsettled(db)) == 50


@pytest.mark.parametrize("at_once", [1, 500])
def test_two_processes_with_100_each_pass_50_together(
    db: Database, tmp_path: Path, at_once: int
) -> None:
    set_budget(db, ALICE, "project", "total", 50 * EACH)
    path = tmp_path / "db.sqlite"
    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", RIVAL, name, str(path), "100", str(at_once)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for name in ("one", "other")
    ]  # fmt: skip
    for rival in rivals:
        assert rival.stdout is not None and rival.stdout.readline() == "ready\n"
    for rival in rivals:
        assert rival.stdin is not None
        rival.stdin.write("go\n")
        rival.stdin.flush()
    passed = [int(rival.communicate(timeout=60)[0]) for rival in rivals]
    assert sum(passed) == len(unsettled(db)) == 50


def test_a_refusal_says_the_numbers(db: Database, ledger: Ledger) -> None:
    set_budget(db, ALICE, "project", "total", 2_000_000)
    ledger.reserve(ALICE, "req_1", "smollm2", "chat", written(1_250_000)).result()
    ledger.settle("req_1", written(1_000_000)).result()
    ledger.reserve(ALICE, "req_2", "smollm2", "chat", written(300_000)).result()
    refused = ledger.reserve(ALICE, "req_3", "smollm2", "chat", written(700_001))
    fault = refused.exception()
    assert isinstance(fault, BudgetExceeded)
    assert fault.message == (
        "this request may cost 0.700001, and 0.70 is left of the total budget of project project_a:"
        " 1.00 spent and 0.30 held of 2.00"
    )
    assert fault.status == 429
    assert fault.facts["settled_micro"] + fault.facts["held_micro"] == 1_300_000
    assert [row.id for row in unsettled(db)] == ["req_2"]
    ledger.reserve(ALICE, "req_4", "smollm2", "chat", written(700_000)).result()


def test_what_is_released_or_not_used_is_free_again(db: Database, ledger: Ledger) -> None:
    set_budget(db, ALICE, "project", "month", 100)
    ledger.reserve(ALICE, "req_1", "smollm2", "chat", written(100)).result()
    ledger.settle("req_1", written(40)).result()
    ledger.reserve(ALICE, "req_2", "smollm2", "chat", written(60)).result()
    ledger.release("req_2", "a", "failed").result()
    ledger.reserve(ALICE, "req_3", "smollm2", "chat", written(60)).result()


def test_an_excess_passes_the_budget_and_then_only_what_is_free_fits(
    db: Database, ledger: Ledger
) -> None:
    set_budget(db, ALICE, "project", "total", 100)
    ledger.reserve(ALICE, "req_1", "smollm2", "chat", written(100)).result()
    assert ledger.settle("req_1", written(130)).result().cost_micro == 130
    refused = ledger.reserve(ALICE, "req_2", "smollm2", "chat", written(1))
    with pytest.raises(BudgetExceeded, match=r"0\.00 is left of"):
        refused.result()
    ledger.reserve(ALICE, "req_3", "ft:mine", "chat", Counts(prompt=5)).result()


def test_a_month_ends_and_a_total_does_not(db: Database) -> None:
    now = [NOVEMBER_MS]
    set_budget(db, ALICE, "project", "month", 60)
    set_budget(db, ALICE, "project", "total", 100)
    with Ledger(db, clock_ms=lambda: now[0]) as ledger:
        ledger.reserve(ALICE, "req_1", "smollm2", "chat", written(60)).result()
        with pytest.raises(BudgetExceeded, match="month budget for 2025-11") as refused:
            ledger.reserve(ALICE, "req_2", "smollm2", "chat", written(1)).result()
        assert "the next month begins on 2025-12-01 UTC" in str(refused.value)
        now[0] = DECEMBER_MS
        ledger.reserve(ALICE, "req_3", "smollm2", "chat", written(40)).result()
        with pytest.raises(BudgetExceeded, match="total budget"):
            ledger.reserve(ALICE, "req_4", "smollm2", "chat", written(1)).result()


def test_an_organization_pays_for_all_of_its_projects(db: Database, ledger: Ledger) -> None:
    set_budget(db, BOB, "org", "month", 100)
    ledger.reserve(ALICE, "req_1", "smollm2", "chat", written(60)).result()
    with pytest.raises(BudgetExceeded, match="org org_a"):
        ledger.reserve(BOB, "req_2", "smollm2", "chat", written(60)).result()
    stranger = Principal("org_z", "project_z", "person_z", frozenset({"*"}))
    ledger.reserve(stranger, "req_3", "smollm2", "chat", written(60)).result()


def test_the_newest_budget_counts_and_none_lifts_it(db: Database, ledger: Ledger) -> None:
    for number, limit in enumerate((10, 30, None)):
        set_budget(db, ALICE, "project", "total", limit)
        asked = ledger.reserve(ALICE, f"req_{number}", "smollm2", "chat", written(20))
        assert isinstance(asked.exception(), BudgetExceeded) == (limit == 10)


@pytest.mark.parametrize(
    ("scope", "period", "limit"),
    [("team", "month", 1), ("org", "year", 1), ("org", "month", -1), ("org", "month", 2**63)],
)
def test_a_budget_that_cannot_be_is_refused(
    db: Database, scope: Scope, period: Period, limit: int
) -> None:
    with pytest.raises(InvalidInput, match="budget"):
        set_budget(db, ALICE, scope, period, limit)
