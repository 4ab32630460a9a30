"""The audit trail: every change as a row with actor, target, before and after.

A use case that changes something records it in the transaction that changes it, so that there is
no change without a row and no row without a change:

    with platform.db.write() as connection:
        connection.execute(...)
        audit.record(connection, principal, "file.deleted", file.id, before={"name": file.filename})

Rows are only ever added; the database itself refuses to change one. Secrets, and what a person
wrote to a model, have no place in `before` and `after`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from bessemer.access.tables import (
    ORGANIZATION,
    api_keys,
    audit,
    organizations,
    people,
    projects,
)
from bessemer.app.paging import PageRequest, read_page
from bessemer.app.platform import Platform
from bessemer.core.database import now_ms
from bessemer.core.errors import InvalidInput
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal

READ_SCOPE = "org:read"
SERVICE_ACCOUNT_PREFIX = "svc_acct"

# Event types of OpenAI's audit log. A new action of ours is a line in `OUR_ACTIONS`.
OPENAI_ACTIONS = frozenset(
    {
        *("api_key.created", "api_key.updated", "api_key.deleted"),
        *("project.created", "project.updated", "project.archived"),
        *("user.added", "user.updated", "user.deleted"),
        *("service_account.created", "service_account.updated", "service_account.deleted"),
        *("invite.sent", "invite.accepted", "invite.deleted"),
        *("group.created", "group.updated", "group.deleted"),
        *("role.created", "role.updated", "role.deleted"),
        *("role.assignment.created", "role.assignment.deleted"),
        *("rate_limit.updated", "rate_limit.deleted"),
    }
)
# OpenAI's event types of what is not here, by their first word. To ask for them finds nothing.
_ELSEWHERE = frozenset(
    {
        *("certificate", "certificates", "checkpoint", "external_key", "ip_allowlist", "login"),
        *("logout", "organization", "resource", "scim", "tenant", "tunnel"),
        *("workload_identity_provider", "workload_identity_provider_mapping"),
        *("project.deleted", "role.bound_to_resource", "role.unbound_from_resource"),
    }
)
OUR_ACTIONS = frozenset(
    {
        *("project.user.added", "project.user.updated", "project.user.deleted"),
        *("group.user.added", "group.user.deleted"),
        *("model_permissions.updated", "model_permissions.deleted"),
        *("model.named", "dataset.named", "adapter.named", "model.deleted"),
        *("run.submitted", "run.cancelled", "run.resumed"),
        *("file.created", "file.deleted", "upload.created", "upload.cancelled"),
        *("batch.created", "batch.cancelled", "feedback.created", "feedback.deleted"),
        *("fine_tuning_job.created", "fine_tuning_job.cancelled"),
        *("fine_tuning_job.paused", "fine_tuning_job.resumed"),
        *("eval.created", "eval.updated", "eval.deleted"),
        *("eval_run.created", "eval_run.cancelled", "eval_run.deleted"),
        *("budget.updated", "budget.deleted", "rate_card.updated"),
        *("spend_alert.created", "spend_alert.updated", "spend_alert.deleted"),
        *("target.added", "target.removed"),
    }
)

# What servers keep in memory; see `app.keys.KeyRing`.
_RING_LEARNS_OF = frozenset(
    {"api_key", "project", "user", "service_account", "invite", "group", "role"}
    | {"model_permissions"}
)

Facts = Mapping[str, Any]


class Event(NamedTuple):
    """A row of the trail. `email` was the actor's at the time; the names are today's: of the
    project, of the key that was used, and of the target where that is a key, ended ones too.
    """

    id: str
    action: str
    created_ms: int
    project_id: str | None
    project_name: str | None
    actor_id: str
    key_id: str | None
    key_name: str | None
    email: str | None
    target: str
    target_name: str | None
    before: Facts | None
    after: Facts | None

    @property
    def by_service_account(self) -> bool:
        return self.actor_id.startswith(SERVICE_ACCOUNT_PREFIX)


class Filter(NamedTuple):
    """All of these hold. An empty list asks for nothing in particular; times are Unix seconds."""

    actions: Sequence[str] = ()
    project_ids: Sequence[str] = ()
    actor_ids: Sequence[str] = ()
    emails: Sequence[str] = ()
    targets: Sequence[str] = ()
    gt: int | None = None
    gte: int | None = None
    lt: int | None = None
    lte: int | None = None


def record(
    connection: sa.Connection,
    principal: Principal,
    action: str,
    target: str,
    before: Facts | None = None,
    after: Facts | None = None,
    *,
    project_id: str | None = None,
) -> None:
    """Write a line into the trail, in the caller's transaction.

    Args:
        project_id: where it happened, if not in the principal's project: another's, or
            `ORGANIZATION`.
    """
    assert action in OPENAI_ACTIONS or action in OUR_ACTIONS, f"app/audit.py has no {action!r}"
    actor = sa.select(people.c.email).where(people.c.id == principal.owner_id)
    row = {
        "id": new_id("audit_log-"),
        "org_id": principal.org_id,
        "project_id": principal.project_id if project_id is None else project_id,
        "owner_id": principal.owner_id,
        "created_ms": now_ms(),
        "key_id": principal.key_id,
        "email": connection.execute(actor).scalar(),
        "action": action,
        "target": target,
        "before": _text(before),
        "after": _text(after),
    }
    connection.execute(audit.insert().values(row))
    if action.partition(".")[0] in _RING_LEARNS_OF:
        one_more = organizations.update().values(version=organizations.c.version + 1)
        connection.execute(one_more.where(organizations.c.id == principal.org_id))


def list_events(
    platform: Platform, principal: Principal, asked: PageRequest, wanted: Filter | None = None
) -> tuple[list[Event], bool]:
    """A page of the organization's trail, and whether there is more.

    Raises:
        InvalidInput: there is no such action, with all there are.
    """
    principal.require(READ_SCOPE)
    where = (audit.c.org_id == principal.org_id) & _where(wanted or Filter())
    with platform.db.read() as connection:
        rows, has_more = read_page(connection, audit, where, asked)
        names = _names(connection, projects, {row.project_id for row in rows})
        keys = _names(connection, api_keys, {named for row in rows for named in _keys_of(row)})
    return [_event(row, names, keys) for row in rows], has_more


def _names(connection: sa.Connection, table: sa.Table, ids: set[str]) -> dict[str, str]:
    wanted = sa.select(table.c.id, table.c.name).where(table.c.id.in_(ids))
    return {row.id: row.name for row in connection.execute(wanted)}


def _keys_of(row: sa.Row[Any]) -> list[str]:
    """The ids of keys in it."""
    used = [] if row.key_id is None else [row.key_id]
    return [*used, row.target] if row.action.startswith("api_key.") else used


def _where(wanted: Filter) -> sa.ColumnElement[bool]:
    known = OPENAI_ACTIONS | OUR_ACTIONS
    for action in wanted.actions:
        if not {action, action.partition(".")[0]} & (known | _ELSEWHERE):
            raise InvalidInput(
                f"there is no event type {action[:100]!r} here",
                next_step=f"choose from: {', '.join(sorted(known))}",
                param="event_types",
            )
    found: sa.ColumnElement[bool] = sa.true()
    if wanted.actions:
        found &= audit.c.action.in_(wanted.actions)
    if wanted.project_ids:
        found &= audit.c.project_id.in_(wanted.project_ids)
    if wanted.actor_ids:
        ids = wanted.actor_ids
        found &= audit.c.owner_id.in_(ids) | audit.c.key_id.in_(ids)
    if wanted.emails:
        found &= audit.c.email.in_([email.lower() for email in wanted.emails])
    if wanted.targets:
        found &= audit.c.target.in_(wanted.targets)
    # The API speaks of whole seconds, and an event is in the one that it happened in.
    if wanted.gt is not None:
        found &= audit.c.created_ms >= (wanted.gt + 1) * 1000
    if wanted.gte is not None:
        found &= audit.c.created_ms >= wanted.gte * 1000
    if wanted.lt is not None:
        found &= audit.c.created_ms < wanted.lt * 1000
    if wanted.lte is not None:
        found &= audit.c.created_ms < (wanted.lte + 1) * 1000
    return found


def _event(row: sa.Row[Any], names: Mapping[str, str], keys: Mapping[str, str]) -> Event:
    project_id = None if row.project_id == ORGANIZATION else row.project_id
    return Event(
        row.id,
        row.action,
        row.created_ms,
        project_id,
        None if project_id is None else names.get(project_id, project_id),
        row.owner_id,
        row.key_id,
        keys.get(row.key_id),
        row.email,
        row.target,
        keys.get(row.target),
        None if row.before is None else json.loads(row.before),
        None if row.after is None else json.loads(row.after),
    )


def _text(facts: Facts | None) -> str | None:
    if facts is None:
        return None
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
