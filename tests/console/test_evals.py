"""The pages of evals: the list, an eval and its runs, a run's items, and what changed."""

from __future__ import annotations

import html
import re
from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient

from bessemer.app import eval_definitions, eval_runs
from bessemer.app.eval_definitions import CustomData, Eval
from bessemer.app.eval_grading import item_digest
from bessemer.app.eval_runs import EvalRun, NewOutput
from bessemer.app.eval_tally import CriterionTally, Tally, Verdict
from bessemer.app.platform import Platform
from bessemer.text.criteria import Criterion
from tests.console.copied import House, house

__all__ = ["house"]  # a fixture

CRITERIA = [
    {"type": "string_check", "name": "equal", "input": "{{sample.output_text}}",
     "reference": "{{item.want}}", "operation": "eq"},
    {"type": "string_check", "name": "polite", "input": "{{sample.output_text}}",
     "reference": "please", "operation": "like"},
]  # fmt: skip
LABELS = ["equal", "polite"]
P, F, E = (True, True), (False, True), None


def define(platform: Platform, name: str = "capitals") -> Eval:
    return eval_definitions.add(
        platform,
        platform.local_principal(),
        CustomData(item_schema={}),
        msgspec.convert(CRITERIA, list[Criterion]),
        name=name,
    )


def told_run(
    platform: Platform,
    definition: Eval,
    name: str,
    verdicts: list[tuple[bool, bool] | None],
    *,
    answer: str = "the answer of {name} to {number}",
    end: bool = True,
    total: int | None = None,
) -> EvalRun:
    """A run whose outputs a test tells: for each item what both criteria said; None is an error."""
    me = platform.local_principal()
    run = eval_runs.add(
        platform, me, definition.id, None, {}, total=total or len(verdicts), name=name, model="m"
    )
    for number, said in enumerate(verdicts):
        item = {"ask": f"question {number}", "want": "<b>Paris</b>"}
        text = answer.format(name=name, number=number)
        assert eval_runs.record(platform, run.id, _output(number, item, text, said))
    if end:
        eval_runs.finish(platform, run.id, "completed")
    return eval_runs.get(platform, me, definition.id, run.id)


def _output(
    number: int, item: dict[str, str], text: str, said: tuple[bool, bool] | None
) -> NewOutput:
    state: Verdict = "error" if said is None else "pass" if all(said) else "fail"
    verdicts = {} if said is None else dict(zip(LABELS, said, strict=True))
    results: list[dict[str, Any]] = [
        {"name": label, "type": "string_check", "score": float(passed), "passed": passed,
         "sample": None}
        for label, passed in verdicts.items()
    ]  # fmt: skip
    error = {"code": "busy", "message": "nobody answered"} if said is None else None
    sample = {"input": [], "output": [{"role": "assistant", "content": text}], "error": error}
    part = Tally(
        passed=int(state == "pass"),
        failed=int(state == "fail"),
        errored=int(state == "error"),
        criteria={
            label: CriterionTally(int(passed), int(not passed), 0, float(passed))
            for label, passed in verdicts.items()
        },
    )
    body = {"datasource_item": item, "results": results, "sample": sample}
    return NewOutput(number, item_digest(item), state, verdicts, msgspec.json.encode(body), part)


def test_an_empty_list_says_how_to_begin(client: TestClient) -> None:
    text = client.get("/evals").text
    assert "No eval yet" in text and "bessemer evals import" in text


def test_the_list_shows_each_evals_newest_run(client: TestClient, platform: Platform) -> None:
    definition = define(platform)
    assert "no run yet" in client.get("/evals").text
    told_run(platform, definition, "old", [F, F])
    told_run(platform, definition, "new", [P, P, P, F])
    text = client.get("/evals").text
    assert ">new</a>" in text and ">old</a>" not in text and "75.0%" in text
    assert "equal, polite" in text


def test_an_eval_without_a_run_says_how_to_make_one(client: TestClient, platform: Platform) -> None:
    definition = define(platform)
    text = client.get(f"/evals/{definition.id}").text
    assert f"bessemer evals run {definition.id}" in text
    assert "string check" in text and "{{item.want}}" in text


def test_an_eval_shows_every_runs_rates_with_intervals(
    client: TestClient, platform: Platform
) -> None:
    definition = define(platform)
    told_run(platform, definition, "first", [P, F, F, F])
    assert "Compare the two chosen" not in client.get(f"/evals/{definition.id}").text
    told_run(platform, definition, "second", [P, P, P, P])
    text = client.get(f"/evals/{definition.id}").text
    # Wilson for 1 of 4, as tests/gateway/test_evals.py has it by hand.
    assert "1 of 4, 95% interval 4.6% to 69.9%" in text
    assert "Compare the two chosen" in text and 'name="baseline"' in text


def test_the_address_that_the_api_answers_leads_to_the_run(
    client: TestClient, platform: Platform
) -> None:
    definition = define(platform)
    run = told_run(platform, definition, "first", [P])
    there = client.get(f"/evals/{definition.id}?run_id={run.id}")
    assert there.headers["location"] == f"/evals/{definition.id}/runs/{run.id}"
    assert client.get(there.headers["location"]).status_code == 200


def test_a_run_shows_its_report_and_its_items_by_verdict(
    client: TestClient, platform: Platform
) -> None:
    definition = define(platform)
    run = told_run(platform, definition, "first", [P, F, E, P])
    address = f"/evals/{definition.id}/runs/{run.id}"
    text = client.get(address).text
    assert "Partial (1 of 4 items could not be judged)" in html.unescape(text)
    assert "passed 2" in text and "failed 1" in text and "not judged 1" in text
    assert "the answer of first to 0" in text and "nobody answered" in text
    for state, number in (("pass", 0), ("fail", 1), ("error", 2)):
        shown = client.get(f"{address}?status={state}").text
        found = re.findall(r'id="item-(\d+)"', shown)
        assert str(number) in found and len(found) == {"pass": 2, "fail": 1, "error": 1}[state]
    assert client.get(f"{address}?status=odd").status_code == 400


def test_items_come_in_pages_within_their_verdict(client: TestClient, platform: Platform) -> None:
    definition = define(platform)
    run = told_run(platform, definition, "long", [F, P] * 30)
    address = f"/evals/{definition.id}/runs/{run.id}?status=fail"
    first = client.get(address).text
    assert len(re.findall(r'id="item-\d+"', first)) == 25
    (more,) = re.findall(r'href="(/evals/[^"]*after=[^"]*)"', first)
    second = client.get(html.unescape(more)).text
    assert re.findall(r'id="item-(\d+)"', second) == ["50", "52", "54", "56", "58"]


def test_what_an_item_or_a_model_says_is_never_markup(
    client: TestClient, platform: Platform
) -> None:
    evil = "<script>alert(1)</script>"
    definition = define(platform, name=evil)
    runs = [
        told_run(platform, definition, f"{evil} {verdict}", [verdict], answer=evil)
        for verdict in (P, F)
    ]
    base = f"/evals/{definition.id}"
    for address in (
        "/evals", base, f"{base}/runs/{runs[0].id}",
        f"{base}/comparison?baseline={runs[0].id}&candidate={runs[1].id}",
    ):  # fmt: skip
        text = client.get(address).text
        assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text
        assert "<b>Paris" not in text


def test_a_run_that_goes_on_shows_progress_and_can_be_stopped(
    client: TestClient, platform: Platform
) -> None:
    definition = define(platform)
    run = told_run(platform, definition, "going", [P, F], end=False, total=8)
    eval_runs.begin(platform, run.id)
    address = f"/evals/{definition.id}/runs/{run.id}"
    text = client.get(address).text
    assert "2 of 8 items" in text and "left" in text and 'hx-trigger="every 2s"' in text
    assert client.post(f"{address}/cancel").status_code == 303
    text = client.get(address).text
    assert "is-canceled" in text and "hx-get" not in text and f"{address}/cancel" not in text
    assert client.post(f"{address}/cancel").status_code == 409


def test_what_got_worse_comes_first(client: TestClient, platform: Platform) -> None:
    definition = define(platform)
    before = told_run(platform, definition, "small", [F, P, P, (False, False), P, E])
    after = told_run(platform, definition, "large", [P, P, F, (False, True), F, P])
    address = f"/evals/{definition.id}/comparison?baseline={before.id}&candidate={after.id}"
    text = html.unescape(client.get(address).text)
    assert "Cannot tell whether large differs from small in all criteria" in text
    # Item 5 was an error before, so it is in no comparison of both.
    assert "4: 2 lost, 1 gained, 1 in single criteria" in text
    places = [text.index(f"<b>item {number}</b>") for number in (2, 4, 0, 3)]
    assert places == sorted(places)
    assert text.index("Passed before, fails now") < text.index("Failed before, passes now")
    lost = text[places[0] : places[1]]
    assert "equal fails now" in lost and "the answer of small to 2" in lost
    assert "the answer of large to 2" in lost


def test_more_changes_than_are_named_keep_what_got_worse(
    client: TestClient, platform: Platform
) -> None:
    """The limit cuts after the order, not before."""
    definition = define(platform)
    before = told_run(platform, definition, "small", [*[F] * 60, P])
    after = told_run(platform, definition, "large", [*[P] * 60, F])
    address = f"/evals/{definition.id}/comparison?baseline={before.id}&candidate={after.id}"
    text = client.get(address).text
    assert "<b>item 60</b>" in text and "50 of 61 are shown" in text


def test_a_comparison_needs_two_runs(client: TestClient, platform: Platform) -> None:
    definition = define(platform)
    run = told_run(platform, definition, "only", [P])
    base = f"/evals/{definition.id}/comparison"
    assert client.get(base).status_code == 400
    assert client.get(f"{base}?baseline={run.id}&candidate={run.id}").status_code == 400
    assert client.get(f"{base}?baseline={run.id}&candidate=none").status_code == 404


def test_a_reader_reads_and_stops_nothing(reader: TestClient, platform: Platform) -> None:
    definition = define(platform)
    run = told_run(platform, definition, "going", [P], end=False, total=2)
    address = f"/evals/{definition.id}/runs/{run.id}"
    text = reader.get(address).text
    assert "1 of 2 items" in text and "/cancel" not in text
    assert reader.post(f"{address}/cancel").status_code == 403


def test_another_projects_evals_are_not_there(neighbor: TestClient, platform: Platform) -> None:
    definition = define(platform)
    runs = [told_run(platform, definition, name, [P]) for name in ("a", "b")]
    base = f"/evals/{definition.id}"
    assert definition.id not in neighbor.get("/evals").text
    for address in (
        base, f"{base}?run_id={runs[0].id}", f"{base}/runs/{runs[0].id}",
        f"{base}/comparison?baseline={runs[0].id}&candidate={runs[1].id}",
    ):  # fmt: skip
        assert neighbor.get(address).status_code == 404
    assert neighbor.post(f"{base}/runs/{runs[0].id}/cancel").status_code == 404


def test_what_is_copied_cancels_a_run(house: House) -> None:
    definition = define(house.platform)
    for name in ("curl", "Python"):
        run = told_run(house.platform, definition, name, [P], end=False, total=2)
        address = f"/evals/{definition.id}/runs/{run.id}"
        text = house.page(address).calls["Cancel it"][name]
        for ran in house.run({name: text}).values():
            assert (ran.json["id"], ran.json["status"]) == (run.id, "canceled")
            assert "Cancel it" not in house.page(address).calls


@pytest.mark.parametrize("which", ["list", "eval", "run", "comparison"])
def test_what_is_copied_says_what_the_page_shows(house: House, which: str) -> None:
    definition = define(house.platform)
    before = told_run(house.platform, definition, "small", [P, F])
    after = told_run(house.platform, definition, "large", [F, F])
    base = f"/evals/{definition.id}"
    if which == "list":
        for name, ran in house.run(house.page("/evals").calls["List the evals"]).items():
            found = ran.json if name == "CLI" else ran.json["data"]
            assert [one["id"] for one in found] == [definition.id]
    elif which == "eval":
        calls = house.page(base).calls
        for ran in house.run(calls["Look at the eval"]).values():
            assert ran.json["id"] == definition.id
        for ran in house.run(calls["List its runs"]).values():
            assert {one["id"] for one in ran.json["data"]} == {before.id, after.id}
    elif which == "run":
        calls = house.page(f"{base}/runs/{before.id}").calls
        for ran in house.run(calls["Look at the run"]).values():
            assert ran.json["id"] == before.id
        for ran in house.run(calls["List what failed"]).values():
            assert [one["datasource_item_id"] for one in ran.json["data"]] == [1]
    else:
        address = f"{base}/comparison?baseline={before.id}&candidate={after.id}"
        for ran in house.run(house.page(address).calls["Compare the runs"]).values():
            assert [one["change"] for one in ran.json["changed"]] == ["lost"]
