"""Who asks: the bearer key of a request, looked up in memory."""

from __future__ import annotations

from typing import Protocol

from bessemer.core.errors import Unauthenticated
from bessemer.core.principal import Principal
from bessemer.gateway.exchange import Exchange


class KeyRing(Protocol):
    """What is needed of `app.keys.KeyRing`: to authenticate waits for no database."""

    def authenticate(self, secret: str) -> Principal:
        """Raises Unauthenticated."""
        ...

    def refresh(self) -> object:
        """Read what changed; in a thread, for it looks into the database."""
        ...


def principal_of(exchange: Exchange, keyring: KeyRing) -> Principal:
    """The key's principal. The secret goes nowhere but to the ring.

    Raises:
        Unauthenticated: no `Authorization: Bearer ...`, or not a key of this server.
    """
    header = exchange.header(b"authorization")
    if header is None:
        raise Unauthenticated(
            "You didn't provide an API key.",
            next_step="send the header Authorization: Bearer YOUR_KEY; "
            "`bessemer key create` makes a key",
        )
    scheme, _, secret = header.partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthenticated(
            "The Authorization header is not of the form `Bearer YOUR_KEY`.",
            next_step="send the header Authorization: Bearer YOUR_KEY",
        )
    return keyring.authenticate(secret.strip())
