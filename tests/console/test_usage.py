"""The page of usage and cost over a ledger of real entries."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from bessemer.app import people, project_keys, projects, spending
from bessemer.app.keys import create_key, revoke_key
from bessemer.app.platform import PROJECT_ID, Platform
from bessemer.core.principal import Principal
from bessemer.ledger.counts import Counts
from bessemer.ledger.ledger import Ledger
from tests.console.copied import House, house
from tests.console.test_signing_in import log_in, reader_of

__all__ = ["house"]  # a fixture

DAY_MS = 86_400_000
CARD = 'currency = "usd"\n[[rates]]\nmodel = "*"\nprompt = 1_000_000\ncompletion = 2_000_000\n'


def spend(
    platform: Platform, who: Principal, model: str, counts: Counts, days_ago: int = 0
) -> None:
    """One chat that was asked and answered."""
    at_ms = time.time_ns() // 1_000_000 - days_ago * DAY_MS
    name = f"{model}-{who.project_id}-{days_ago}"
    with Ledger(platform.db, clock_ms=lambda: at_ms) as ledger:
        ledger.reserve(who, name, model, "chat", counts).result()
        ledger.settle(name, counts).result()


def lively(platform: Platform) -> None:
    """Two models over three days, and a second project."""
    me = platform.local_principal()
    spending.set_prices(platform, me, CARD, "the test")
    key = create_key(platform, me, "notebook", ["chat"])
    mine = replace(me, key_id=key.id)
    spend(platform, mine, "small", Counts(prompt=700, cached=300, completion=50))
    spend(platform, mine, "small", Counts(prompt=100, completion=10), days_ago=2)
    spend(platform, me, "large", Counts(prompt=2000, completion=1000), days_ago=1)
    other = projects.create(platform, me, "research")
    spend(platform, replace(me, project_id=other.id), "large", Counts(prompt=5), days_ago=1)


def rows(page: str, caption: str) -> list[list[str]]:
    """The cells of a table."""
    table = page.replace("<wbr>", "").split(f"<caption>{caption}</caption>")[1].split("</table>")[0]
    found = [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in table.split("<tr>")]
    return [cells for cells in found if cells][1:]


def test_without_usage_the_page_says_what_to_do(client: TestClient) -> None:
    page = client.get("/usage").text
    assert "Nothing was used in 30 days" in page and "bessemer chat" in page
    assert "There is no budget" in page and "<svg" not in page


def test_sums_by_model_and_by_day(client: TestClient, platform: Platform) -> None:
    lively(platform)
    page = client.get("/usage").text
    assert rows(page, "By model") == [
        ["large", "2", "2,005", "0", "1,000", "0.004005"],
        ["small", "2", "1,100", "300", "60", "0.00122"],
    ]
    by_day = rows(page, "By day")
    assert [row[1:4] for row in by_day] == [
        ["1", "1,000", "300"], ["2", "2,005", "0"], ["1", "100", "0"],
    ]  # fmt: skip
    assert "<dt>Cost</dt><dd>0.005225 <small>USD</small></dd>" in page


def test_sums_by_project_key_and_person_have_names(client: TestClient, platform: Platform) -> None:
    lively(platform)
    by_project = {
        row[0]: row[5] for row in rows(client.get("/usage?by=project").text, "By project")
    }
    assert by_project == {"Default project": "0.00522", "research": "0.000005"}
    by_key = [row[0] for row in rows(client.get("/usage?by=key").text, "By key")]
    assert by_key[0] == "none" and by_key[1].startswith("notebook (sk-bsm-...")
    assert rows(client.get("/usage?by=user").text, "By person")[0][0] == "owner@localhost"


def test_keys_of_other_projects_and_ended_ones_have_names_too(
    client: TestClient, platform: Platform
) -> None:
    lively(platform)
    me = platform.local_principal()
    other = projects.create(platform, me, "other")
    theirs = project_keys.create(platform, me, other.id, "theirs", ["chat"])
    ended = create_key(platform, me, "ended", ["chat"])
    there = replace(me, project_id=other.id, key_id=theirs.id)
    spend(platform, there, "m", Counts(prompt=1))
    spend(platform, replace(me, key_id=ended.id), "m", Counts(prompt=2))
    revoke_key(platform, me, ended.id)
    by_key = {row[0]: row[2] for row in rows(client.get("/usage?by=key").text, "By key")}
    assert by_key[f"theirs ({theirs.hint})"] == "1"
    assert by_key[f"ended ({ended.hint})"] == "2"


def test_the_bars_are_as_high_as_the_days_are_expensive(
    client: TestClient, platform: Platform
) -> None:
    lively(platform)
    page = client.get("/usage?days=7").text
    bars = re.findall(
        r'class="bar" x="([\d.]+)" y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', page
    )
    heights = [float(height) for _, _, height in bars]
    assert len(heights) == 7 and heights[:4] == [0, 0, 0, 0]
    # 0.00012, 0.004005 and 0.0011 of money.
    assert heights[5] == 200.0
    assert heights[6] == pytest.approx(200 * 1100 / 4005, abs=0.1)
    assert heights[4] == pytest.approx(200 * 120 / 4005, abs=0.1)
    (told,) = re.findall(r'role="img" aria-label="([^"]+)"', page)
    assert told.startswith("Cost by day: 0.005225 of money on 3 of 7 days, the most on ")
    tokens = client.get("/usage?days=7&show=tokens").text
    assert "Tokens by day" in tokens and "4,165 tokens" in tokens


def test_free_usage_is_shown_in_tokens(client: TestClient, platform: Platform) -> None:
    spend(platform, platform.local_principal(), "small", Counts(prompt=7))
    assert "Tokens by day: 7 tokens on 1 of 30 days" in client.get("/usage").text


@pytest.mark.parametrize("query", ["days=-1", "by=nobody&days=x", "show=<script>"])
def test_an_address_that_is_wrong_shows_the_usual(client: TestClient, query: str) -> None:
    answer = client.get(f"/usage?{query}")
    assert answer.status_code == 200 and "30 days" in answer.text
    assert "<script>" not in answer.text


def test_a_budget_is_set_told_and_lifted(client: TestClient, platform: Platform) -> None:
    spending.set_prices(platform, platform.local_principal(), CARD, "the test")
    form = {"amount": "0.01", "scope": "project", "period": "month"}
    assert client.post("/usage/budgets", data=form).status_code == 303
    spend(platform, platform.local_principal(), "small", Counts(prompt=2500))
    page = client.get("/usage").text
    assert "0.0025 spent of 0.01" in page and "0.0075 left" in page
    assert 'value="0.2500" aria-label="Spent of: This project, each month"' in page
    client.post("/usage/budgets", data={"scope": "project", "period": "month"})
    assert "There is no budget" in client.get("/usage").text


def test_what_is_no_budget_is_refused(client: TestClient) -> None:
    for wrong in (
        {"amount": "-1"},
        {"amount": "a lot"},
        {"amount": "1e999999"},
        {"amount": "1", "scope": "nobody"},
    ):
        form = {"scope": "project", "period": "month", **wrong}
        assert client.post("/usage/budgets", data=form).status_code == 400, wrong
    assert "There is no budget" in client.get("/usage").text


def test_a_member_sees_budgets_and_sets_none(stranger: TestClient, platform: Platform) -> None:
    me, person = platform.local_principal(), reader_of(platform, PROJECT_ID)
    spending.set_budget(platform, me, "project", "month", 10)
    client = log_in(stranger, platform, person)
    assert client.get("/usage").status_code == 403, "it is the whole organization's"
    people.set_role(platform, me, person.id, "member")
    page = client.get("/usage").text
    assert "0.00001 left" in page
    assert re.findall(r'action="([^"]+)"', page) == ["/logout"]
    form = {"amount": "1", "scope": "project", "period": "month"}
    assert client.post("/usage/budgets", data=form).status_code == 403


def test_what_is_copied_has_the_figures_of_the_page(house: House) -> None:
    lively(house.platform)
    page = house.page("/usage?by=project&days=7")
    ran = house.run(page.calls["Read the usage of chats and completions"])
    shown = {row[0]: row[1:] for row in rows(page.text, "By project")}
    for name in ran.keys() - {"CLI"}:
        results = [one for bucket in ran[name].json["data"] for one in bucket["results"]]
        here = [one for one in results if one["project_id"] == PROJECT_ID]
        assert f"{sum(one['input_tokens'] for one in here):,}" == shown["Default project"][1]
        assert f"{sum(one['output_tokens'] for one in here):,}" == shown["Default project"][3]
    mine = [row for row in ran["CLI"].json if row["project"] == PROJECT_ID]
    assert f"{sum(row['requests'] for row in mine)}" == shown["Default project"][0]

    costs = house.run(page.calls["Read the costs"])
    for bill in costs.values():
        results = [one for bucket in bill.json["data"] for one in bucket["results"]]
        whole = sum(spending.micro_units(f"{one['amount']['value']:.6f}") for one in results)
        assert whole == 5225
    # Every way to put it together is one that the API knows.
    for by in ("model", "key", "user"):
        for call in house.page(f"/usage?by={by}&days=90").calls.values():
            house.run({"Python": call["Python"]})
