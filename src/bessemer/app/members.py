"""Who was let into a project, and as what: owner, member or reader of it.

Owners of the organization, and its members, come into every project without being on its list.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa

from bessemer.access.roles import ROLES, Role, check_role
from bessemer.access.tables import grants, people
from bessemer.app import audit
from bessemer.app.paging import PageRequest, read_page
from bessemer.app.people import Person, read, set_role_of
from bessemer.app.platform import Platform
from bessemer.app.projects import reach
from bessemer.core.errors import Conflict, NotFound
from bessemer.core.principal import Principal


class Member(NamedTuple):
    """A person in a project; `role` is the one there."""

    person: Person
    role: Role
    added_ms: int


def list_members(
    platform: Platform, principal: Principal, project_id: str, asked: PageRequest
) -> tuple[list[Member], bool]:
    """A page of those who were let in."""
    with platform.db.read() as connection:
        reach(connection, principal, project_id)
        where = _in(project_id) & grants.c.holder_id.in_(sa.select(people.c.id))
        rows, has_more = read_page(connection, grants, where, asked, key=grants.c.holder_id)
        return [_member(connection, row) for row in rows], has_more


def get(platform: Platform, principal: Principal, project_id: str, person_id: str) -> Member:
    """Raises NotFound: there is no such project, or the person is not on its list."""
    with platform.db.read() as connection:
        reach(connection, principal, project_id)
        return _read(connection, project_id, person_id)


def add(
    platform: Platform, principal: Principal, project_id: str, person: str, role: str
) -> Member:
    """Let a person of the organization in, by id or e-mail.

    Raises:
        Conflict: they are in already.
    """
    chosen = check_role(role)
    with platform.db.write() as connection:
        reach(connection, principal, project_id, write=True)
        found = read(connection, principal.org_id, person)
        if connection.execute(_row(project_id, found.id)).first() is not None:
            raise Conflict(f"{found.email} is in this project already", param="user_id")
        return insert(connection, principal, project_id, found, chosen)


def set_role(
    platform: Platform, principal: Principal, project_id: str, person_id: str, role: str
) -> Member:
    """Give a person another role in the project."""
    chosen = check_role(role)
    with platform.db.write() as connection:
        reach(connection, principal, project_id, write=True)
        member = _read(connection, project_id, person_id)
        if member.role == chosen:
            return member
        set_role_of(connection, principal, person_id, project_id, chosen)
        audit.record(
            connection, principal, "project.user.updated", person_id,
            before={"role": member.role}, after={"role": chosen}, project_id=project_id,
        )  # fmt: skip
        return _read(connection, project_id, person_id)


def remove(platform: Platform, principal: Principal, project_id: str, person_id: str) -> None:
    """Take a person off the project's list, with every role in it; their keys for it end with that
    unless the organization lets them in.
    """
    with platform.db.write() as connection:
        reach(connection, principal, project_id, write=True)
        member = _read(connection, project_id, person_id)
        all_of_them = (grants.c.holder_id == person_id) & (grants.c.project_id == project_id)
        connection.execute(grants.delete().where(all_of_them))
        audit.record(
            connection, principal, "project.user.deleted", person_id,
            before={"role": member.role}, project_id=project_id,
        )  # fmt: skip


def insert(
    connection: sa.Connection, by: Principal, project_id: str, person: Person, role: Role
) -> Member:
    """Let in who is not in yet, within a transaction of a caller who has checked who may."""
    set_role_of(connection, by, person.id, project_id, role)
    audit.record(
        connection, by, "project.user.added", person.id,
        after={"role": role, "email": person.email}, project_id=project_id,
    )  # fmt: skip
    return _read(connection, project_id, person.id)


def _in(project_id: str) -> sa.ColumnElement[bool]:
    return (grants.c.project_id == project_id) & grants.c.role.in_(ROLES)


def _row(project_id: str, person_id: str) -> sa.Select[Any]:
    return sa.select(grants).where(_in(project_id), grants.c.holder_id == person_id)


def _read(connection: sa.Connection, project_id: str, person_id: str) -> Member:
    row = connection.execute(_row(project_id, person_id)).first()
    known = sa.select(people.c.id).where(people.c.id == person_id)
    if row is None or connection.execute(known).first() is None:
        raise NotFound(
            f"there is no user {person_id[:100]!r} in this project",
            next_step=f"GET /v1/organization/projects/{project_id}/users",
            param="user_id",
        )
    return _member(connection, row)


def _member(connection: sa.Connection, row: sa.Row[Any]) -> Member:
    role = check_role(row.role)
    return Member(read(connection, row.org_id, row.holder_id), role, row.created_ms)
