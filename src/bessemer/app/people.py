"""People of the organization: add, list, give a role, take out.

A person's role in the organization is one of owner, member and reader (`access.roles`); projects,
groups and custom roles can give more. One owner always stays.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from bessemer.access.roles import ROLES, Role, check_role
from bessemer.access.tables import (
    ORGANIZATION,
    api_keys,
    grants,
    group_members,
    people,
    projects,
)
from bessemer.app import audit
from bessemer.app.keys import end_keys
from bessemer.app.paging import PageRequest, read_page
from bessemer.app.platform import Platform
from bessemer.core.database import now_ms
from bessemer.core.errors import Conflict, InvalidInput, NotFound
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal

READ_SCOPE, WRITE_SCOPE = "org:read", "org:write"
MAX_NAME = 200

_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,255}")


class Person(NamedTuple):
    """A row of `people`; `role` is the one in the organization."""

    id: str
    name: str
    email: str
    role: Role
    created_ms: int


class InProject(NamedTuple):
    """A project that a person was let into."""

    id: str
    name: str
    role: str


def add(
    platform: Platform, principal: Principal, email: str, role: str, name: str | None = None
) -> Person:
    """Let a person in, without an invite. Raises Conflict where the address is known."""
    principal.require(WRITE_SCOPE)
    with platform.db.write() as connection:
        return insert(connection, principal, email, check_role(role), name)


def insert(
    connection: sa.Connection, by: Principal, email: str, role: Role, name: str | None = None
) -> Person:
    """`add` within a transaction of a caller who has checked who may."""
    check_email(connection, by.org_id, email)
    name = name or email.partition("@")[0]
    if len(name) > MAX_NAME:
        raise InvalidInput(f"a name has up to {MAX_NAME} characters, not {len(name)}", param="name")
    person = Person(new_id("user"), name, email.lower(), role, now_ms())
    row = {"id": person.id, "org_id": by.org_id, "created_ms": person.created_ms}
    connection.execute(people.insert().values(**row, name=name, email=person.email))
    set_role_of(connection, by, person.id, ORGANIZATION, role)
    facts = {"email": person.email, "name": name, "role": role}
    audit.record(connection, by, "user.added", person.id, after=facts, project_id=ORGANIZATION)
    return person


def list_people(
    platform: Platform, principal: Principal, asked: PageRequest, emails: Sequence[str] = ()
) -> tuple[list[Person], bool]:
    """A page of the organization's people; with `emails`, of those only."""
    principal.require(READ_SCOPE)
    where: sa.ColumnElement[bool] = people.c.org_id == principal.org_id
    if emails:
        where &= people.c.email.in_([email.lower() for email in emails])
    with platform.db.read() as connection:
        rows, has_more = read_page(connection, people, where, asked)
        roles = roles_in(connection, ORGANIZATION, [row.id for row in rows])
    return [_person(row, roles[row.id]) for row in rows], has_more


def get(platform: Platform, principal: Principal, person_id: str) -> Person:
    """Raises NotFound."""
    principal.require(READ_SCOPE)
    with platform.db.read() as connection:
        return read(connection, principal.org_id, person_id)


def find(platform: Platform, principal: Principal, text: str) -> Person:
    """By id or e-mail. Raises NotFound."""
    principal.require(READ_SCOPE)
    with platform.db.read() as connection:
        return read(connection, principal.org_id, text)


def projects_of(platform: Platform, principal: Principal, person_id: str) -> list[InProject]:
    """The living projects that the person was let into, by name."""
    principal.require(READ_SCOPE)
    query = (
        sa.select(projects.c.id, projects.c.name, grants.c.role)
        .join(grants, grants.c.project_id == projects.c.id)
        .where(grants.c.holder_id == person_id, projects.c.archived_ms.is_(None))
        .where(grants.c.role.in_(ROLES))
    )
    with platform.db.read() as connection:
        return [InProject(*row) for row in connection.execute(query.order_by(projects.c.name))]


def set_role(platform: Platform, principal: Principal, person_id: str, role: str) -> Person:
    """Give a person another role in the organization.

    Raises:
        Conflict: nobody would be left who may do everything.
    """
    principal.require(WRITE_SCOPE)
    chosen = check_role(role)
    with platform.db.write() as connection:
        person = read(connection, principal.org_id, person_id)
        if person.role == chosen:
            return person
        if chosen != "owner":
            _refuse_last_owner(connection, principal.org_id, person)
        set_role_of(connection, principal, person.id, ORGANIZATION, chosen)
        audit.record(
            connection, principal, "user.updated", person.id,
            before={"role": person.role}, after={"role": chosen}, project_id=ORGANIZATION,
        )  # fmt: skip
        return person._replace(role=chosen)


def remove(platform: Platform, principal: Principal, person_id: str) -> None:
    """Take a person out of the organization, with their keys and roles. What they made stays.

    Raises:
        Conflict: nobody would be left who may do everything.
    """
    principal.require(WRITE_SCOPE)
    with platform.db.write() as connection:
        person = read(connection, principal.org_id, person_id)
        _refuse_last_owner(connection, principal.org_id, person)
        end_keys(connection, principal, api_keys.c.owner_id == person.id)
        connection.execute(grants.delete().where(grants.c.holder_id == person.id))
        connection.execute(group_members.delete().where(group_members.c.person_id == person.id))
        connection.execute(people.delete().where(people.c.id == person.id))
        facts = {"email": person.email, "name": person.name, "role": person.role}
        audit.record(
            connection, principal, "user.deleted", person.id, before=facts, project_id=ORGANIZATION
        )


def read(connection: sa.Connection, org_id: str, text: str) -> Person:
    """By id or e-mail. Raises NotFound."""
    named = (people.c.id == text) | (people.c.email == text.lower())
    row = connection.execute(sa.select(people).where(people.c.org_id == org_id, named)).first()
    if row is None:
        raise NotFound(
            f"there is no user {text[:100]!r}",
            next_step="GET /v1/organization/users, or bessemer people list",
            param="user_id",
        )
    return _person(row, roles_in(connection, ORGANIZATION, [row.id])[row.id])


def roles_in(connection: sa.Connection, project_id: str, holders: Sequence[str]) -> dict[str, Role]:
    """The one predefined role of each of `holders` there; who has none is not in it."""
    query = sa.select(grants.c.holder_id, grants.c.role).where(
        grants.c.project_id == project_id, grants.c.holder_id.in_(holders)
    )
    return {
        row.holder_id: role for row in connection.execute(query) for role in ROLES
        if role == row.role
    }  # fmt: skip


def set_role_of(
    connection: sa.Connection, by: Principal, holder_id: str, project_id: str, role: Role | None
) -> None:
    """Replace the predefined role of a person or service account; None takes it."""
    old = (grants.c.holder_id == holder_id) & (grants.c.project_id == project_id)
    connection.execute(grants.delete().where(old, grants.c.role.in_(ROLES)))
    if role is not None:
        insert_grant(connection, by, holder_id, project_id, role)


def insert_grant(
    connection: sa.Connection, by: Principal, holder_id: str, project_id: str, role: str
) -> None:
    row = {
        "id": new_id("grant"),
        "org_id": by.org_id,
        "project_id": project_id,
        "owner_id": by.owner_id,
        "created_ms": now_ms(),
        "holder_id": holder_id,
        "role": role,
    }
    connection.execute(grants.insert().values(row))


def check_email(connection: sa.Connection, org_id: str, email: str) -> None:
    """Raises InvalidInput where it is none, and Conflict where somebody has it."""
    if not _EMAIL.fullmatch(email):
        raise InvalidInput(f"{email[:100]!r} is no e-mail address", param="email")
    known = (people.c.org_id == org_id) & (people.c.email == email.lower())
    if connection.execute(sa.select(people.c.id).where(known)).first() is not None:
        raise Conflict(f"{email} is in the organization already", param="email")


def _refuse_last_owner(connection: sa.Connection, org_id: str, person: Person) -> None:
    if person.role != "owner":
        return
    others = (
        sa.select(sa.func.count())
        .select_from(grants.join(people, people.c.id == grants.c.holder_id))
        .where(grants.c.org_id == org_id, grants.c.project_id == ORGANIZATION)
        .where(grants.c.role == "owner", people.c.id != person.id)
    )
    if not connection.execute(others).scalar():
        raise Conflict(
            f"{person.email} is the only owner; nobody would be left who may do everything",
            next_step="make somebody else an owner first",
        )


def _person(row: sa.Row[Any], role: Role) -> Person:
    return Person(row.id, row.name, row.email, role, row.created_ms)
