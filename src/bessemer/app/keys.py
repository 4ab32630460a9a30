"""API keys: create, list, revoke, and the ring that knows them in memory.

A secret is shown once and stored only as its hash. The server authenticates from `KeyRing`, so
that a request never waits for the database.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from bessemer.access import keys as secrets
from bessemer.access.tables import api_keys
from bessemer.app.platform import Platform
from bessemer.core.database import now_ms
from bessemer.core.errors import InvalidInput, NotFound, PermissionDenied, Unauthenticated
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal

DEFAULT_SCOPES = ("chat", "models:read")

# How much of a hash finds its entry in the ring; all of it is then compared in constant time.
_INDEX_HEX = 16


@dataclass(frozen=True)
class KeyInfo:
    """What may be known of a key after it was made. `hint` ends with the secret's last four."""

    id: str
    name: str
    hint: str
    scopes: tuple[str, ...]
    created_ms: int
    revoked_ms: int | None = None


@dataclass(frozen=True)
class NewKey:
    """A key at the only moment its secret can be seen."""

    id: str
    name: str
    secret: str
    hint: str
    scopes: tuple[str, ...]
    created_ms: int

    def __repr__(self) -> str:
        return f"NewKey(id={self.id!r}, name={self.name!r}, hint={self.hint!r})"


def create_key(
    platform: Platform,
    principal: Principal,
    name: str,
    scopes: Iterable[str] = DEFAULT_SCOPES,
) -> NewKey:
    """Make a key that acts for `principal`'s project.

    Raises:
        PermissionDenied: a key cannot give away more than its maker holds.
    """
    principal.require("keys:write")
    chosen = secrets.check_scopes(scopes)
    _refuse_escalation(principal, chosen)
    if not name.strip() or len(name) > 200:
        raise InvalidInput(f"a key's name has 1 to 200 characters, not {len(name)}", param="name")
    secret = secrets.make_secret()
    key = NewKey(new_id("key"), name, secret, secrets.hint(secret), tuple(sorted(chosen)), now_ms())
    row = {
        "id": key.id,
        "org_id": principal.org_id,
        "project_id": principal.project_id,
        "owner_id": principal.owner_id,
        "created_ms": key.created_ms,
        "name": key.name,
        "secret_hash": secrets.hash_secret(secret),
        "hint": key.hint,
        "scopes": " ".join(key.scopes),
    }
    with platform.db.write() as connection:
        connection.execute(api_keys.insert().values(row))
    return key


def list_keys(platform: Platform, principal: Principal) -> list[KeyInfo]:
    """The project's keys, newest first, revoked ones included."""
    principal.require("keys:read")
    query = (
        sa.select(api_keys)
        .where(api_keys.c.project_id == principal.project_id)
        .order_by(api_keys.c.id.desc())
    )
    with platform.db.read() as connection:
        return [_info(row) for row in connection.execute(query)]


def revoke_key(platform: Platform, principal: Principal, key_id: str) -> KeyInfo:
    """End a key. Servers notice within about a second. Revoking twice keeps the first time.

    Raises:
        NotFound: the project has no such key.
    """
    principal.require("keys:write")
    mine = (api_keys.c.id == key_id) & (api_keys.c.project_id == principal.project_id)
    with platform.db.write() as connection:
        connection.execute(
            api_keys.update()
            .where(mine, api_keys.c.revoked_ms.is_(None))
            .values(revoked_ms=now_ms())
        )
        row = connection.execute(sa.select(api_keys).where(mine)).first()
    if row is None:
        raise NotFound(f"there is no key {key_id!r}", next_step="bessemer key list")
    return _info(row)


@dataclass(frozen=True)
class _Entry:
    secret_hash: str
    principal: Principal


class KeyRing:
    """The valid keys in memory: hash -> principal.

    `authenticate` never touches the database. Call `refresh` about once a second, off the event
    loop; it reads one row, and all keys only when one was made or revoked.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._version: tuple[int, int] | None = None
        self._entries: dict[str, _Entry] = {}
        self.refresh()

    def authenticate(self, secret: str) -> Principal:
        """Raises Unauthenticated unless `secret` is a valid key of this installation."""
        found = secrets.hash_secret(secret)
        entry = self._entries.get(found[:_INDEX_HEX])
        if entry is None or not secrets.matches(found, entry.secret_hash):
            raise Unauthenticated(
                "this API key is not valid here, or was revoked", next_step="bessemer key create"
            )
        return entry.principal

    def refresh(self) -> bool:
        """Look whether keys changed since the last time, and if so read them. True if so."""
        with self._platform.db.read() as connection:
            version = _version(connection)
            if version == self._version:
                return False
            rows = connection.execute(sa.select(api_keys).where(api_keys.c.revoked_ms.is_(None)))
            entries = [_Entry(row.secret_hash, _principal(row)) for row in rows]
        self._entries = {entry.secret_hash[:_INDEX_HEX]: entry for entry in entries}
        self._version = version
        return True


def _version(connection: sa.Connection) -> tuple[int, int]:
    # Keys are only added and revoked, never deleted or changed, so two counts tell all.
    query = sa.select(sa.func.count(), sa.func.count(api_keys.c.revoked_ms)).select_from(api_keys)
    made, revoked = connection.execute(query).one()
    return int(made), int(revoked)


def _principal(row: sa.Row[tuple[object, ...]]) -> Principal:
    return Principal(
        row.org_id, row.project_id, row.owner_id, frozenset(row.scopes.split()), key_id=row.id
    )


def _info(row: sa.Row[tuple[object, ...]]) -> KeyInfo:
    return KeyInfo(
        row.id, row.name, row.hint, tuple(row.scopes.split()), row.created_ms, row.revoked_ms
    )


def _refuse_escalation(principal: Principal, scopes: frozenset[str]) -> None:
    if "*" in principal.scopes:
        return
    beyond = sorted(scopes - principal.scopes)
    if beyond:
        raise PermissionDenied(f"a key cannot give scopes its maker lacks: {', '.join(beyond)}")
