"""The models that fine-tuning jobs made: how they are called, and how they are deleted."""

from __future__ import annotations

import sqlalchemy as sa

from bessemer.app import audit
from bessemer.app.adapters import find_served
from bessemer.app.chat import no_such_model
from bessemer.app.platform import Platform
from bessemer.app.tables import fine_tuning_checkpoints, fine_tuning_jobs
from bessemer.core.errors import InvalidInput, NotFound
from bessemer.core.principal import Principal
from bessemer.core.tables import names

_PREFIX = "ft:"


def name_of(base: str, principal: Principal, suffix: str | None, job_id: str) -> str:
    """`ft:<base>:<project>:<suffix>:<id>`, as OpenAI calls them; one part of a URL's path."""
    root = base.removeprefix(_PREFIX).partition(":")[0] if base.startswith(_PREFIX) else base
    root = root.rpartition("/")[2].replace("@", "-")[:60]
    return f"{_PREFIX}{root}:{principal.project_id}:{suffix or ''}:{job_id[-8:]}"


def delete(platform: Platform, principal: Principal, model: str) -> None:
    """Forget the name of a model that a job of this project made; nobody can ask it any more.

    Raises:
        ModelNotFound: the project has no such name.
        InvalidInput: no job made it.
    """
    principal.require("models:write")
    try:
        find_served(platform, principal, model)
    except NotFound:
        raise no_such_model(model) from None
    mine = (names.c.project_id == principal.project_id) & (names.c.name == model)
    with platform.db.write() as connection:
        if not _was_made_here(connection, principal, model):
            raise InvalidInput(
                f"{model} was not made by a fine-tuning job, and stays",
                param="model",
                next_step="GET /v1/fine_tuning/jobs names the models that were",
            )
        there = mine & names.c.kind.in_(("model", "adapter"))
        meant = sa.select(names.c.digest).where(there).order_by(names.c.id.desc()).limit(1)
        digest = connection.execute(meant).scalar()
        if digest is None:  # somebody else deleted it just now
            raise no_such_model(model)
        connection.execute(names.delete().where(there))
        audit.record(connection, principal, "model.deleted", model, before={"digest": digest})


def _was_made_here(connection: sa.Connection, principal: Principal, model: str) -> bool:
    project = principal.project_id
    table, parts = fine_tuning_jobs, fine_tuning_checkpoints
    whole = sa.select(table.c.id).where(
        table.c.project_id == project, table.c.fine_tuned_model == model
    )
    part = sa.select(parts.c.id).where(parts.c.project_id == project, parts.c.model == model)
    return connection.execute(sa.union_all(whole, part)).first() is not None
