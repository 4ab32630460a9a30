"""Service accounts: who a program is, apart from any person. Each belongs to one project.

An account is an owner or a member of its project, or has no role, and then its keys do nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal, NamedTuple

import sqlalchemy as sa

from bessemer.access.keys import check_scopes
from bessemer.access.roles import check_role
from bessemer.access.tables import api_keys, grants, service_accounts
from bessemer.app import audit
from bessemer.app.keys import NewKey, end_keys, insert_key
from bessemer.app.paging import PageRequest, read_page
from bessemer.app.people import roles_in, set_role_of
from bessemer.app.platform import Platform
from bessemer.app.projects import reach
from bessemer.app.rights import Rights
from bessemer.core.database import now_ms
from bessemer.core.errors import InvalidInput, NotFound
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal

ROLES: Final = ("owner", "member")
MAX_NAME = 200

AccountRole = Literal["owner", "member", "none"]


class ServiceAccount(NamedTuple):
    """A row of `service_accounts`, and the role it has in its project."""

    id: str
    name: str
    role: AccountRole
    created_ms: int
    project_id: str


class NewAccount(NamedTuple):
    """An account and its first key, at the only moment the secret can be seen."""

    account: ServiceAccount
    key: NewKey | None


def create(
    platform: Platform, principal: Principal, project_id: str, name: str, *, bare: bool = False
) -> NewAccount:
    """A member of the project with a key for all that a member may; `bare`, without either."""
    account_id = new_id(audit.SERVICE_ACCOUNT_PREFIX)
    with platform.db.write() as connection:
        reach(connection, principal, project_id, write=True)
        row = {
            "id": account_id,
            "org_id": principal.org_id,
            "project_id": project_id,
            "owner_id": principal.owner_id,
            "created_ms": now_ms(),
            "name": _check_name(name),
        }
        connection.execute(service_accounts.insert().values(row))
        role: AccountRole = "none" if bare else "member"
        if role != "none":
            set_role_of(connection, principal, account_id, project_id, role)
        audit.record(
            connection, principal, "service_account.created", account_id,
            after={"name": name, "role": role}, project_id=project_id,
        )  # fmt: skip
        account = _read(connection, project_id, account_id)
        key = None if bare else _insert_key(connection, principal, account, name, ["*"])
    return NewAccount(account, key)


def list_accounts(
    platform: Platform, principal: Principal, project_id: str, asked: PageRequest
) -> tuple[list[ServiceAccount], bool]:
    """A page of the project's."""
    with platform.db.read() as connection:
        reach(connection, principal, project_id)
        where = service_accounts.c.project_id == project_id
        rows, has_more = read_page(connection, service_accounts, where, asked)
        return [_account(connection, row) for row in rows], has_more


def get(
    platform: Platform, principal: Principal, project_id: str, account_id: str
) -> ServiceAccount:
    """Raises NotFound."""
    with platform.db.read() as connection:
        reach(connection, principal, project_id)
        return _read(connection, project_id, account_id)


def update(
    platform: Platform,
    principal: Principal,
    project_id: str,
    account_id: str,
    *,
    name: str | None = None,
    role: str | None = None,
) -> ServiceAccount:
    """Another name, another role, or both."""
    with platform.db.write() as connection:
        reach(connection, principal, project_id, write=True)
        before = _read(connection, project_id, account_id)
        if name is not None:
            mine = service_accounts.c.id == account_id
            connection.execute(service_accounts.update().where(mine).values(name=_check_name(name)))
        if role is not None:
            chosen = check_role(role, ROLES)
            set_role_of(connection, principal, account_id, project_id, chosen)
        after = _read(connection, project_id, account_id)
        if after != before:
            audit.record(
                connection, principal, "service_account.updated", account_id,
                before={"name": before.name, "role": before.role},
                after={"name": after.name, "role": after.role},
                project_id=project_id,
            )  # fmt: skip
        return after


def delete(platform: Platform, principal: Principal, project_id: str, account_id: str) -> None:
    """End an account and its keys. What it made stays."""
    with platform.db.write() as connection:
        reach(connection, principal, project_id, write=True)
        account = _read(connection, project_id, account_id)
        end_keys(connection, principal, api_keys.c.owner_id == account_id)
        connection.execute(grants.delete().where(grants.c.holder_id == account_id))
        connection.execute(service_accounts.delete().where(service_accounts.c.id == account_id))
        audit.record(
            connection, principal, "service_account.deleted", account_id,
            before={"name": account.name, "role": account.role}, project_id=project_id,
        )  # fmt: skip


def create_key(
    platform: Platform,
    principal: Principal,
    project_id: str,
    account_id: str,
    name: str | None = None,
    scopes: Iterable[str] = ("*",),
) -> NewKey:
    """Another key of an account; `*` is all that its role lets it do.

    Raises:
        PermissionDenied: its role does not reach one of the scopes.
    """
    with platform.db.write() as connection:
        reach(connection, principal, project_id, write=True)
        account = _read(connection, project_id, account_id)
        return _insert_key(connection, principal, account, name or account.name, scopes)


def _insert_key(
    connection: sa.Connection,
    principal: Principal,
    account: ServiceAccount,
    name: str,
    scopes: Iterable[str],
) -> NewKey:
    chosen = check_scopes(scopes)
    Rights(connection).require(account.id, account.project_id, chosen)
    return insert_key(
        connection, principal, name, chosen, owner_id=account.id, project_id=account.project_id
    )


def _read(connection: sa.Connection, project_id: str, account_id: str) -> ServiceAccount:
    mine = (service_accounts.c.id == account_id) & (service_accounts.c.project_id == project_id)
    row = connection.execute(sa.select(service_accounts).where(mine)).first()
    if row is None:
        raise NotFound(
            f"there is no service account {account_id[:100]!r} in this project",
            next_step=f"GET /v1/organization/projects/{project_id}/service_accounts",
            param="service_account_id",
        )
    return _account(connection, row)


def _account(connection: sa.Connection, row: sa.Row[Any]) -> ServiceAccount:
    found = roles_in(connection, row.project_id, [row.id]).get(row.id)
    role: AccountRole = found if found == "owner" or found == "member" else "none"
    return ServiceAccount(row.id, row.name, role, row.created_ms, row.project_id)


def _check_name(name: str) -> str:
    if not name.strip() or len(name) > MAX_NAME:
        raise InvalidInput(
            f"a service account's name has 1 to {MAX_NAME} characters, not {len(name)}",
            param="name",
        )
    return name
