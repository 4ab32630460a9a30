"""Which models a project may ask: only those of a list, or all but those of a list.

Permissions speak of names, as `GET /v1/models` lists them. Servers keep them in memory with the
project's keys (`keys.KeyRing`), and `permitted_serving` holds to them at every request. Who works
at this machine itself is bound by none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal, NamedTuple

import sqlalchemy as sa

from bessemer.access.tables import model_permissions
from bessemer.app import audit
from bessemer.app.platform import Platform
from bessemer.app.projects import reach
from bessemer.core.database import now_ms
from bessemer.core.errors import InvalidInput, NotFound
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal

MAX_MODELS = 1_000

Mode = Literal["allow_list", "deny_list"]


class Permissions(NamedTuple):
    """`models` in the order in which they were given."""

    mode: Mode
    models: Sequence[str]


def get(platform: Platform, principal: Principal, project_id: str) -> Permissions:
    """Raises NotFound: there is no such project, or it may ask every model."""
    with platform.db.read() as connection:
        reach(connection, principal, project_id)
        found = _read(connection, project_id)
    if found is None:
        raise _none(project_id)
    return found


def set_to(
    platform: Platform, principal: Principal, project_id: str, mode: Mode, models: Sequence[str]
) -> Permissions:
    """From about a second later on, the project may ask these models only, or all but these."""
    if len(models) > MAX_MODELS or any(not 0 < len(name) <= 200 for name in models):
        raise InvalidInput(
            f"'model_ids' has {len(models)} names; it takes up to {MAX_MODELS:,} of 1 to 200"
            " characters",
            param="model_ids",
        )
    after = Permissions(mode, list(dict.fromkeys(models)))
    with platform.db.write() as connection:
        reach(connection, principal, project_id, write=True)
        before = _read(connection, project_id)
        if after == before:
            return after
        row = {"mode": mode, "models": json.dumps(after.models)}
        if before is None:
            ids = {"id": new_id("permission"), "org_id": principal.org_id, "project_id": project_id}
            row = {**ids, **row, "owner_id": principal.owner_id}
            connection.execute(model_permissions.insert().values(**row, created_ms=now_ms()))
        else:
            mine = model_permissions.c.project_id == project_id
            connection.execute(model_permissions.update().where(mine).values(row))
        audit.record(
            connection, principal, "model_permissions.updated", project_id,
            before=None if before is None else before._asdict(), after=after._asdict(),
            project_id=project_id,
        )  # fmt: skip
    return after


def delete(platform: Platform, principal: Principal, project_id: str) -> None:
    """Let the project ask every model again."""
    with platform.db.write() as connection:
        reach(connection, principal, project_id, write=True)
        before = _read(connection, project_id)
        if before is None:
            raise _none(project_id)
        mine = model_permissions.c.project_id == project_id
        connection.execute(model_permissions.delete().where(mine))
        audit.record(
            connection, principal, "model_permissions.deleted", project_id,
            before=before._asdict(), project_id=project_id,
        )  # fmt: skip


def _read(connection: sa.Connection, project_id: str) -> Permissions | None:
    mine = model_permissions.c.project_id == project_id
    row = connection.execute(sa.select(model_permissions).where(mine)).first()
    return None if row is None else Permissions(row.mode, json.loads(row.models))


def _none(project_id: str) -> NotFound:
    return NotFound(
        "this project may ask every model; it has no model permissions",
        next_step=f"POST /v1/organization/projects/{project_id}/model_permissions",
    )
