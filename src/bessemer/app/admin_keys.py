"""Admin keys: for the organization, its projects and people, and for nothing in any project."""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa

from bessemer.access.tables import ORGANIZATION, api_keys
from bessemer.app.keys import KeyInfo, NewKey, end_keys, info, insert_key
from bessemer.app.paging import PageRequest, read_page
from bessemer.app.platform import Platform
from bessemer.app.project_keys import Owner, owner_of
from bessemer.app.rights import Rights
from bessemer.core.errors import NotFound
from bessemer.core.principal import Principal

SCOPES = frozenset({"org:read", "org:write"})


class AdminKey(NamedTuple):
    """A living admin key and whose it is."""

    key: KeyInfo
    owner: Owner


class NewAdminKey(NamedTuple):
    """An admin key at the only moment its secret can be seen."""

    key: NewKey
    owner: Owner


def create(
    platform: Platform, principal: Principal, name: str, expires_in_s: float | None = None
) -> NewAdminKey:
    """A key of the principal's for the whole organization.

    Raises:
        PermissionDenied: their roles do not let them change it.
    """
    principal.require("org:write")
    with platform.db.write() as connection:
        Rights(connection).require(principal.owner_id, ORGANIZATION, SCOPES)
        key = insert_key(
            connection,
            principal,
            name,
            SCOPES,
            owner_id=principal.owner_id,
            project_id=ORGANIZATION,
            kind="admin",
            expires_in_s=expires_in_s,
        )
        return NewAdminKey(key, owner_of(connection, principal.owner_id, ORGANIZATION))


def list_keys(
    platform: Platform, principal: Principal, asked: PageRequest
) -> tuple[list[AdminKey], bool]:
    """A page of the organization's living admin keys."""
    principal.require("org:read")
    with platform.db.read() as connection:
        rows, has_more = read_page(connection, api_keys, _living(principal), asked)
        return [_admin_key(connection, row) for row in rows], has_more


def get(platform: Platform, principal: Principal, key_id: str) -> AdminKey:
    """Raises NotFound."""
    principal.require("org:read")
    where = _living(principal) & (api_keys.c.id == key_id)
    with platform.db.read() as connection:
        row = connection.execute(sa.select(api_keys).where(where)).first()
        if row is None:
            raise _missing(key_id)
        return _admin_key(connection, row)


def delete(platform: Platform, principal: Principal, key_id: str) -> None:
    """End an admin key."""
    principal.require("org:write")
    with platform.db.write() as connection:
        ended = end_keys(connection, principal, _living(principal) & (api_keys.c.id == key_id))
    if not ended:
        raise _missing(key_id)


def _living(principal: Principal) -> sa.ColumnElement[bool]:
    mine = (api_keys.c.org_id == principal.org_id) & (api_keys.c.kind == "admin")
    return mine & api_keys.c.revoked_ms.is_(None)


def _missing(key_id: str) -> NotFound:
    return NotFound(
        f"there is no admin key {key_id[:100]!r}",
        next_step="GET /v1/organization/admin_api_keys",
        param="key_id",
    )


def _admin_key(connection: sa.Connection, row: sa.Row[Any]) -> AdminKey:
    return AdminKey(info(row), owner_of(connection, row.owner_id, ORGANIZATION))
