"""Who asks: the bearer key of a request, looked up in memory."""

from __future__ import annotations

from typing import Protocol

from bessemer.app.platform import PROJECT_ID
from bessemer.core.errors import Unauthenticated
from bessemer.core.ids import kind_of
from bessemer.core.principal import Principal
from bessemer.gateway.exchange import Exchange
from bessemer.gateway.failures import MismatchedProject


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
        MismatchedProject: another header asks for another project than the key's.
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
    principal = keyring.authenticate(secret.strip())
    _check_project(exchange.header(b"openai-project"), principal)
    return principal


def _check_project(asked: str | None, principal: Principal) -> None:
    """A key belongs to one project, so the header says nothing new. OpenAI's own ids are left, for
    who moves has them set; ours are known by their form. What an admin key does is in no project.
    """
    if not asked or not principal.project_id or asked == principal.project_id:
        return
    if asked == PROJECT_ID or kind_of(asked) == "proj_":
        raise MismatchedProject(
            "The OpenAI-Project header should match the project of the API key: it is"
            f" {asked[:100]!r}, and the key's is {principal.project_id!r}.",
            next_step="use a key of that project, or unset OPENAI_PROJECT_ID",
        )
