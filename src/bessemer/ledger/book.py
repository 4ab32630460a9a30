"""The book: some entries, made in order against what the database says, written in one go.

    open   read what the entries concern: reservations, balances, budgets, the card in force
    enter  one entry after another, in memory; one that is refused changes nothing
    write  the rows that are new or changed

Whoever opens it does so within `Database.write()`, whose lock is held from before `open` until the
commit, so between the two nobody else decides anything.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from bessemer.core.errors import BessemerError, Conflict, NotFound
from bessemer.ledger import alerts, budgets, hours, tables
from bessemer.ledger.budgets import Balance
from bessemer.ledger.cards import Cards
from bessemer.ledger.counts import Counts
from bessemer.ledger.entries import (
    Charge,
    Entry,
    Outcome,
    Release,
    Reservation,
    Reserve,
    Settle,
    accounts_of,
)
from bessemer.ledger.rate_card import RateCard
from bessemer.ledger.statements import Statement


@dataclass
class Known:
    """What the last entries read and left: true for as long as nobody else writes.

    Of `accounts` every balance and limit is here; `open` are reservations that are, and `hours`
    sums that have a row, `fired` what alerts of `accounts` were said. `told` are those of the
    transaction, for who commits it.
    """

    accounts: set[str] = field(default_factory=set)
    balances: dict[tuple[str, str], Balance] = field(default_factory=dict)
    limits: dict[tuple[str, budgets.Period], int] = field(default_factory=dict)
    open: dict[str, Reservation] = field(default_factory=dict)
    hours: set[hours.Key] = field(default_factory=set)
    watched: dict[str, list[alerts.Alert]] = field(default_factory=dict)
    fired: set[alerts.Key] = field(default_factory=set)
    told: list[alerts.Firing] = field(default_factory=list)
    card: RateCard | None = None

    def learn(self, connection: sa.Connection, accounts: set[str]) -> None:
        """Read what is not known of these accounts."""
        if unknown := accounts - self.accounts:
            self.limits.update(budgets.limits_of(connection, unknown))
            self.balances.update(balances_of(connection, unknown))
            found = alerts.alerts_of(connection, unknown)
            for alert in found:
                self.watched.setdefault(alert.account, []).append(alert)
            self.fired |= alerts.fired_of(connection, found)
            self.accounts |= unknown


def post(
    connection: sa.Connection,
    entries: Sequence[Entry],
    cards: Cards,
    at_ms: int,
    known: Known | None = None,
    new_ids: bool = False,
) -> list[Outcome | Exception]:
    """Make the entries within the connection's transaction: for each its outcome, or why not.

    Args:
        known: from the transaction before, if nobody else wrote since then. It is right for the
            next one once this one is committed, and wrong if it is not.
        new_ids: no id of a `Reserve` was used before. It is not looked up then.

    Raises:
        sqlalchemy.exc.IntegrityError: one was.
    """
    book = Book(connection, entries, cards, at_ms, known or Known(), new_ids)
    outcomes = [book.enter(entry) for entry in entries]
    book.write(connection)
    return outcomes


class Book:
    """See the module."""

    def __init__(
        self,
        connection: sa.Connection,
        entries: Sequence[Entry],
        cards: Cards,
        at_ms: int,
        known: Known,
        new_ids: bool,
    ) -> None:
        self._at_ms, self._known = at_ms, known
        self._month = budgets.month_of(at_ms)
        ids = {entry.request_id for entry in entries}
        self._reservations = {name: known.open[name] for name in ids & known.open.keys()}
        new = {entry.request_id for entry in entries if new_ids and isinstance(entry, Reserve)}
        if unknown := ids - self._reservations.keys() - new:
            self._reservations |= _reservations(connection, unknown)
        self._charges = _charges(connection, entries, self._reservations)
        found = self._reservations.values()
        accounts = {account for row in found for account in row.accounts}
        for entry in entries:
            if isinstance(entry, Reserve):
                accounts.update(accounts_of(entry.principal.project_id, entry.principal.org_id))
                known.card = known.card or cards.in_force(connection)
        known.learn(connection, accounts)
        self._card, self._limits, self._balances = known.card, known.limits, known.balances
        self._cards = {row.card: cards.of(connection, row.card) for row in found}
        if self._card:
            self._cards[self._card.digest] = self._card
        self._stored_ids = set(self._reservations)
        self._moved: dict[tuple[str, str], Balance | None] = {}  # with what was before
        self._touched: dict[str, None] = {}  # ids of reservations, in order
        self._new_usage: list[dict[str, object]] = []

    def enter(self, entry: Entry) -> Outcome | Exception:
        try:
            if isinstance(entry, Reserve):
                return self._reserve(entry)
            if isinstance(entry, Settle):
                return self._settle(entry)
            return self._release(entry)
        except BessemerError as refusal:
            return refusal

    def _reserve(self, entry: Reserve) -> Reservation:
        if entry.request_id in self._reservations:
            raise Conflict(
                f"request {entry.request_id} was reserved before",
                next_step="give every request an id of its own",
            )
        who, card = entry.principal, self._card
        if card is None:
            raise Conflict(
                "no rate card is in force", next_step="put one in force: ledger.cards.adopt"
            )
        cost = card.most_micro(entry.model, entry.most)
        accounts = accounts_of(who.project_id, who.org_id)
        for account in accounts:
            budgets.check(self._limits, self._balances, account, self._month, cost)
        reservation = Reservation(
            entry.request_id, who.org_id, who.project_id, who.owner_id, self._at_ms, who.key_id,
            entry.model, entry.kind, card.digest, self._month, cost,
        )  # fmt: skip
        return self._keep(reservation, held_micro=cost)

    def _settle(self, entry: Settle) -> Charge:
        found = self._find(entry.request_id)
        if found.state == "released":
            raise Conflict(
                f"request {found.id} was released by {found.closed_by} ({found.reason}); it cannot"
                f" be charged any more"
            )
        if found.state == "settled":
            return self._settled_before(entry)
        card = self._cards[found.card]
        charge = Charge(
            found.id, entry.used, card.cost_micro(found.model, entry.used), found.reserved_micro
        )
        self._new_usage.append(
            {
                **{name: getattr(found, name) for name in _CARRIED},
                **entry.used._asdict(),
                "cost_micro": charge.cost_micro,
                "settled_ms": self._at_ms,
            }
        )
        self._charges[found.id] = charge
        self._keep(
            found._replace(state="settled", closed_ms=self._at_ms),
            settled_micro=charge.cost_micro,
            held_micro=-found.reserved_micro,
        )
        return charge

    def _settled_before(self, entry: Settle) -> Charge:
        """The same again is an answer that got lost, and changes nothing."""
        charge = self._charges[entry.request_id]
        if charge.used != entry.used:
            raise Conflict(
                f"request {entry.request_id} was settled before with {_words(charge.used)}; now"
                f" with {_words(entry.used)}"
            )
        return charge

    def _release(self, entry: Release) -> Reservation:
        found = self._find(entry.request_id)
        if found.state == "settled":
            raise Conflict(f"request {found.id} is settled; what is charged is not released")
        if found.state == "released":
            return found
        released = found._replace(
            state="released", closed_ms=self._at_ms, closed_by=entry.actor, reason=entry.reason
        )
        return self._keep(released, held_micro=-found.reserved_micro)

    def _find(self, request_id: str) -> Reservation:
        found = self._reservations.get(request_id)
        if found is None:
            raise NotFound(f"nothing was reserved for the request {request_id}")
        return found

    def _keep(
        self, reservation: Reservation, settled_micro: int = 0, held_micro: int = 0
    ) -> Reservation:
        self._reservations[reservation.id] = reservation
        self._touched[reservation.id] = None
        for account in reservation.accounts:
            key = account, reservation.month
            self._moved.setdefault(key, self._balances.get(key))
            balance = self._balances.get(key, Balance())
            self._balances[key] = balance.plus(settled_micro, held_micro)
        return reservation

    def write(self, connection: sa.Connection) -> None:
        """Insert and update, each in one statement for all rows."""
        touched = [self._reservations[name] for name in self._touched]
        fresh = [row._asdict() for row in touched if row.id not in self._stored_ids]
        _RESERVE.run(connection, fresh)
        _CLOSE.run(connection, [_closing(row) for row in touched if row.id in self._stored_ids])
        _USE.run(connection, self._new_usage)
        hours.add(connection, self._new_usage, self._known.hours)
        inserted, updated = [], []
        for key, before in self._moved.items():
            balance, (account, month) = self._balances[key], key
            if before is None:
                inserted.append({"account": account, "month": month, **balance._asdict()})
            elif before != balance:
                updated.append({"of": account, "at": month, **balance._asdict()})
        _BEGIN.run(connection, inserted)
        _MOVE.run(connection, updated)
        self._fire(connection)
        for row in touched:
            if row.state == "open":
                self._known.open[row.id] = row
            else:
                self._known.open.pop(row.id, None)

    def _fire(self, connection: sa.Connection) -> None:
        """Say what alerts the charges of this transaction reached."""
        known = self._known
        for (account, month), before in self._moved.items():
            balance = self._balances[account, month]
            if balance.settled_micro == (before or Balance()).settled_micro:
                continue
            for alert in known.watched.get(account, ()):
                key = alert.key(month)
                if balance.settled_micro >= alert.threshold_micro and key not in known.fired:
                    known.fired.add(key)
                    known.told.append(alerts.fire(connection, alert, month, balance, self._at_ms))


def balances_of(connection: sa.Connection, accounts: set[str]) -> dict[tuple[str, str], Balance]:
    """The balances of these accounts by account and month."""
    if not accounts:
        return {}
    rows = tables.balances
    found = connection.execute(sa.select(rows).where(rows.c.account.in_(accounts)))
    return {(row.account, row.month): Balance(row.settled_micro, row.held_micro) for row in found}


def _reservations(connection: sa.Connection, ids: Collection[str]) -> dict[str, Reservation]:
    found = connection.execute(select_reservations().where(tables.reservations.c.id.in_(ids)))
    return {row.id: Reservation(*row) for row in found}


def _charges(
    connection: sa.Connection, entries: Sequence[Entry], stored: Mapping[str, Reservation]
) -> dict[str, Charge]:
    """What requests that are settled once more were settled with; mostly there are none."""
    again = {
        entry.request_id
        for entry in entries
        if isinstance(entry, Settle)
        and entry.request_id in stored
        and stored[entry.request_id].state == "settled"
    }
    if not again:
        return {}
    rows = tables.usage.c
    counts = [rows[name] for name in Counts._fields]
    found = connection.execute(
        sa.select(rows.id, rows.cost_micro, *counts).where(rows.id.in_(again))
    )
    return {
        name: Charge(name, Counts(*used), cost, stored[name].reserved_micro)
        for name, cost, *used in found
    }


def select_reservations() -> sa.Select[Any]:
    """Rows whose values are those of a `Reservation`."""
    return sa.select(*(tables.reservations.c[name] for name in Reservation._fields))


_CARRIED = ("id", "org_id", "project_id", "owner_id", "created_ms", "key_id", "model", "kind",
            "card")  # fmt: skip
_CLOSED = ("state", "closed_ms", "closed_by", "reason")
_RESERVE = Statement(tables.reservations.insert(), Reservation._fields)
_CLOSE = Statement(
    tables.reservations.update().where(tables.reservations.c.id == sa.bindparam("of")), _CLOSED
)
_USE = Statement(tables.usage.insert(), (*_CARRIED, *Counts._fields, "cost_micro", "settled_ms"))
_BEGIN = Statement(tables.balances.insert(), ("account", "month", *Balance._fields))
_MOVE = Statement(
    tables.balances.update()
    .where(tables.balances.c.account == sa.bindparam("of"))
    .where(tables.balances.c.month == sa.bindparam("at")),
    Balance._fields,
)


def _closing(row: Reservation) -> dict[str, object]:
    return {"of": row.id, **{name: getattr(row, name) for name in _CLOSED}}


def _words(counts: Counts) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts._asdict().items() if count) or (
        "nothing"
    )
