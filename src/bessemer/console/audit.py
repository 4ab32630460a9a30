"""The page of the audit trail: who changed what, when, and what it was before."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any, NamedTuple
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bessemer.app import audit
from bessemer.app.audit import OPENAI_ACTIONS, OUR_ACTIONS, Event, Filter
from bessemer.app.paging import PageRequest
from bessemer.app.platform import Platform
from bessemer.console import wording
from bessemer.console.asker import asker
from bessemer.console.copying import ApiCall
from bessemer.console.rendering import page
from bessemer.core.errors import InvalidInput

LISTED = 50
ACTIONS = sorted(OPENAI_ACTIONS | OUR_ACTIONS)

_DAY_S = 86_400
_FIELDS = ("action", "actor", "target", "since", "until")


class Change(NamedTuple):
    """A field of what was changed; None where it had no value before, or has none now."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Asked:
    """The filter as the page's address has it; an empty field asks for nothing. Days are UTC's,
    `until` included."""

    action: str = ""
    actor: str = ""
    target: str = ""
    since: str = ""
    until: str = ""
    after: str | None = None
    before: str | None = None

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Asked:
        texts = {name: query.get(name, "").strip() for name in _FIELDS}
        return cls(**texts, after=query.get("after"), before=query.get("before"))

    @property
    def is_filtered(self) -> bool:
        return any(getattr(self, name) for name in _FIELDS)

    @property
    def filter(self) -> Filter:
        """Raises InvalidInput where a day is none."""
        is_email = "@" in self.actor
        since, until = _day_s(self.since, "since"), _day_s(self.until, "until")
        return Filter(
            actions=[self.action] if self.action else [],
            actor_ids=[self.actor] if self.actor and not is_email else [],
            emails=[self.actor] if is_email else [],
            targets=[self.target] if self.target else [],
            gte=since,
            lt=None if until is None else until + _DAY_S,
        )

    def link(self, **more: str) -> str:
        """The same filter, on another page of it."""
        named = {name: value for name in _FIELDS if (value := getattr(self, name))}
        return f"/audit?{urlencode({**named, **more})}"


class AuditPages:
    """The route of the trail over one platform, for worker threads."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def routes(self) -> list[Route]:
        return [Route("/audit", self.show)]

    def show(self, request: Request) -> Response:
        asked = Asked.of(request.query_params)
        turned = PageRequest(LISTED, after=asked.after, before=asked.before)
        events, more = audit.list_events(self._platform, asker(request), turned, asked.filter)
        backwards = asked.before is not None
        return page(
            request,
            "audit.html",
            calls=[call_of(asked, events)],
            asked=asked,
            events=events,
            actions=ACTIONS,
            # Of a page that was reached backwards, `more` speaks of the newer ones.
            newer=more if backwards else asked.after is not None,
            older=True if backwards else more,
            changes=changes,
        )


def changes(event: Event) -> list[Change]:
    """What differs; of something made or ended, all of it that is something."""
    before, after = event.before or {}, event.after or {}
    names = [*before, *(name for name in after if name not in before)]
    found = [Change(name, _text(name, before), _text(name, after)) for name in names]
    return [change for change in found if change.before != change.after]


def call_of(asked: Asked, events: Sequence[Event]) -> ApiCall:
    """The page's own list. The API is silent about what OpenAI has no event type for, unless it is
    asked for by name, so without an action the call names those that the page shows."""
    wanted = asked.filter
    actions = [*wanted.actions] or sorted({event.action for event in events})
    times = {name: at for name in ("gte", "lt") if (at := getattr(wanted, name)) is not None}
    query: dict[str, Any] = {
        "event_types": actions,
        "actor_ids": wanted.actor_ids,
        "actor_emails": wanted.emails,
        "resource_ids": wanted.targets,
        "effective_at": times,
        "after": asked.after,
        "before": asked.before,
    }
    return ApiCall(
        "List these changes",
        "GET",
        "/v1/organization/audit_logs",
        query={"limit": LISTED, **{name: value for name, value in query.items() if value}},
        python="admin.organization.audit_logs.list",
        cli=None if asked.after or asked.before else _command(asked),
    )


def _command(asked: Asked) -> list[str]:
    words = ["audit", "--limit", str(LISTED), "--json"]
    for name in _FIELDS:
        if value := getattr(asked, name):
            words += [f"--{name}", value]
    return words


def _day_s(text: str, name: str) -> int | None:
    """When the day begins, in Unix seconds; before those there is no change."""
    if not text:
        return None
    try:
        day = datetime.combine(date.fromisoformat(text), time(), UTC)
    except ValueError:
        raise InvalidInput(f"{name} is a day like 2026-11-27, not {text[:40]!r}") from None
    return max(0, int(day.timestamp()))


def _text(name: str, facts: Mapping[str, Any]) -> str | None:
    """A value as a person reads it; None where there is none."""
    value = facts.get(name)
    if value is None or isinstance(value, str):
        return value
    if name.endswith("_ms") and isinstance(value, int):
        return wording.moment(value / 1000)
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return " ".join(value)
    return json.dumps(value, ensure_ascii=False)
