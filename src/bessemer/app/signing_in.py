"""Who sits before the pages: the owner of the home, or a person with the rights of their roles.

There are no passwords. Whoever can read the home lets people in, by an address that works once
(`bessemer login --as E-MAIL`); what they may do is read from their roles at every request, so that
a role taken is a right lost at once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import sqlalchemy as sa

from bessemer.access.roles import EVERYTHING, ORG_SCOPES, effective
from bessemer.access.tables import projects
from bessemer.app.platform import PROJECT_ID, Platform
from bessemer.app.projects import Project
from bessemer.app.rights import Rights
from bessemer.core.errors import Unauthenticated
from bessemer.core.principal import Principal


class SignedIn(NamedTuple):
    """A person in the project they work in, and what that is called."""

    principal: Principal
    project: str


def signed_in(
    platform: Platform, person_id: str | None = None, project_id: str | None = None
) -> SignedIn:
    """Who a session is of.

    Args:
        person_id: None is the person at this machine, who owns the home.
        project_id: None is the default project, or the first that lets the person in; so is one
            that was archived, which takes no more changes.

    Raises:
        Unauthenticated: the person is here no more.
    """
    local = platform.local_principal()
    with platform.db.read() as connection:
        rights = Rights(connection)
        project_id = _unless_archived(connection, project_id)
        if person_id is None:
            chosen = project_id or local.project_id
            principal = replace(local, project_id=chosen, models=rights.models(chosen))
        elif rights.is_here(person_id):
            chosen = project_id or _first_project(connection, rights, person_id)
            principal = _in_project(rights, replace(local, owner_id=person_id), chosen)
        else:
            raise Unauthenticated("this person is not here any more")
        name = connection.execute(sa.select(projects.c.name).where(projects.c.id == chosen))
        return SignedIn(principal, name.scalar() or chosen)


def acting_in(platform: Platform, principal: Principal, project_id: str) -> Principal:
    """A signed-in person with the rights that they have in another project, which may be none."""
    if principal.holds("*"):
        return replace(principal, project_id=project_id)
    with platform.db.read() as connection:
        return _in_project(Rights(connection), principal, project_id)


def projects_of(platform: Platform, principal: Principal) -> list[Project]:
    """The living projects that a signed-in person can work in, oldest first."""
    living = sa.select(projects).where(
        projects.c.org_id == principal.org_id, projects.c.archived_ms.is_(None)
    )
    with platform.db.read() as connection:
        rights = Rights(connection)
        rows = connection.execute(living.order_by(projects.c.created_ms, projects.c.id)).all()
    return [
        Project(row.id, row.name, row.created_ms, row.archived_ms)
        for row in rows
        if principal.holds("*") or _is_let_in(rights, principal.owner_id, row.id)
    ]


def _in_project(rights: Rights, principal: Principal, project_id: str) -> Principal:
    scopes = effective(EVERYTHING, rights.bound(principal.owner_id, project_id))
    models = rights.models(project_id)
    return replace(principal, project_id=project_id, scopes=scopes, models=models)


def _is_let_in(rights: Rights, person_id: str, project_id: str) -> bool:
    """Whether their roles reach into the project, and not only the organization."""
    return bool(rights.bound(person_id, project_id) - ORG_SCOPES)


def _unless_archived(connection: sa.Connection, project_id: str | None) -> str | None:
    living = sa.select(projects.c.id).where(
        projects.c.id == project_id, projects.c.archived_ms.is_(None)
    )
    return connection.execute(living).scalar()


def _first_project(connection: sa.Connection, rights: Rights, person_id: str) -> str:
    living = sa.select(projects.c.id).where(projects.c.archived_ms.is_(None))
    ids = connection.execute(living.order_by(projects.c.created_ms, projects.c.id)).scalars()
    mine = (project_id for project_id in ids if _is_let_in(rights, person_id, project_id))
    return next(mine, PROJECT_ID)
