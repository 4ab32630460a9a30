"""The ledger's three verbs, each durable before it is answered.

    ledger = Ledger(db)
    await asyncio.wrap_future(ledger.reserve(principal, "req_1", "smollm2", "chat", most))
    ...the work...
    await asyncio.wrap_future(ledger.settle("req_1", used))        # or .release(...) if it failed

Each gives a future at once and writes in a thread; a caller without an event loop takes
`.result()`. A future that is done means that the rows are committed: no end of the process loses
them, and a power cut only what is younger than 50 ms (decision 0013). Entries are made in the order
of the calls, and a submitted entry cannot be taken back: whoever is canceled while it waits for a
reservation releases the request, and the release comes after the reservation.

After a crash every reserved request is settled, or it is open and in `unsettled`, its reservation
held. Nothing settles or releases it by itself, because nobody knows whether the answer was
delivered: settle it if the counts are known, or release it with a reason.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from sqlalchemy.exc import IntegrityError

from bessemer.core.database import Database, now_ms
from bessemer.core.principal import Principal
from bessemer.ledger import book, budgets, tables
from bessemer.ledger.budgets import Balance
from bessemer.ledger.cards import Cards
from bessemer.ledger.counts import Counts
from bessemer.ledger.entries import (
    Charge,
    Entry,
    Kind,
    Outcome,
    Release,
    Reservation,
    Reserve,
    Settle,
    accounts_of,
)
from bessemer.ledger.group_commit import MOST_AT_ONCE, GroupCommit
from bessemer.ledger.rate_card import money

_log = logging.getLogger(__name__)


class Ledger:
    """Reserves, settles and releases; safe to use from threads, and from several processes at once.

    Args:
        db: whose schema has the ledger's tables. Not closed here.
        clock_ms: Unix milliseconds.
        at_once: most entries in one transaction; 1 is a transaction each.
    """

    def __init__(
        self, db: Database, clock_ms: Callable[[], int] = now_ms, at_once: int = MOST_AT_ONCE
    ) -> None:
        self._db = db
        self._clock_ms = clock_ms
        self._cards = Cards()
        self._connection, self._known = db.writer(), book.Known()
        self._writer: GroupCommit[Entry, Any] = GroupCommit(
            self._post, at_once, self._connection.sync
        )

    def reserve(
        self, principal: Principal, request_id: str, model: str, kind: Kind, most: Counts
    ) -> Future[Reservation]:
        """Hold what the request may cost at most, priced by the card in force.

        The future raises:
            BudgetExceeded: it does not fit a budget of the project or the organization.
            Conflict: the id was reserved before, or no card is in force.
            InvalidInput: the card has no price for the model. (What is wrong with the arguments
                themselves is raised by the call.)
        """
        return self._submit(Reserve(principal, request_id, model, kind, most))

    def settle(self, request_id: str, used: Counts, may_wait: bool = False) -> Future[Charge]:
        """Write the usage row and close the reservation, in one transaction, once.

        Priced by the card of the reservation. Settling again with the same counts gives the same
        charge and changes nothing. What was used is charged whole, also where it is more than was
        reserved: the work is done. A budget can be passed by that excess, and by nothing else.

        The future raises:
            Conflict: it was settled with other counts, or released.
            NotFound: it was never reserved.
        """
        return self._submit(Settle(request_id, used), may_wait)

    def release(
        self, request_id: str, actor: str, reason: str, may_wait: bool = False
    ) -> Future[Reservation]:
        """Close the reservation without a charge. Releasing again changes nothing.

        The future raises:
            Conflict: it was settled.
            NotFound: it was never reserved.
        """
        return self._submit(Release(request_id, actor, reason), may_wait)

    def hurry(self) -> None:
        """Write at once what may wait."""
        self._writer.hurry()

    def close(self) -> None:
        """Write what is queued and stop."""
        self._writer.close()
        self._connection.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _submit(self, entry: Entry, may_wait: bool = False) -> Future[Any]:
        entry.check()
        return self._writer.submit(entry, may_wait)

    def _post(self, entries: Sequence[Entry]) -> list[Outcome | Exception]:
        try:
            return self._write(entries, new_ids=True)
        except IntegrityError:
            # Some id was reserved before: look which, and refuse that entry alone.
            return self._write(entries, new_ids=False)

    def _write(self, entries: Sequence[Entry], new_ids: bool) -> list[Outcome | Exception]:
        try:
            with self._connection.write() as connection:
                if self._connection.others_wrote:
                    self._known = book.Known()
                # The time is read under the lock, so that it does not run against the order.
                at_ms = self._clock_ms()
                outcomes = book.post(connection, entries, self._cards, at_ms, self._known, new_ids)
        except BaseException:
            self._known = book.Known()
            raise
        self._tell()
        return outcomes

    def _tell(self) -> None:
        for firing in self._known.told:
            _log.warning(
                "spend alert %s: %s has spent %s in %s, and the threshold is %s",
                firing.alert_id,
                firing.account.replace(":", " "),
                money(firing.settled_micro),
                firing.month,
                money(firing.threshold_micro),
            )
        self._known.told.clear()


def unsettled(db: Database, before_ms: int | None = None) -> list[Reservation]:
    """Open reservations, oldest first: requests in flight, and those a crash left behind.

    Asked before the first request is taken, all are of the second sort; while serving,
    `before_ms` (Unix milliseconds) leaves out those that are younger.
    """
    rows = tables.reservations
    query = book.select_reservations().where(rows.c.state == "open")
    if before_ms is not None:
        query = query.where(rows.c.created_ms < before_ms)
    with db.read() as connection:
        found = connection.execute(query.order_by(rows.c.created_ms, rows.c.id))
        return [Reservation(*row) for row in found]


def balance(db: Database, principal: Principal, scope: budgets.Scope, month: str | None) -> Balance:
    """Of the principal's project or organization, in a month (`2026-11`) or, by None, in all."""
    project, org = accounts_of(principal.project_id, principal.org_id)
    account = project if scope == "project" else org
    with db.read() as connection:
        return budgets.total(book.balances_of(connection, {account}), account, month)
