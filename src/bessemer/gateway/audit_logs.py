"""`/v1/organization/audit_logs`: the trail, in OpenAI's event types and shapes.

Without `event_types[]` it lists the events that OpenAI's specification knows; those of ours are
listed when they are asked for by name. `before` and `after` are extensions.
"""

from __future__ import annotations

from typing import Any

from bessemer.app import audit
from bessemer.app.platform import Platform
from bessemer.core.errors import InvalidInput
from bessemer.gateway.query import Query
from bessemer.gateway.routes import Call, Route

PATH = "/v1/organization/audit_logs"
_BOUNDS = ("gt", "gte", "lt", "lte")
_FILTERS = ("effective_at", "project_ids", "event_types", "actor_ids", "actor_emails")


def routes(platform: Platform) -> list[Route]:
    async def list_all(call: Call) -> None:
        """Who changed what, newest first; ours beyond OpenAI's when named in `event_types[]`."""
        if call.query.truth("tenant_only"):
            raise InvalidInput(
                "'tenant_only' is true; there are no tenants here.", param="tenant_only"
            )
        found, has_more = await call.work(
            audit.list_events, platform, call.principal, call.query.page(), _wanted(call.query)
        )
        data = [event_shape(event) for event in found]
        ids = [event.id for event in found]
        await call.reply(
            {
                "object": "list",
                "data": data,
                "first_id": ids[0] if ids else None,
                "last_id": ids[-1] if ids else None,
                "has_more": has_more,
            }
        )

    paging = ("limit", "after", "before")
    return [Route("GET", PATH, list_all, query=(*_FILTERS, "resource_ids", "tenant_only", *paging))]


def event_shape(event: audit.Event) -> dict[str, Any]:
    """OpenAI's event: its details are in a field that is named as its type."""
    shape: dict[str, Any] = {
        "id": event.id,
        "type": event.action,
        "effective_at": event.created_ms // 1000,
        "actor": _actor(event),
        event.action: _details(event),
        "before": event.before,
        "after": event.after,
    }
    if event.project_id is not None:
        shape["project"] = {"id": event.project_id, "name": event.project_name}
    return shape


def _details(event: audit.Event) -> dict[str, Any]:
    target = {"id": event.target}
    after = dict(event.after or {})
    if event.action.startswith("role.") and event.action != "role.updated":
        return {**target, **(after or event.before or {})}
    verb = event.action.rpartition(".")[2]
    if verb in ("created", "added", "sent"):
        return {**target, "data": after}
    if verb == "updated":
        return {**target, "changes_requested": after}
    return target


def _actor(event: audit.Event) -> dict[str, Any]:
    """Without a key it was somebody at the machine itself: a session, in OpenAI's words."""
    user = {"id": event.actor_id}
    if event.email is not None:
        user["email"] = event.email
    if event.key_id is None:
        return {"type": "session", "session": {"user": user}}
    kind = "service_account" if event.by_service_account else "user"
    return {"type": "api_key", "api_key": {"id": event.key_id, "type": kind, kind: user}}


def _wanted(query: Query) -> audit.Filter:
    bounds = query.mapping("effective_at")
    for name, value in bounds.items():
        if name not in _BOUNDS or not value.isascii() or not value.isdigit() or len(value) > 12:
            raise InvalidInput(
                f"'effective_at[{name[:20]}]' is {value[:50]!r}; it takes gt, gte, lt and lte with"
                " Unix seconds.",
                param="effective_at",
            )
    gt, gte, lt, lte = (int(bounds[name]) if name in bounds else None for name in _BOUNDS)
    return audit.Filter(
        actions=query.many("event_types") or sorted(audit.OPENAI_ACTIONS),
        project_ids=query.many("project_ids"),
        actor_ids=query.many("actor_ids"),
        emails=query.many("actor_emails"),
        targets=query.many("resource_ids"),
        gt=gt,
        gte=gte,
        lt=lt,
        lte=lte,
    )
