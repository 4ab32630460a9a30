"""The keys of a project as OpenAI's API sees them: with their owner, without those that ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import sqlalchemy as sa

from bessemer.access.tables import api_keys, people, service_accounts
from bessemer.app.keys import KeyInfo, NewKey, create_key, end_keys, info
from bessemer.app.paging import PageRequest, read_page
from bessemer.app.people import roles_in
from bessemer.app.platform import Platform
from bessemer.app.projects import READ_SCOPE as ORGANIZATIONS_READ_SCOPE
from bessemer.app.projects import reach
from bessemer.app.rights import Rights
from bessemer.core.errors import NotFound
from bessemer.core.principal import Principal

READ_SCOPE, WRITE_SCOPE = "keys:read", "keys:write"


class Owner(NamedTuple):
    """Who a key acts for. `email` is None of a service account; `role` is the one in the project,
    or `none` where only the organization lets them in.
    """

    id: str
    name: str
    email: str | None
    role: str
    created_ms: int


class OwnedKey(NamedTuple):
    """A living key. `active` says whether its owner may do anything in the project."""

    key: KeyInfo
    owner: Owner
    active: bool


def list_keys(
    platform: Platform,
    principal: Principal,
    project_id: str,
    asked: PageRequest,
    *,
    active: bool | None = None,
) -> tuple[list[OwnedKey], bool]:
    """A page of the project's living keys; with `active`, of those whose owner is, or is not."""
    with platform.db.read() as connection:
        reach(connection, principal, project_id, own=READ_SCOPE)
        rights, where = Rights(connection), _living(project_id)
        if active is not None:
            living = sa.select(api_keys.c.owner_id).where(where).distinct()
            owners = connection.execute(living).scalars()
            chosen = [one for one in owners if bool(rights.bound(one, project_id)) is active]
            where &= api_keys.c.owner_id.in_(chosen)
        rows, has_more = read_page(connection, api_keys, where, asked)
        return [_owned(connection, rights, row) for row in rows], has_more


def known(platform: Platform, principal: Principal, key_ids: Iterable[str]) -> list[KeyInfo]:
    """Those of the organization's keys that have these ids, in any project, ended ones too."""
    principal.require(ORGANIZATIONS_READ_SCOPE)
    where = (api_keys.c.org_id == principal.org_id) & api_keys.c.id.in_(list(key_ids))
    with platform.db.read() as connection:
        return [info(row) for row in connection.execute(sa.select(api_keys).where(where))]


def get(platform: Platform, principal: Principal, project_id: str, key_id: str) -> OwnedKey:
    """Raises NotFound."""
    with platform.db.read() as connection:
        reach(connection, principal, project_id, own=READ_SCOPE)
        where = _living(project_id) & (api_keys.c.id == key_id)
        row = connection.execute(sa.select(api_keys).where(where)).first()
        if row is None:
            raise _missing(project_id, key_id)
        return _owned(connection, Rights(connection), row)


def create(
    platform: Platform,
    principal: Principal,
    project_id: str,
    name: str,
    scopes: Iterable[str],
    expires_in_s: float | None = None,
) -> NewKey:
    """A key that acts for the principal in this project; raises as `keys.create_key`."""
    with platform.db.read() as connection:
        reach(connection, principal, project_id, write=True, own=WRITE_SCOPE)
    there = replace(principal, project_id=project_id)
    return create_key(platform, there, name, scopes, expires_in_s=expires_in_s)


def delete(platform: Platform, principal: Principal, project_id: str, key_id: str) -> None:
    """End a key. Servers notice within about a second."""
    with platform.db.write() as connection:
        reach(connection, principal, project_id, write=True, own=WRITE_SCOPE)
        ended = end_keys(connection, principal, _living(project_id) & (api_keys.c.id == key_id))
    if not ended:
        raise _missing(project_id, key_id)


def _living(project_id: str) -> sa.ColumnElement[bool]:
    mine = (api_keys.c.project_id == project_id) & (api_keys.c.kind == "project")
    return mine & api_keys.c.revoked_ms.is_(None)


def _missing(project_id: str, key_id: str) -> NotFound:
    return NotFound(
        f"there is no key {key_id[:100]!r} in this project",
        next_step=f"GET /v1/organization/projects/{project_id}/api_keys",
        param="api_key_id",
    )


def _owned(connection: sa.Connection, rights: Rights, row: sa.Row[Any]) -> OwnedKey:
    active = bool(rights.bound(row.owner_id, row.project_id))
    return OwnedKey(info(row), owner_of(connection, row.owner_id, row.project_id), active)


def owner_of(connection: sa.Connection, owner_id: str, project_id: str) -> Owner:
    """A person or service account with their role there; by the id alone if they are gone."""
    role = roles_in(connection, project_id, [owner_id]).get(owner_id, "none")
    person = connection.execute(sa.select(people).where(people.c.id == owner_id)).first()
    if person is not None:
        return Owner(owner_id, person.name, person.email, role, person.created_ms)
    account = connection.execute(
        sa.select(service_accounts).where(service_accounts.c.id == owner_id)
    ).first()
    if account is not None:
        return Owner(owner_id, account.name, None, role, account.created_ms)
    return Owner(owner_id, owner_id, None, role, 0)
