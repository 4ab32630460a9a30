"""Whatever is entered, in whatever order and company: the sums are the sums of what happened."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.core.errors import BessemerError, BudgetExceeded, Conflict, NotFound
from bessemer.ledger import book, hours
from bessemer.ledger.budgets import Balance
from bessemer.ledger.cards import Cards
from bessemer.ledger.entries import Charge, Entry, Release, Reservation, Reserve, Settle
from bessemer.ledger.ledger import balance, unsettled
from bessemer.ledger.reconciling import differences, unmatched
from tests.ledger.house import ALICE, BOB, CARD, adopt, make_database, set_budget, written

IDS = st.sampled_from(["r1", "r2", "r3", "r4"])
TOKENS = st.integers(0, 60).map(written)
ENTRIES = st.one_of(
    st.builds(
        Reserve, st.sampled_from([ALICE, BOB]), IDS, st.just("smollm2"), st.just("chat"), TOKENS
    ),
    st.builds(Settle, IDS, TOKENS),
    st.builds(Release, IDS, st.just("somebody"), st.just("some reason")),
)
LIMIT = 100


class Model:
    """The same ledger in a few lines and a dictionary, an entry at a time."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[str, int]] = {}
        self.settled: dict[str, tuple[str, int]] = {}
        self.released: set[str] = set()

    def sum_of(self, project: str | None = None) -> Balance:
        return Balance(
            *(
                sum(cost for of, cost in part.values() if project in (None, of))
                for part in (self.settled, self.held)
            )
        )

    def enter(self, entry: Entry) -> type[BessemerError] | None:
        name = entry.request_id
        known = name in self.held or name in self.settled or name in self.released
        if isinstance(entry, Reserve):
            cost, project = entry.most.completion, entry.principal.project_id
            if known:
                return Conflict
            if project == ALICE.project_id and cost and sum(self.sum_of(project)) + cost > LIMIT:
                return BudgetExceeded
            self.held[name] = project, cost
        elif not known:
            return NotFound
        elif isinstance(entry, Settle):
            cost = entry.used.completion
            if name in self.held:
                self.settled[name] = self.held.pop(name)[0], cost
            elif name in self.released or self.settled[name][1] != cost:
                return Conflict
        elif name in self.settled:
            return Conflict
        elif name in self.held:
            del self.held[name]
            self.released.add(name)
        return None


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(ENTRIES, min_size=1, max_size=8), max_size=8))
def test_any_entries_in_any_transactions_do_what_they_do_one_by_one(
    transactions: list[list[Entry]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        db = make_database(Path(folder) / "db.sqlite")
        adopt(db, ALICE, CARD)
        set_budget(db, ALICE, "project", "total", LIMIT)
        model, cards = Model(), Cards()
        for at_ms, entries in enumerate(transactions):
            with db.write() as connection:
                outcomes = book.post(connection, entries, cards, at_ms)
            for entry, outcome in zip(entries, outcomes, strict=True):
                refusal = model.enter(entry)
                assert isinstance(outcome, refusal or (Reservation, Charge)), (entry, outcome)
            for who in (ALICE, BOB):
                assert balance(db, who, "project", None) == model.sum_of(who.project_id)
            assert balance(db, ALICE, "org", None) == model.sum_of()
            assert {row.id for row in unsettled(db)} == set(model.held)
            assert differences(db) == [] and unmatched(db) == [] and hours.differing(db) == []
        db.close()
