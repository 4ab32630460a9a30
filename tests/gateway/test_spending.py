"""Limits and alerts at OpenAI's endpoints: one truth with the terminal, held to at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from bessemer.app import audit, names, spending
from bessemer.app.metering import Meter
from bessemer.app.paging import PageRequest
from bessemer.app.spending import set_prices
from bessemer.gateway.asgi import build
from bessemer.gateway.resources import resource_routes
from tests.fakes import FakeResponder, FakeServing
from tests.gateway.calling import MESSAGES, Running, running
from tests.gateway.organization import World, world

# A completion token costs a cent.
PRICES = """
currency = "usd"
[[rates]]
model = "*"
prompt = 0
completion = 10_000_000_000
"""
MONTH: Any = {"currency": "USD", "interval": "month"}
MAIL: Any = {"type": "email", "recipients": ["ada@example.org"], "subject_prefix": "spent"}
PROJECTS = "/v1/organization/projects"


class House:
    """A metered world behind a server, and the two clients of it."""

    def __init__(self, here: World, server: Running) -> None:
        self.here = here
        self.client = openai.OpenAI(
            base_url=server.url + "/v1", api_key=here.mine, admin_api_key=here.admin, max_retries=0
        )
        self.organization = self.client.admin.organization

    def chat(self, tokens: int = 3) -> Any:
        return self.client.chat.completions.create(
            model="tiny", messages=MESSAGES, max_tokens=tokens
        )  # type: ignore[call-overload]


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as found:
        set_prices(found.platform, found.owner, PRICES, "prices")
        meter = Meter.of(found.platform)
        serving = FakeServing({"tiny": FakeResponder()})
        routes = resource_routes(found.platform, serving=serving, meter=meter)
        found.app = build(serving, found.ring, meter=meter, routes=routes)
        found.ring.refresh()
        yield found
        meter.close()


@pytest.fixture
def house(here: World) -> Iterator[House]:
    with running(here.app) as server:
        yield House(here, server)


def test_a_spend_limit_is_the_budget_of_the_month_and_holds_at_once(house: House) -> None:
    limit, project_id = house.organization.projects.spend_limit, house.here.first.id
    with pytest.raises(openai.NotFoundError):
        limit.retrieve(project_id)
    house.chat()
    made = limit.update(project_id, threshold_amount=6, **MONTH)
    assert (made.object, made.threshold_amount, made.enforcement.status) == (
        "project.spend_limit", 6, "inactive"
    )  # fmt: skip
    there = house.here.owner.__class__(house.here.owner.org_id, project_id, "", frozenset({"*"}))
    (budget,) = spending.list_budgets(house.here.platform, there)
    assert (budget.scope, budget.period, budget.limit_micro) == ("project", "month", 60_000)
    house.chat(tokens=2)
    with pytest.raises(openai.RateLimitError, match=r"0\.01 is left of the month budget"):
        house.chat(tokens=2)
    house.chat(tokens=1)
    assert limit.retrieve(project_id).enforcement.status == "enforcing"
    # What the terminal sets, the endpoint tells.
    spending.set_budget(house.here.platform, there, "project", "month", 12_345_678)
    assert limit.retrieve(project_id).threshold_amount == 1234
    house.chat()
    assert limit.delete(project_id).deleted
    with pytest.raises(openai.NotFoundError):
        limit.delete(project_id)
    house.chat(tokens=3)


def test_the_organizations_limit_is_of_all_projects_together(house: House) -> None:
    limit = house.organization.spend_limit
    assert limit.update(threshold_amount=1, **MONTH).object == "organization.spend_limit"
    with pytest.raises(openai.RateLimitError, match="of org "):
        house.chat()
    assert limit.retrieve().threshold_amount == 1
    assert limit.delete().deleted
    house.chat()


def test_an_alert_is_made_reached_changed_and_deleted(house: House) -> None:
    alerts, project_id = house.organization.projects.spend_alerts, house.here.first.id
    made = alerts.create(project_id, threshold_amount=5, notification_channel=MAIL, **MONTH)
    other = house.organization.spend_alerts.create(
        threshold_amount=1000, notification_channel=MAIL, **MONTH
    )
    assert (made.object, other.object) == ("project.spend_alert", "organization.spend_alert")
    assert made.notification_channel.recipients == ["ada@example.org"]
    for _ in range(3):
        house.chat(tokens=2)
    found = alerts.retrieve(made.id, project_id=project_id)
    assert found.model_extra is not None
    (fired,) = found.model_extra["fired"]
    assert (fired["threshold_amount"], fired["spent_amount"]) == (5, 6)
    changed = alerts.update(
        made.id, project_id=project_id, threshold_amount=7, notification_channel=MAIL, **MONTH
    )
    assert changed.threshold_amount == 7
    house.chat(tokens=2)
    assert [one.id for one in alerts.list(project_id)] == [made.id]
    (listed,) = alerts.list(project_id)
    assert listed.model_extra is not None
    assert [one["threshold_amount"] for one in listed.model_extra["fired"]] == [7, 5]
    (untouched,) = house.organization.spend_alerts.list()
    assert untouched.id == other.id and untouched.model_extra == {"fired": []}
    with pytest.raises(openai.NotFoundError):
        alerts.retrieve(other.id, project_id=project_id)
    assert alerts.delete(made.id, project_id=project_id).deleted
    assert list(alerts.list(project_id)) == []


def test_rate_limits_are_listed_changed_and_held_to(house: House) -> None:
    limits, project_id = house.organization.projects.rate_limits, house.here.first.id
    (whole,) = limits.list_rate_limits(project_id)
    assert (whole.id, whole.model) == ("rl-*", "*")
    assert whole.max_requests_per_1_minute == 10**12
    changed = limits.update_rate_limit(whole.id, project_id=project_id, max_requests_per_1_minute=2)
    assert (changed.max_requests_per_1_minute, changed.max_tokens_per_1_minute) == (2, 10**12)
    house.chat()
    house.chat()
    with pytest.raises(openai.RateLimitError, match="requests per minute: the limit is 2"):
        house.chat()
    limits.update_rate_limit(whole.id, project_id=project_id, max_requests_per_1_minute=10**12)
    house.chat()


def test_a_model_with_a_slash_in_its_name_has_a_limit_of_its_own(house: House) -> None:
    limits, project_id = house.organization.projects.rate_limits, house.here.first.id
    here = replace(house.here.owner, project_id=project_id)
    names.bind(house.here.platform, here, "model", "org/tiny", "sha256:" + "0" * 64)
    limits.update_rate_limit("rl-org/tiny", project_id=project_id, max_requests_per_1_minute=2)
    asked = {one.id: one.max_requests_per_1_minute for one in limits.list_rate_limits(project_id)}
    assert asked == {"rl-*": 10**12, "rl-org/tiny": 2}
    with pytest.raises(openai.NotFoundError, match="The model `org/tiny`"):
        house.client.models.delete("org/tiny")


def test_responses_tell_their_rate_limits_as_chats_do_whole_and_streamed(house: House) -> None:
    limits, project_id = house.organization.projects.rate_limits, house.here.first.id
    limits.update_rate_limit("rl-*", project_id=project_id, max_requests_per_1_minute=3)
    ask = house.client.responses.with_raw_response.create
    left = [
        ask(model="tiny", input="hello", stream=stream).headers["x-ratelimit-remaining-requests"]
        for stream in (False, True, False)
    ]
    assert left == ["2", "1", "0"]
    with pytest.raises(openai.RateLimitError) as refused:
        ask(model="tiny", input="hello")
    assert refused.value.response.headers["x-ratelimit-limit-requests"] == "3"


def test_what_a_limit_cannot_be_is_refused_by_name(here: World) -> None:
    path = f"{PROJECTS}/{here.first.id}"
    limit = {"threshold_amount": 5, **MONTH}
    alert = {**limit, "notification_channel": MAIL}
    for where, body, param in (
        ("spend_limit", {**limit, "threshold_amount": 0}, "threshold_amount"),
        ("spend_limit", {**limit, "currency": "EUR"}, "currency"),
        ("spend_limit", {**limit, "interval": "week"}, "interval"),
        ("spend_limit", {**limit, "colour": "red"}, "colour"),
        ("spend_alerts", {**alert, "threshold_amount": -1}, "threshold_amount"),
        ("spend_alerts", limit, "notification_channel"),
        (
            "spend_alerts",
            {**alert, "notification_channel": {**MAIL, "recipients": [""]}},
            "notification_channel",
        ),
        ("rate_limits/rl-*", {"max_images_per_1_minute": 3}, "max_images_per_1_minute"),
        (
            "rate_limits/rl-*",
            {"max_requests_per_1_minute": -3},
            "max_requests_per_1_minute",
        ),
        ("rate_limits/rl-*", {"max_tokens_per_1_minute": 10**13}, "max_tokens_per_1_minute"),
    ):
        answer = here.ask("POST", f"{path}/{where}", body)
        assert (answer.status, answer.error["param"]) == (400, param), answer.body
    for unknown in ("rl-nothing", "nothing"):
        answer = here.ask("POST", f"{path}/rate_limits/{unknown}", {})
        assert (answer.status, answer.error["param"]) == (404, "rate_limit_id")
    assert here.ask("GET", f"{path}/rate_limits?after=rl-x").error["param"] == "after"


def test_only_the_organization_changes_what_a_project_may_spend(here: World) -> None:
    mine = f"{PROJECTS}/{here.second.id}"
    body = {"threshold_amount": 5, **MONTH}
    here.post(f"{mine}/spend_limit", body)
    assert here.get(f"{mine}/spend_limit", key=here.others)["threshold_amount"] == 5
    assert here.ask("POST", f"{mine}/spend_limit", body, key=here.others).status == 403
    assert here.ask("DELETE", f"{mine}/spend_limit", key=here.others).status == 403
    assert here.ask("GET", "/v1/organization/spend_limit", key=here.others).status == 403


def test_every_change_leaves_a_line_and_what_changes_nothing_none(here: World) -> None:
    path = f"{PROJECTS}/{here.first.id}"
    here.post(f"{path}/spend_limit", {"threshold_amount": 5, **MONTH})
    here.post(f"{path}/spend_limit", {"threshold_amount": 7, **MONTH})
    here.post(f"{path}/spend_limit", {"threshold_amount": 7, **MONTH})
    set_prices(here.platform, here.owner, PRICES, "prices")
    here.delete(f"{path}/spend_limit")
    alert = {"threshold_amount": 5, **MONTH, "notification_channel": MAIL}
    made = here.post("/v1/organization/spend_alerts", alert)
    for _ in range(2):
        here.post(f"/v1/organization/spend_alerts/{made['id']}", {**alert, "threshold_amount": 6})
    here.post(f"{path}/rate_limits/rl-*", {"max_requests_per_1_minute": 9})
    for nothing in ({}, {"max_requests_per_1_minute": 9}, {"max_tokens_per_1_minute": 10**12}):
        here.post(f"{path}/rate_limits/rl-*", nothing)
    for _ in range(2):
        here.post(f"{path}/model_permissions", {"mode": "deny_list", "model_ids": ["x"]})
    wanted = audit.Filter(actions=["model_permissions.updated"])
    assert len(audit.list_events(here.platform, here.owner, PageRequest(), wanted)[0]) == 1
    money = ["budget.updated", "budget.deleted", "spend_alert.created", "spend_alert.updated"]
    wanted = audit.Filter(actions=[*money, "rate_limit.updated", "rate_card.updated"])
    trail, _ = audit.list_events(here.platform, here.owner, PageRequest(), wanted)
    lines = [(one.action, one.before or {}, one.after or {}) for one in trail]
    assert here.get("/v1/organization/audit_logs")["data"][0]["type"] == "rate_limit.updated"
    month = {"period": "month"}
    assert lines[0][2] == {"max_requests_per_1_minute": 9}
    assert (lines[1][1]["threshold_micro"], lines[1][2]["threshold_micro"]) == (50_000, 60_000)
    assert lines[2][0] == "spend_alert.created" and not lines[2][1]
    assert lines[3:6] == [
        ("budget.deleted", {**month, "limit_micro": 70_000}, {}),
        ("budget.updated", {**month, "limit_micro": 50_000}, {**month, "limit_micro": 70_000}),
        ("budget.updated", {}, {**month, "limit_micro": 50_000}),
    ]
    assert lines[6][0] == "rate_card.updated" and lines[6][2]["currency"] == "usd"
    assert len(lines) == 7
