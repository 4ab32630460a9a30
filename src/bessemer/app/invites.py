"""Invites: a one-time token that lets a person into the organization.

No mail is sent from here. Whoever invites is shown the token once and hands it over themselves; it
is a key that can do one thing, accept this invite, once, within a week:

    token = invites.create(platform, owner, "ada@example.org", "reader", [...]).token
    invites.accept(platform, KeyRing(platform).authenticate(token), "Ada")
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Literal, NamedTuple

import sqlalchemy as sa

from bessemer.access.roles import check_role
from bessemer.access.tables import ORGANIZATION, api_keys, invites
from bessemer.app import audit, members, people
from bessemer.app.keys import INVITE_SCOPE, NewKey, end_keys, insert_key
from bessemer.app.paging import PageRequest, read_page
from bessemer.app.people import Person
from bessemer.app.platform import PROJECT_ID, Platform
from bessemer.app.projects import reach
from bessemer.core.database import now_ms
from bessemer.core.errors import Conflict, NotFound, PermissionDenied
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal

READ_SCOPE, WRITE_SCOPE = "org:read", "org:write"
VALID_S = 7 * 86_400
ROLES: Final = ("owner", "reader")
PROJECT_ROLES: Final = ("owner", "member")

Status = Literal["accepted", "expired", "pending"]


class Into(NamedTuple):
    """A project that the invite lets into, and as what."""

    id: str
    role: str


class Invite(NamedTuple):
    """A row of `invites`."""

    id: str
    email: str
    role: str
    projects: Sequence[Into]
    created_ms: int
    expires_ms: int
    accepted_ms: int | None

    @property
    def status(self) -> Status:
        if self.accepted_ms is not None:
            return "accepted"
        return "expired" if self.expires_ms <= now_ms() else "pending"


class NewInvite(NamedTuple):
    """An invite at the only moment its token can be seen."""

    invite: Invite
    token: str


class Accepted(NamedTuple):
    """Who came in, and their first key: for all that their roles reach in the invite's first
    project. None where it named none.
    """

    person: Person
    key: NewKey | None


def create(
    platform: Platform,
    principal: Principal,
    email: str,
    role: str,
    projects: Sequence[Into] | None = None,
) -> NewInvite:
    """Invite somebody; without a word of projects, into the default one as a member.

    Raises:
        Conflict: the address is in the organization already.
    """
    principal.require(WRITE_SCOPE)
    check_role(role, ROLES)
    into = [Into(PROJECT_ID, "member")] if projects is None else projects
    invite_id, made_ms = new_id("invite"), now_ms()
    with platform.db.write() as connection:
        people.check_email(connection, principal.org_id, email)
        for project in into:
            check_role(project.role, PROJECT_ROLES)
            reach(connection, principal, project.id, write=True)
        row = {
            "id": invite_id,
            "org_id": principal.org_id,
            "project_id": ORGANIZATION,
            "owner_id": principal.owner_id,
            "created_ms": made_ms,
            "email": email.lower(),
            "role": role,
            "projects": json.dumps([project._asdict() for project in into]),
            "expires_ms": made_ms + VALID_S * 1000,
        }
        connection.execute(invites.insert().values(row))
        token = insert_key(
            connection,
            principal,
            f"invite of {email}"[:200],
            frozenset({INVITE_SCOPE}),
            owner_id=invite_id,
            project_id=ORGANIZATION,
            kind="invite",
            expires_in_s=VALID_S,
        ).secret
        facts = {"email": email.lower(), "role": role, "projects": [p._asdict() for p in into]}
        audit.record(
            connection, principal, "invite.sent", invite_id, after=facts, project_id=ORGANIZATION
        )
        return NewInvite(_read(connection, principal, invite_id), token)


def list_invites(
    platform: Platform, principal: Principal, asked: PageRequest
) -> tuple[list[Invite], bool]:
    """A page of the organization's invites, accepted and expired ones included."""
    principal.require(READ_SCOPE)
    with platform.db.read() as connection:
        where = invites.c.org_id == principal.org_id
        rows, has_more = read_page(connection, invites, where, asked)
    return [_invite(row) for row in rows], has_more


def get(platform: Platform, principal: Principal, invite_id: str) -> Invite:
    """Raises NotFound."""
    principal.require(READ_SCOPE)
    with platform.db.read() as connection:
        return _read(connection, principal, invite_id)


def delete(platform: Platform, principal: Principal, invite_id: str) -> None:
    """Take an invite back; its token is void at once for `accept`.

    Raises:
        Conflict: it was accepted.
    """
    principal.require(WRITE_SCOPE)
    with platform.db.write() as connection:
        invite = _read(connection, principal, invite_id)
        if invite.accepted_ms is not None:
            raise Conflict(
                f"{invite.email} has accepted this invite",
                next_step="DELETE /v1/organization/users/{user_id}, or bessemer people remove",
            )
        end_keys(connection, principal, api_keys.c.owner_id == invite_id)
        connection.execute(invites.delete().where(invites.c.id == invite_id))
        audit.record(
            connection, principal, "invite.deleted", invite_id,
            before={"email": invite.email, "role": invite.role}, project_id=ORGANIZATION,
        )  # fmt: skip


def accept(platform: Platform, invited: Principal, name: str | None = None) -> Accepted:
    """Come in. `invited` is who holds the token, and `name` what they want to be called.

    Raises:
        PermissionDenied: this is no invite's token.
        Conflict: it was accepted or taken back, a project of it is archived, or the address came
            in on another way.
    """
    if INVITE_SCOPE not in invited.scopes:  # which `*` does not give: only a token is an invite
        raise PermissionDenied("this key is no invite's token")
    with platform.db.write() as connection:
        mine = invites.c.id == invited.owner_id
        taken = invites.update().where(mine, invites.c.accepted_ms.is_(None))
        if connection.execute(taken.values(accepted_ms=now_ms())).rowcount != 1:
            raise Conflict("this invite was accepted or taken back already")
        invite = _read(connection, invited, invited.owner_id)
        person = people.insert(
            connection, invited, invite.email, check_role(invite.role, ROLES), name
        )
        # From here on it is they who act, by the key that let them in.
        they = replace(invited, owner_id=person.id, scopes=frozenset({WRITE_SCOPE}))
        for project in invite.projects:
            reach(connection, they, project.id, write=True)
            members.insert(connection, they, project.id, person, check_role(project.role))
        end_keys(connection, they, api_keys.c.owner_id == invite.id)
        audit.record(
            connection, they, "invite.accepted", invite.id,
            after={"user_id": person.id, "email": person.email}, project_id=ORGANIZATION,
        )  # fmt: skip
        if not invite.projects:
            return Accepted(person, None)
        key = insert_key(
            connection,
            they,
            "from the invite",
            frozenset({"*"}),
            owner_id=person.id,
            project_id=invite.projects[0].id,
        )
    return Accepted(person, key)


def _read(connection: sa.Connection, principal: Principal, invite_id: str) -> Invite:
    mine = (invites.c.id == invite_id) & (invites.c.org_id == principal.org_id)
    row = connection.execute(sa.select(invites).where(mine)).first()
    if row is None:
        raise NotFound(
            f"there is no invite {invite_id[:100]!r}",
            next_step="GET /v1/organization/invites",
            param="invite_id",
        )
    return _invite(row)


def _invite(row: sa.Row[Any]) -> Invite:
    projects = [Into(**into) for into in json.loads(row.projects)]
    return Invite(
        row.id,
        row.email,
        row.role,
        projects,
        row.created_ms,
        row.expires_ms,
        row.accepted_ms,
    )
