"""API keys: create, list, revoke, and the ring that knows them in memory.

A secret is shown once and stored only as its hash. The server authenticates from `KeyRing`, so
that a request never waits for the database.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from bessemer.access import keys as secrets
from bessemer.access.roles import effective
from bessemer.access.tables import api_keys, organizations
from bessemer.app import audit
from bessemer.app.platform import Platform
from bessemer.app.rights import Rights
from bessemer.core.database import now_ms
from bessemer.core.errors import InvalidInput, NotFound, PermissionDenied, Unauthenticated
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal

SCOPES = secrets.SCOPES  # all that there are, with what each lets one do
DEFAULT_SCOPES = ("chat", "models:read")
MAX_NAME = 200
MAX_EXPIRY_S = 100 * 365 * 86_400

# What an invite's token may do, and nothing else can: be accepted.
INVITE_SCOPE = "invite:accept"

Kind = Literal["project", "admin", "invite"]

# How much of a hash finds its entry in the ring; all of it is then compared in constant time.
_INDEX_HEX = 16
# When a key was last used is written down this often.
_NOTE_USE_S = 60.0
# A key of an archived project ended before all time.
_ARCHIVED_S = 0.0


@dataclass(frozen=True)
class KeyInfo:
    """What may be known of a key after it was made. `hint` ends with the secret's last four."""

    id: str
    name: str
    hint: str
    scopes: tuple[str, ...]
    created_ms: int
    revoked_ms: int | None = None
    expires_ms: int | None = None
    used_ms: int | None = None
    owner_id: str = ""
    project_id: str = ""


@dataclass(frozen=True)
class NewKey:
    """A key at the only moment its secret can be seen."""

    id: str
    name: str
    secret: str
    hint: str
    scopes: tuple[str, ...]
    created_ms: int
    expires_ms: int | None = None
    owner_id: str = ""
    project_id: str = ""

    def __repr__(self) -> str:
        return f"NewKey(id={self.id!r}, name={self.name!r}, hint={self.hint!r})"


def create_key(
    platform: Platform,
    principal: Principal,
    name: str,
    scopes: Iterable[str] = DEFAULT_SCOPES,
    *,
    expires_in_s: float | None = None,
) -> NewKey:
    """Make a key that acts for `principal` in the principal's project.

    Raises:
        PermissionDenied: a key cannot give away more than its maker holds, now or by their roles.
        Conflict: the project is archived.
    """
    principal.require("keys:write")
    chosen = secrets.check_scopes(scopes)
    _refuse_escalation(principal, chosen)
    with platform.db.write() as connection:
        Rights(connection).require(principal.owner_id, principal.project_id, chosen)
        return insert_key(
            connection,
            principal,
            name,
            chosen,
            owner_id=principal.owner_id,
            project_id=principal.project_id,
            expires_in_s=expires_in_s,
        )


def insert_key(
    connection: sa.Connection,
    maker: Principal,
    name: str,
    scopes: frozenset[str],
    *,
    owner_id: str,
    project_id: str,
    kind: Kind = "project",
    expires_in_s: float | None = None,
) -> NewKey:
    """A key of `owner_id`'s, within a transaction of a caller who has checked who may have it."""
    if not name.strip() or len(name) > MAX_NAME:
        raise InvalidInput(
            f"a key's name has 1 to {MAX_NAME} characters, not {len(name)}", param="name"
        )
    if expires_in_s is not None and expires_in_s > MAX_EXPIRY_S:
        raise InvalidInput("a key expires within 100 years, or never", param="expires_in_seconds")
    secret, made_ms = secrets.make_secret(), now_ms()
    key = NewKey(
        new_id("key"),
        name,
        secret,
        secrets.hint(secret),
        tuple(sorted(scopes)),
        made_ms,
        None if expires_in_s is None else made_ms + round(expires_in_s * 1000),
        owner_id,
        project_id,
    )
    row = {
        "id": key.id,
        "org_id": maker.org_id,
        "project_id": project_id,
        "owner_id": owner_id,
        "created_ms": made_ms,
        "name": name,
        "secret_hash": secrets.hash_secret(secret),
        "hint": key.hint,
        "scopes": " ".join(key.scopes),
        "kind": kind,
        "expires_ms": key.expires_ms,
    }
    connection.execute(api_keys.insert().values(row))
    if kind != "invite":
        facts = {
            "name": name,
            "scopes": list(key.scopes),
            "owner_id": owner_id,
            "kind": kind,
            "expires_ms": key.expires_ms,
        }
        audit.record(
            connection, maker, "api_key.created", key.id, after=facts, project_id=project_id
        )
    return key


def list_keys(platform: Platform, principal: Principal) -> list[KeyInfo]:
    """The project's keys, newest first, revoked ones included."""
    principal.require("keys:read")
    query = (
        sa.select(api_keys)
        .where(api_keys.c.project_id == principal.project_id, api_keys.c.kind == "project")
        .order_by(api_keys.c.id.desc())
    )
    with platform.db.read() as connection:
        return [info(row) for row in connection.execute(query)]


def revoke_key(platform: Platform, principal: Principal, key_id: str) -> KeyInfo:
    """End a key. Servers notice within about a second. Revoking twice keeps the first time.

    Raises:
        NotFound: the project has no such key.
    """
    principal.require("keys:write")
    mine = (api_keys.c.project_id == principal.project_id) & (api_keys.c.kind == "project")
    with platform.db.write() as connection:
        end_keys(connection, principal, mine & (api_keys.c.id == key_id))
        row = connection.execute(sa.select(api_keys).where(mine, api_keys.c.id == key_id)).first()
    if row is None:
        raise NotFound(f"there is no key {key_id!r}", next_step="bessemer key list")
    return info(row)


def end_keys(connection: sa.Connection, by: Principal, where: sa.ColumnElement[bool]) -> int:
    """Revoke all that are `where`, within the caller's transaction; how many those were."""
    living = where & api_keys.c.revoked_ms.is_(None)
    rows = connection.execute(sa.select(api_keys).where(living)).all()
    connection.execute(api_keys.update().where(living).values(revoked_ms=now_ms()))
    for row in rows:
        if row.kind != "invite":
            before = {"name": row.name, "scopes": row.scopes.split(), "owner_id": row.owner_id}
            audit.record(
                connection, by, "api_key.deleted", row.id, before=before, project_id=row.project_id
            )
    return len(rows)


def info(row: sa.Row[Any]) -> KeyInfo:
    return KeyInfo(
        row.id,
        row.name,
        row.hint,
        tuple(row.scopes.split()),
        row.created_ms,
        row.revoked_ms,
        row.expires_ms,
        row.used_ms,
        row.owner_id,
        row.project_id,
    )


@dataclass(slots=True)
class _Entry:
    """`ends_s` is Unix seconds; a key that has ended says `why`."""

    secret_hash: str
    principal: Principal
    ends_s: float
    why: str
    used_s: float = 0.0

    @property
    def is_of_archived_project(self) -> bool:
        return self.ends_s == _ARCHIVED_S


class KeyRing:
    """The valid keys in memory: hash -> principal, bound by the roles of the key's owner.

    `authenticate` never touches the database. Call `refresh` about once a second, off the event
    loop, and after a change; it reads one number, and everything only when keys, people, roles or
    projects changed.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._version: int | None = None
        self._entries: dict[str, _Entry] = {}
        self._by_id: dict[str | None, _Entry] = {}
        self._noted_s = time.time()
        # Without it a slow reader would put back what a quicker one has just seen revoked.
        self._reading = threading.Lock()
        self.refresh()

    def authenticate(self, secret: str) -> Principal:
        """Raises Unauthenticated unless `secret` is a valid key of this installation."""
        found = secrets.hash_secret(secret)
        entry = self._entries.get(found[:_INDEX_HEX])
        if entry is None or not secrets.matches(found, entry.secret_hash):
            raise Unauthenticated(
                "this API key is not valid here, or was revoked", next_step="bessemer key create"
            )
        now_s = time.time()
        if entry.ends_s <= now_s:
            raise Unauthenticated(f"this API key {entry.why}", next_step="bessemer key create")
        entry.used_s = now_s
        return entry.principal

    def standing(self, principal: Principal) -> Principal:
        """Who a principal is now, with the rights of its key today.

        Without a key it is somebody at this machine, and stays who they are. What was asked for
        before a key expired is still done.

        Raises:
            Unauthenticated: the key was revoked, its owner is gone, or its project is archived.
        """
        if principal.key_id is None:
            return principal
        entry = self._by_id.get(principal.key_id)
        if entry is None or entry.is_of_archived_project:
            why = "was revoked" if entry is None else entry.why
            raise Unauthenticated(
                f"the API key {principal.key_id}, in whose name this is done, {why}",
                next_step="ask for it again with a key that is valid",
            )
        return entry.principal

    def refresh(self) -> bool:
        """Look whether anything changed since the last time, and if so read it. True if so."""
        with self._reading:
            changed = self._learn()
            self._note_use()
        return changed

    def _learn(self) -> bool:
        with self._platform.db.read() as connection:
            version = _version(connection)
            if version == self._version:
                return False
            rows = connection.execute(sa.select(api_keys).where(api_keys.c.revoked_ms.is_(None)))
            rights = Rights(connection)
            entries = [_entry(row, rights) for row in rows]
        before, self._entries = self._entries, {
            entry.secret_hash[:_INDEX_HEX]: entry for entry in entries if entry is not None
        }  # fmt: skip
        self._by_id = {entry.principal.key_id: entry for entry in self._entries.values()}
        for index, entry in self._entries.items():
            if index in before:
                entry.used_s = before[index].used_s
        self._version = version
        return True

    def _note_use(self) -> None:
        """Once a minute, write down which keys were used since the last time."""
        since_s, now_s = self._noted_s, time.time()
        if now_s - since_s < _NOTE_USE_S:
            return
        self._noted_s = now_s
        used = {e.principal.key_id: e.used_s for e in self._entries.values() if e.used_s >= since_s}
        if not used:
            return
        with self._platform.db.write() as connection:
            for key_id, used_s in used.items():
                connection.execute(
                    api_keys.update()
                    .where(api_keys.c.id == key_id)
                    .values(used_ms=round(used_s * 1000))
                )


def _version(connection: sa.Connection) -> int:
    return int(connection.execute(sa.select(sa.func.sum(organizations.c.version))).scalar() or 0)


def _entry(row: sa.Row[Any], rights: Rights) -> _Entry | None:
    """None where the key's owner is no longer here."""
    scopes = frozenset(row.scopes.split())
    if row.kind != "invite":
        if not rights.is_here(row.owner_id):
            return None
        scopes = effective(scopes, rights.bound(row.owner_id, row.project_id))
    models = rights.models(row.project_id)
    principal = Principal(row.org_id, row.project_id, row.owner_id, scopes, row.id, models)
    if rights.is_archived(row.project_id):
        return _Entry(row.secret_hash, principal, _ARCHIVED_S, "is of a project that is archived")
    ends_s = math.inf if row.expires_ms is None else row.expires_ms / 1000
    return _Entry(row.secret_hash, principal, ends_s, "has expired")


def _refuse_escalation(principal: Principal, scopes: frozenset[str]) -> None:
    beyond = sorted(scope for scope in scopes if not principal.holds(scope))
    if beyond:
        raise PermissionDenied(f"a key cannot give scopes its maker lacks: {', '.join(beyond)}")
