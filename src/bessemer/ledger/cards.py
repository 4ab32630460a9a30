"""Which rate card is in force, and those that were: a request keeps the card of its reservation."""

from __future__ import annotations

import sqlalchemy as sa

from bessemer.core.database import now_ms
from bessemer.core.errors import IntegrityError
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal
from bessemer.ledger import tables
from bessemer.ledger.rate_card import RateCard


def adopt(connection: sa.Connection, principal: Principal, card: RateCard) -> str | None:
    """Put a card in force, for reservations from now on. Gives the digest of the one before."""
    before = _newest(connection)
    row = {
        "id": new_id("card"),
        "org_id": principal.org_id,
        "project_id": principal.project_id,
        "owner_id": principal.owner_id,
        "created_ms": now_ms(),
        "digest": card.digest,
        "text": card.canonical,
    }
    connection.execute(tables.rate_cards.insert().values(row))
    return before


def adopt_first(connection: sa.Connection, principal: Principal) -> None:
    """Put `FREE` in force where no card ever was."""
    if _newest(connection) is None:
        adopt(connection, principal, FREE)


def _newest(connection: sa.Connection) -> str | None:
    rows = tables.rate_cards
    return connection.scalar(sa.select(rows.c.digest).order_by(rows.c.id.desc()).limit(1))


FREE = RateCard.parse(
    """
    currency = "usd"
    [[rates]]
    model = "*"
    prompt = 0
    completion = 0
    device_hour = 0
    """
)
"""In force until somebody sets prices: everything is counted and nothing costs anything."""


class Cards:
    """The cards of a database, each read once: what a digest names does not change."""

    def __init__(self) -> None:
        self._read: dict[str, RateCard] = {}

    def in_force(self, connection: sa.Connection) -> RateCard | None:
        digest = _newest(connection)
        return None if digest is None else self.of(connection, digest)

    def of(self, connection: sa.Connection, digest: str) -> RateCard:
        """The card of this digest.

        Raises:
            IntegrityError: the stored text is not the one that the digest was taken of.
        """
        if digest not in self._read:
            rows = tables.rate_cards
            card = RateCard.from_canonical(
                connection.scalars(
                    sa.select(rows.c.text).where(rows.c.digest == digest).limit(1)
                ).one()
            )
            if card.digest != digest:
                raise IntegrityError(
                    f"the stored rate card {digest} has the digest {card.digest}",
                    next_step="restore the table rate_cards from a backup",
                )
            self._read[digest] = card
        return self._read[digest]
