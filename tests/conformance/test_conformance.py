"""What README says of conformance is what is printed, and the score cannot be had for less."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conformance import cycles  # noqa: F401  # registers them
from tests.conformance.cycle import CYCLES, Cycle, Desk
from tests.conformance.home import site
from tests.conformance.recording import Kind, Record
from tests.conformance.running import Outcome, refusals, run
from tests.conformance.score import Score, judge
from tests.specification import Operation, operations

README = Path(__file__).parents[2] / "README.md"
CHAT = Operation("POST", "/chat/completions")
GET = Operation("GET", "/files/{file_id}")
FILE = {"id": "file-1", "object": "file", "bytes": 1, "created_at": 1, "filename": "a",
        "purpose": "batch", "status": "processed"}  # fmt: skip


@pytest.fixture(scope="module")
def score(tmp_path_factory: pytest.TempPathFactory) -> Score:
    with site(tmp_path_factory.mktemp("conformance")) as here:
        refused = refusals(here.url)
        return judge(run(here, CYCLES, refused), refused)


def test_everything_that_is_served_is_exercised_and_as_specified(score: Score) -> None:
    assert list(score.faults) == []


def test_readme_shows_the_number_that_is_printed(score: Score) -> None:
    assert score.text().splitlines()[-1] == score.line
    assert f"{score.line} of OpenAI's current specification" in " ".join(README.read_text().split())


async def nothing(_desk: Desk) -> None: ...


def outcome(
    proves: Operation = GET,
    kind: Kind = "sync",
    body: object = FILE,
    *,
    fault: str | None = None,
    status: int = 200,
) -> Outcome:
    path = "/v1" + proves.path.replace("{file_id}", "file-1")
    raw = bytearray(json.dumps(body).encode())
    record = Record(proves.method, path, status, "application/json", raw)
    return Outcome(Cycle("files", (proves,), nothing), kind, [record], fault)


def judged(*outcomes: Outcome) -> Score:
    """Of a server that has what the first outcome is about."""
    served = outcomes[0].cycle.proves
    return judge(outcomes, {one: "not_implemented" for one in operations() if one not in served})


def test_what_both_clients_proved_is_counted() -> None:
    score = judged(outcome(), outcome(kind="async"))
    assert (score.exercised, list(score.faults), score.bodies) == ({GET}, [], 2)


@pytest.mark.parametrize(
    "second",
    [
        outcome(kind="sync"),
        outcome(kind="async", fault="it was still there"),
        outcome(kind="async", status=404),
        outcome(kind="async", proves=CHAT),
    ],
    ids=["one client", "a cycle that failed", "an error", "another operation"],
)
def test_less_than_that_is_not(second: Outcome) -> None:
    score = judged(outcome(), second)
    assert score.exercised == set()
    assert "GET /files/{file_id} is served and not exercised" in score.faults


def test_what_streams_is_not_counted_without_a_stream() -> None:
    score = judged(outcome(CHAT, body={}), outcome(CHAT, "async", body={}))
    assert score.exercised == set()


def test_a_cycle_that_never_called_what_it_says_is_a_fault() -> None:
    idle = Outcome(Cycle("files", (GET,), nothing), "async", [], None)
    assert any("did not call it" in fault for fault in judged(outcome(), idle).faults)


def test_a_body_against_the_specification_is_a_fault() -> None:
    wrong = outcome(kind="async", body={**FILE, "bytes": "one"})
    assert any(
        "$.bytes: 'one' is not of type" in fault for fault in judged(outcome(), wrong).faults
    )
