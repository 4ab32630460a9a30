"""A request is charged once, at the price it was reserved at, or not at all."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa

from bessemer.core.database import Database
from bessemer.core.errors import Conflict, IntegrityError, InvalidInput, NotFound
from bessemer.core.principal import Principal
from bessemer.ledger import tables
from bessemer.ledger.budgets import Balance
from bessemer.ledger.counts import Counts
from bessemer.ledger.ledger import Ledger, balance, unsettled
from bessemer.ledger.rate_card import RateCard
from bessemer.ledger.reconciling import Difference, differences, unmatched
from tests.ledger.house import ALICE, BOB, CARD, adopt, make_database, written

NOVEMBER_MS, DECEMBER_MS = 1_764_547_199_999, 1_764_547_200_000  # two neighboring milliseconds


def usage_rows(db: Database) -> list[dict[str, object]]:
    with db.read() as connection:
        found = connection.execute(sa.select(tables.usage).order_by(tables.usage.c.id))
        return [dict(row._mapping) for row in found]


def test_reserve_settle(db: Database, ledger: Ledger, alice: Principal) -> None:
    held = ledger.reserve(alice, "req_1", "smollm2", "chat", Counts(prompt=100, completion=50))
    assert held.result().reserved_micro == 65
    assert [row.id for row in unsettled(db)] == ["req_1"]
    assert balance(db, alice, "project", None) == Balance(0, 65)
    used = Counts(prompt=20, cached=80, completion=10)
    assert ledger.settle("req_1", used).result().cost_micro == 19  # 3 + 6 + 10
    (row,) = usage_rows(db)
    expected = {
        "id": "req_1", "org_id": "org_a", "project_id": "project_a", "owner_id": "person_a",
        "key_id": "key_a", "model": "smollm2", "kind": "chat", "card": CARD.digest,
        **used._asdict(), "cost_micro": 19,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert unsettled(db) == []
    assert balance(db, alice, "project", None) == balance(db, BOB, "org", None) == Balance(19, 0)


def test_release_charges_nothing_and_keeps_who_and_why(
    db: Database, ledger: Ledger, alice: Principal
) -> None:
    ledger.reserve(alice, "req_1", "smollm2", "chat", written(50)).result()
    released = ledger.release("req_1", "person_a", "the engine died").result()
    assert (released.state, released.closed_by) == ("released", "person_a")
    assert balance(db, alice, "project", None) == Balance()
    with db.read() as connection:
        rows = tables.reservations.c
        assert connection.execute(sa.select(rows.state, rows.reason)).one() == (
            "released",
            "the engine died",
        )
    with pytest.raises(InvalidInput, match="without a reason"):
        ledger.release("req_1", "person_a", " ")


def test_what_was_done_twice_is_done_once(db: Database, ledger: Ledger, alice: Principal) -> None:
    ledger.reserve(alice, "req_1", "smollm2", "chat", written(50)).result()
    first = ledger.settle("req_1", written(7)).result()
    assert ledger.settle("req_1", written(7)).result() == first
    ledger.reserve(alice, "req_2", "smollm2", "chat", written(50)).result()
    released = ledger.release("req_2", "a", "first").result()
    assert ledger.release("req_2", "b", "second").result() == released
    assert len(usage_rows(db)) == 1
    assert balance(db, alice, "org", None) == Balance(7, 0)


def test_what_contradicts_is_refused(db: Database, ledger: Ledger, alice: Principal) -> None:
    ledger.reserve(alice, "req_1", "smollm2", "chat", written(50)).result()
    ledger.settle("req_1", written(7)).result()
    ledger.reserve(alice, "req_2", "smollm2", "chat", written(50)).result()
    ledger.release("req_2", "a", "gone").result()
    with pytest.raises(Conflict, match="settled before with 7 completion; now with 8 completion"):
        ledger.settle("req_1", written(8)).result()
    with pytest.raises(Conflict, match="is settled"):
        ledger.release("req_1", "a", "why").result()
    with pytest.raises(Conflict, match="released by a"):
        ledger.settle("req_2", written(7)).result()
    with pytest.raises(Conflict, match="reserved before"):
        ledger.reserve(alice, "req_1", "smollm2", "chat", written(50)).result()
    for nothing in (ledger.settle("req_3", written(1)), ledger.release("req_3", "a", "why")):
        with pytest.raises(NotFound, match="nothing was reserved for the request req_3"):
            nothing.result()
    assert balance(db, alice, "org", None) == Balance(7, 0)


def test_entries_of_one_transaction_see_each_other(db: Database, alice: Principal) -> None:
    with Ledger(db) as ledger:
        with db.write():  # while somebody else writes, these gather
            futures = [
                ledger.reserve(alice, "req_1", "smollm2", "chat", written(50)),
                ledger.settle("req_1", written(7)),
                ledger.settle("req_1", written(7)),
                ledger.settle("req_2", written(7)),
                ledger.reserve(alice, "req_2", "smollm2", "chat", written(50)),
                ledger.reserve(alice, "req_2", "smollm2", "chat", written(50)),
                ledger.release("req_2", "a", "gone"),
            ]
        outcomes = [type(future.exception()) for future in futures]
    none = type(None)
    assert outcomes == [none, none, none, NotFound, none, Conflict, none]
    assert balance(db, alice, "project", None) == Balance(7, 0)
    assert differences(db) == [] and unmatched(db) == []


def test_the_card_of_the_reservation_is_the_price(
    db: Database, ledger: Ledger, alice: Principal
) -> None:
    ledger.reserve(alice, "req_1", "smollm2", "chat", written(50)).result()
    dearer = RateCard.parse(
        'currency = "usd"\n[[rates]]\nmodel = "*"\nprompt = 1\ncompletion = 9_000_000'
    )
    adopt(db, alice, dearer)
    assert (
        ledger.reserve(alice, "req_2", "smollm2", "chat", written(1)).result().reserved_micro == 9
    )
    with Ledger(db) as later:  # which reads the old card from the database
        assert later.settle("req_1", written(50)).result().cost_micro == 50
    assert ledger.settle("req_2", written(1)).result().cost_micro == 9
    assert [row["card"] for row in usage_rows(db)] == [CARD.digest, dearer.digest]


def test_a_card_whose_bytes_changed_prices_nothing(db: Database, alice: Principal) -> None:
    with db.write() as connection:
        text = sa.func.replace(tables.rate_cards.c.text, "1000000", "1")
        connection.execute(tables.rate_cards.update().values(text=text))
    with Ledger(db) as ledger, pytest.raises(IntegrityError, match="the stored rate card"):
        ledger.reserve(alice, "req_1", "smollm2", "chat", written(50)).result()


def test_without_a_card_nothing_is_reserved(tmp_path: Path, alice: Principal) -> None:
    db = make_database(tmp_path / "empty.sqlite")
    with Ledger(db) as ledger, pytest.raises(Conflict, match="no rate card is in force"):
        ledger.reserve(alice, "req_1", "smollm2", "chat", written(50)).result()
    db.close()


def test_more_than_was_reserved_is_charged_whole(
    db: Database, ledger: Ledger, alice: Principal
) -> None:
    ledger.reserve(alice, "req_1", "smollm2", "chat", written(50)).result()
    charge = ledger.settle("req_1", written(60)).result()
    assert (charge.cost_micro, charge.reserved_micro) == (60, 50)
    assert balance(db, alice, "project", None) == Balance(60, 0)


def test_training_is_metered_by_the_time_of_a_device(
    db: Database, ledger: Ledger, alice: Principal
) -> None:
    ledger.reserve(alice, "run_1", "ft:mine", "training", Counts(device_ms=60_000)).result()
    charge = ledger.settle("run_1", Counts(prompt=9_000, device_ms=42_500)).result()
    assert charge.cost_micro == 42_500
    assert usage_rows(db)[0]["device_ms"] == 42_500


def test_a_request_belongs_to_the_month_it_was_reserved_in(db: Database, alice: Principal) -> None:
    now = [NOVEMBER_MS]
    with Ledger(db, clock_ms=lambda: now[0]) as ledger:
        ledger.reserve(alice, "req_1", "smollm2", "chat", written(50)).result()
        now[0] = DECEMBER_MS
        ledger.settle("req_1", written(7)).result()
        ledger.reserve(alice, "req_2", "smollm2", "chat", written(3)).result()
    assert balance(db, alice, "project", "2025-11") == Balance(7, 0)
    assert balance(db, alice, "project", "2025-12") == Balance(0, 3)
    assert balance(db, alice, "project", None) == Balance(7, 3)
    (row,) = usage_rows(db)
    assert (row["created_ms"], row["settled_ms"]) == (NOVEMBER_MS, DECEMBER_MS)
    assert [row.id for row in unsettled(db, before_ms=DECEMBER_MS)] == []


async def test_whoever_is_canceled_while_reserving_can_release(
    db: Database, alice: Principal
) -> None:
    with Ledger(db) as ledger:
        with db.write():
            held = asyncio.wrap_future(
                ledger.reserve(alice, "req_1", "smollm2", "chat", written(50))
            )
            held.cancel()
            released = ledger.release("req_1", "gateway", "the client left")
        assert (await asyncio.wrap_future(released)).state == "released"
    assert unsettled(db) == []


def test_an_argument_that_cannot_be_is_refused_by_the_call(
    ledger: Ledger, alice: Principal
) -> None:
    with pytest.raises(InvalidInput, match="request_id has 65 characters"):
        ledger.reserve(alice, "r" * 65, "smollm2", "chat", written(1))
    with pytest.raises(InvalidInput, match="no kind of work 'juggling'"):
        ledger.reserve(alice, "r", "smollm2", "juggling", written(1))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="completion is -1"):
        ledger.settle("r", written(-1))


def test_reconciling_finds_what_somebody_else_wrote(
    db: Database, ledger: Ledger, alice: Principal
) -> None:
    for name in ("req_1", "req_2"):
        ledger.reserve(alice, name, "smollm2", "chat", written(50)).result()
    ledger.settle("req_1", written(7)).result()
    assert differences(db) == [] and unmatched(db) == []
    month = unsettled(db)[0].month
    with db.write() as connection:
        connection.execute(tables.usage.delete())
    wrong = differences(db)
    assert wrong == [
        Difference(account, month, stored=Balance(7, 50), counted=Balance(0, 50))
        for account in ("org:org_a", "project:project_a")
    ]
    assert unmatched(db) == ["req_1"]


def test_ids_of_two_projects_are_not_mixed_up(db: Database, ledger: Ledger) -> None:
    ledger.reserve(ALICE, "req_1", "smollm2", "chat", written(5)).result()
    ledger.reserve(BOB, "req_2", "smollm2", "chat", written(6)).result()
    assert balance(db, ALICE, "project", None) == Balance(0, 5)
    assert balance(db, BOB, "project", None) == Balance(0, 6)
    assert balance(db, BOB, "org", None) == Balance(0, 11)
