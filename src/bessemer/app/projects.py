"""Projects: create, list, rename, archive. What is in one project is out of sight in every other.

An archived project keeps everything it has; its keys answer nobody, and it takes no changes.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any, NamedTuple

import sqlalchemy as sa

from bessemer.access.tables import projects
from bessemer.app import audit
from bessemer.app.paging import PageRequest, read_page
from bessemer.app.platform import PROJECT_ID, Platform
from bessemer.core.database import now_ms
from bessemer.core.errors import Conflict, InvalidInput, NotFound
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal

READ_SCOPE, WRITE_SCOPE = "org:read", "org:write"
OWN_READ_SCOPE, OWN_WRITE_SCOPE = "project:read", "project:write"
MAX_NAME = 200


class Project(NamedTuple):
    """A row of `projects`."""

    id: str
    name: str
    created_ms: int
    archived_ms: int | None


def create(platform: Platform, principal: Principal, name: str) -> Project:
    """Raises Conflict where a living project has the name."""
    principal.require(WRITE_SCOPE)
    row = {
        "id": new_id("proj"),
        "org_id": principal.org_id,
        "name": _check_name(name),
        "created_ms": now_ms(),
    }
    with platform.db.write() as connection:
        _refuse_twice(connection, principal, name)
        connection.execute(projects.insert().values(row))
        project_id = str(row["id"])
        audit.record(
            connection, principal, "project.created", project_id, after={"name": name},
            project_id=project_id,
        )  # fmt: skip
        return _read(connection, principal, project_id)


def list_projects(
    platform: Platform, principal: Principal, asked: PageRequest, *, archived: bool = False
) -> tuple[list[Project], bool]:
    """A page of the organization's projects; with `archived`, of those too."""
    principal.require(READ_SCOPE)
    where: sa.ColumnElement[bool] = projects.c.org_id == principal.org_id
    if not archived:
        where &= projects.c.archived_ms.is_(None)
    with platform.db.read() as connection:
        rows, has_more = read_page(connection, projects, where, asked)
    return [_project(row) for row in rows], has_more


def get(platform: Platform, principal: Principal, project_id: str) -> Project:
    """Raises NotFound."""
    with platform.db.read() as connection:
        return reach(connection, principal, project_id)


def get_to_change(platform: Platform, principal: Principal, project_id: str) -> Project:
    """`get` for who may change it. Raises Conflict where it is archived."""
    with platform.db.read() as connection:
        return reach(connection, principal, project_id, write=True)


def find(platform: Platform, principal: Principal, text: str) -> Project:
    """A living project by its id or name. Raises NotFound with those there are."""
    principal.require(READ_SCOPE)
    query = sa.select(projects).where(projects.c.org_id == principal.org_id)
    with platform.db.read() as connection:
        found = [_project(row) for row in connection.execute(query.order_by(projects.c.id))]
    meant = [project for project in found if text in (project.id, project.name)]
    for project in meant:
        if project.archived_ms is None:
            return project
    if meant:
        raise NotFound(
            f"the project {text!r} is archived, and stays so",
            next_step=f"bessemer project create {shlex.quote(meant[-1].name)} makes a new one",
        )
    known = ", ".join(project.name for project in found if project.archived_ms is None)
    raise NotFound(
        f"there is no project {text!r}; known: {known}", next_step="bessemer project list"
    )


def acting_in(platform: Platform, principal: Principal, text: str | None) -> Principal:
    """The same person in another project, by its id or name; None for the one they are in."""
    if text is None:
        return principal
    principal.require(WRITE_SCOPE)
    return replace(principal, project_id=find(platform, principal, text).id, models=None)


def rename(platform: Platform, principal: Principal, project_id: str, name: str) -> Project:
    """Raises NotFound, and Conflict where another has the name or it is archived."""
    _check_name(name)
    with platform.db.write() as connection:
        before = reach(connection, principal, project_id, write=True)
        if name == before.name:
            return before
        _refuse_twice(connection, principal, name)
        mine = projects.c.id == before.id
        connection.execute(projects.update().where(mine).values(name=name))
        audit.record(
            connection, principal, "project.updated", before.id,
            before={"name": before.name}, after={"name": name}, project_id=before.id,
        )  # fmt: skip
        return before._replace(name=name)


def archive(platform: Platform, principal: Principal, project_id: str) -> Project:
    """End a project: within about a second its keys answer nobody. Nothing is deleted.

    Archiving twice keeps the first time.

    Raises:
        Conflict: it is the project of whoever sits at this machine.
    """
    principal.require(WRITE_SCOPE)
    if project_id == PROJECT_ID:
        raise Conflict(
            "the default project stays: verbs in the terminal and the console work in it",
            next_step="bessemer key revoke KEY ends its keys one by one",
        )
    with platform.db.write() as connection:
        project = _read(connection, principal, project_id)
        if project.archived_ms is not None:
            return project
        ended = project._replace(archived_ms=now_ms())
        mine = projects.c.id == project_id
        connection.execute(projects.update().where(mine).values(archived_ms=ended.archived_ms))
        audit.record(
            connection, principal, "project.archived", project_id,
            before={"name": project.name}, project_id=project_id,
        )  # fmt: skip
        return ended


def reach(
    connection: sa.Connection,
    principal: Principal,
    project_id: str,
    *,
    write: bool = False,
    own: str | None = None,
) -> Project:
    """The project, if the principal may see (or change) what belongs to it.

    Whoever holds `org:read` (or `org:write`) reaches every project; others, with the scope `own`,
    the one that their key is of.

    Raises:
        PermissionDenied: they hold neither.
        NotFound: it is not theirs, or not there.
        Conflict: it is to be changed and is archived.
    """
    if not principal.holds(WRITE_SCOPE if write else READ_SCOPE):
        principal.require(own or (OWN_WRITE_SCOPE if write else OWN_READ_SCOPE))
        if project_id != principal.project_id:
            raise _missing(project_id)
    project = _read(connection, principal, project_id)
    if write and project.archived_ms is not None:
        raise Conflict(f"the project {project.name} is archived")
    return project


def _read(connection: sa.Connection, principal: Principal, project_id: str) -> Project:
    mine = (projects.c.id == project_id) & (projects.c.org_id == principal.org_id)
    row = connection.execute(sa.select(projects).where(mine)).first()
    if row is None:
        raise _missing(project_id)
    return _project(row)


def _missing(project_id: str) -> NotFound:
    return NotFound(
        f"there is no project {project_id[:100]!r}",
        next_step="GET /v1/organization/projects",
        param="project_id",
    )


def _refuse_twice(connection: sa.Connection, principal: Principal, name: str) -> None:
    same = sa.select(projects.c.id).where(
        projects.c.org_id == principal.org_id,
        projects.c.name == name,
        projects.c.archived_ms.is_(None),
    )
    taken = connection.execute(same).scalar()
    if taken is not None:
        raise Conflict(f"{name!r} is the name of {taken}", param="name")


def _check_name(name: str) -> str:
    if not name.strip() or len(name) > MAX_NAME:
        raise InvalidInput(
            f"a project's name has 1 to {MAX_NAME} characters, not {len(name)}", param="name"
        )
    return name


def _project(row: sa.Row[Any]) -> Project:
    return Project(row.id, row.name, row.created_ms, row.archived_ms)
