"""The page of usage and cost: by day, model, project, key and person, and what budgets leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from bessemer.app import people, project_keys, projects, spending, usage
from bessemer.app.metering import Meter
from bessemer.app.paging import PageRequest
from bessemer.app.platform import Platform
from bessemer.app.usage import Bucket
from bessemer.console.asker import asker
from bessemer.console.forms import Form, posted
from bessemer.console.rendering import page
from bessemer.console.usage_view import (
    GROUPS,
    MEASURES,
    SPANS,
    Asked,
    Group,
    Left,
    UsageView,
    calls_of,
    query_of,
)
from bessemer.core.principal import Principal

_MANY = PageRequest(limit=1000)


class UsagePages:
    """The routes of usage over one platform. All are for worker threads."""

    def __init__(self, platform: Platform, meter: Meter | None = None) -> None:
        self._platform, self._meter = platform, meter

    def routes(self) -> list[Route]:
        return [
            Route("/usage", self.show),
            Route("/usage/budgets", posted(self.set_budget), methods=["POST"]),
        ]

    def show(self, request: Request) -> Response:
        me, asked = asker(request), Asked.of(request.query_params)
        query = query_of(asked, me.org_id)
        found = usage.read_usage(self._platform, me, query)
        budgets = self._budgets(me)
        return page(
            request,
            "usage.html",
            calls=calls_of(asked, query.start_ms),
            view=UsageView(asked, found, self._names(me, asked.by, found)),
            budgets=budgets,
            currency=spending.card_in_force(self._platform).currency.upper(),
            group=GROUPS[asked.by],
            spans=[(days, f"{days} days") for days in SPANS],
            groups=[(group, f"by {name}") for group, name in GROUPS.items()],
            measures=[(measure, measure) for measure in MEASURES],
        )

    def set_budget(self, request: Request, form: Form) -> Response:
        """Set one, or lift it where no amount is given."""
        scope, period = form.text("scope"), form.text("period")
        amount = form.text("amount") if "amount" in form else None
        limit_micro = None if amount is None else spending.micro_units(amount)
        spending.set_budget(
            self._platform,
            asker(request),
            cast("spending.Scope", scope),  # which the use case checks
            cast("spending.Period", period),
            limit_micro,
        )
        return RedirectResponse("/usage#budgets", status_code=303)

    def _budgets(self, me: Principal) -> list[Left] | None:
        """None for who may not read them."""
        if not me.holds(spending.READ_SCOPE):
            return None
        return [Left(budget) for budget in spending.list_budgets(self._platform, me)]

    def _names(self, me: Principal, by: Group, found: Sequence[Bucket]) -> dict[str, str]:
        if by == "project":
            listed, _ = projects.list_projects(self._platform, me, _MANY, archived=True)
            return {project.id: project.name for project in listed}
        if by == "user":
            everybody, _ = people.list_people(self._platform, me, _MANY)
            return {person.id: person.email for person in everybody}
        if by == "key":
            sums = (one for bucket in found for one in bucket.sums)
            used = {key_id for one in sums for key_id in one.group if key_id is not None}
            keys = project_keys.known(self._platform, me, used)
            return {key.id: f"{key.name} ({key.hint})" for key in keys}
        return {}
