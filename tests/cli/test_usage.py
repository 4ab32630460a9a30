"""`bessemer usage`, `prices` and `budget` from the command line."""

from __future__ import annotations

from pathlib import Path

from bessemer.app.platform import Platform
from bessemer.ledger.counts import Counts
from bessemer.ledger.ledger import Ledger
from tests.cli.calling import say

CARD = """
currency = "usd"
[[rates]]
model = "*"
prompt = 1_000_000
completion = 2_000_000
"""


def reserve(name: str, settle: bool, reasoning: int = 0) -> None:
    with Platform.open() as platform, Ledger(platform.db) as ledger:
        who = platform.local_principal()
        ledger.reserve(who, name, "tiny", "chat", Counts(10, 0, 5)).result()
        if settle:
            ledger.settle(name, Counts(8, 2, 1, reasoning)).result()


def test_prices_are_zero_until_they_are_set(tmp_path: Path) -> None:
    assert "*      0" in say("prices", "show").out
    file = tmp_path / "prices.toml"
    file.write_text(CARD)
    assert "is in force: 1 rates in usd" in say("prices", "set", str(file)).out
    assert say("prices", "show", "--json").json["rates"][0]["completion"] == 2_000_000
    file.write_text(CARD + "training = 3_141_592\n")
    say("prices", "set", str(file))
    assert "3,141,592" in say("prices", "show").out
    file.write_text(CARD.replace("1_000_000", "0.5"))
    said = say("prices", "set", str(file))
    assert said.status == 1 and "write $0.15 as 150_000" in said.err


def test_what_was_used_is_listed_by_day_model_and_key(tmp_path: Path) -> None:
    assert say("usage").out == "nothing was used in 30 days\n"
    reserve("free", settle=True)
    file = tmp_path / "prices.toml"
    file.write_text(CARD)
    say("prices", "set", str(file))
    reserve("paid", settle=True, reasoning=5)
    (row,) = say("usage", "--json").json
    assert row["model"] == "tiny" and row["requests"] == 2 and row["prompt"] == 16
    assert row["cost_micro"] == 8 + 2 + 2 + 10
    header, told = say("usage", "--by", "kind").out.splitlines()
    assert header.split()[3:] == ["PROMPT", "CACHED", "COMPLETION", "REASONING", "COST"]
    assert told.split()[3:] == ["16", "4", "2", "5", "0.000022"]


def test_what_a_crash_left_is_settled_or_released_by_hand() -> None:
    for name in ("r1", "r2"):
        reserve(name, settle=False)
    assert [row["id"] for row in say("usage", "unsettled", "--json").json] == ["r1", "r2"]
    assert say("usage", "settle", "r1", "--prompt", "3").out == "r1 is settled: 0.00\n"
    assert say("usage", "release", "r2", "--reason", "it was lost").status == 0
    assert say("usage", "unsettled").out == "nothing is unsettled\n"
    assert "there is no open request 'r2'" in say("usage", "release", "r2", "--reason", "x").err


def test_budgets_are_set_shown_and_lifted() -> None:
    assert "no budgets" in say("budget", "show").out
    assert say("budget", "set", "12.50").status == 0
    assert say("budget", "set", "100", "--for", "org", "--per", "total").status == 0
    org, project = say("budget", "show", "--json").json
    assert (org["scope"], org["limit_micro"]) == ("org", 100_000_000)
    assert (project["period"], project["limit_micro"]) == ("month", 12_500_000)
    assert say("budget", "lift").status == 0
    assert "project" not in say("budget", "show").out
    for wrong in ("12.3456789", "much", "nan", "1e999999"):
        assert "is not an amount" in say("budget", "set", wrong).err


def test_a_projects_budget_is_its_own() -> None:
    say("project", "create", "research")
    assert say("budget", "set", "3", "--project", "research").status == 0
    (there,) = say("budget", "show", "--project", "research", "--json").json
    assert there["limit_micro"] == 3_000_000
    assert say("budget", "show", "--json").json == []
    assert say("budget", "set", "3", "--project", "nowhere").status == 1


def test_alerts_are_set_said_and_taken_away(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(CARD)
    say("prices", "set", str(file))
    alert = say("budget", "alert", "0.00001", "--json").json
    assert say("budget", "alerts").out.split()[-1] == "never"
    reserve("paid", settle=True)  # 0.000012
    (found,) = say("budget", "alerts", "--json").json
    assert found["id"] == alert["id"] and [one["settled_micro"] for one in found["fired"]] == [12]
    assert " at 0.000012" in say("budget", "alerts").out
    assert say("budget", "forget", alert["id"]).status == 0
    assert "no alerts" in say("budget", "alerts").out
    events = say("audit", "--json").json
    actions = [event["action"] for event in events]
    assert actions[:3] == ["spend_alert.deleted", "spend_alert.created", "rate_card.updated"]
    assert events[0]["before"]["threshold_micro"] == 10


def test_limits_are_set_shown_and_lifted() -> None:
    assert "no limits" in say("limits", "show").out
    assert say("limits", "set").status == 2
    assert say("limits", "set", "--requests", "60").status == 0
    assert say("limits", "set", "--tokens", "9000").status == 0
    key = say("key", "create", "--json").json["id"]
    assert say("limits", "set", "--tokens", "70", "--key", key).status == 0
    assert say("limits", "set", "--requests", "5", "--key", key).status == 0
    of_key, of_project = say("limits", "show", "--json").json
    assert of_key == {"account": f"key:{key}", "model": "*", "requests": 5, "tokens": 70}
    assert (of_project["requests"], of_project["tokens"]) == (60, 9000)
    assert say("limits", "lift").status == say("limits", "lift", "--key", key).status == 0
    assert "no limits" in say("limits", "show").out
    assert "no model 'smol'" in say("limits", "set", "--requests", "1", "--model", "smol").err
    assert "no key 'key_x'" in say("limits", "set", "--requests", "1", "--key", "key_x").err
