"""What everybody may do at most, read in one go and then known without the database.

A person's bound in a project is all that they were given there, in the whole organization, and
through their groups.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable

import sqlalchemy as sa

from bessemer.access.roles import ROLES, scopes_of
from bessemer.access.tables import (
    ORGANIZATION,
    custom_roles,
    grants,
    group_members,
    model_permissions,
    people,
    projects,
    service_accounts,
)
from bessemer.core.errors import Conflict, PermissionDenied
from bessemer.core.principal import ModelRule


class Rights:
    """One look at the roles of all people and service accounts."""

    def __init__(self, connection: sa.Connection) -> None:
        read = connection.execute
        self._holders = {
            *read(sa.select(people.c.id)).scalars(),
            *read(sa.select(service_accounts.c.id)).scalars(),
        }
        self._grants: dict[tuple[str, str], list[str]] = defaultdict(list)
        for grant in read(sa.select(grants.c.holder_id, grants.c.project_id, grants.c.role)):
            self._grants[grant.holder_id, grant.project_id].append(grant.role)
        self._groups: dict[str, list[str]] = defaultdict(list)
        for member in read(sa.select(group_members.c.group_id, group_members.c.person_id)):
            self._groups[member.person_id].append(member.group_id)
        self._custom: dict[str, frozenset[str]] = {
            row.id: frozenset(row.scopes.split())
            for row in read(sa.select(custom_roles.c.id, custom_roles.c.scopes))
        }
        self._archived = set(
            read(sa.select(projects.c.id).where(projects.c.archived_ms.is_not(None))).scalars()
        )
        self._models = {
            row.project_id: ModelRule(row.mode, frozenset(json.loads(row.models)))
            for row in read(sa.select(model_permissions))
        }

    def is_here(self, holder_id: str) -> bool:
        """Whether this person or service account still is."""
        return holder_id in self._holders

    def is_archived(self, project_id: str) -> bool:
        return project_id in self._archived

    def models(self, project_id: str) -> ModelRule | None:
        """Which models the project may ask; None for all that it has."""
        return self._models.get(project_id)

    def bound(self, holder_id: str, project_id: str) -> frozenset[str]:
        """The scopes of all roles that reach the project; `ORGANIZATION` for those of its own."""
        found: frozenset[str] = frozenset()
        for holder in (holder_id, *self._groups.get(holder_id, ())):
            for place in {ORGANIZATION, project_id}:
                roles = self._grants.get((holder, place), ())
                found |= self._scopes(roles, everywhere=place == ORGANIZATION)
        return found

    def require(self, holder_id: str, project_id: str, scopes: Iterable[str]) -> None:
        """Raise PermissionDenied where a key of theirs could not have one of `scopes`.

        Raises:
            Conflict: the project is archived.
        """
        if self.is_archived(project_id):
            raise Conflict(f"{project_id} is archived; its keys answer nobody")
        bound = self.bound(holder_id, project_id)
        beyond = sorted(set(scopes) - bound - {"*"})
        if "*" in bound or (bound and not beyond):
            return
        raise PermissionDenied(
            f"the roles of {holder_id} in {project_id or 'the organization'} do not reach"
            f" {', '.join(beyond) or 'anything'}; they reach:"
            f" {', '.join(sorted(bound)) or 'nothing'}",
            next_step="an owner lets people in: bessemer people role --help",
        )

    def _scopes(self, roles: Iterable[str], *, everywhere: bool) -> frozenset[str]:
        found: frozenset[str] = frozenset()
        for given in roles:
            known = next((role for role in ROLES if role == given), None)
            if known is not None:
                found |= scopes_of(known, everywhere=everywhere)
            else:
                found |= self._custom.get(given, frozenset())
        return found
