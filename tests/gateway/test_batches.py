"""`/v1/batches` over HTTP, by the official client: every endpoint, every limit, and kill -9."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from bessemer.app import batches, files, model_permissions
from bessemer.app.keys import KeyRing, create_key
from bessemer.app.platform import Platform
from bessemer.core.home import Home
from bessemer.core.principal import Principal
from bessemer.ledger.budgets import set_budget
from bessemer.ledger.counts import Counts
from bessemer.ledger.rate_limits import LimitOf, RateLimit, set_rate_limit
from tests.fakes import FakeResponder, FakeServing
from tests.gateway.batch_house import House, chat_line, fakes, house, line
from tests.gateway.calling import CHAT_KEY
from tests.metered import PAYER, charge, rows_of
from tests.polling import until
from tests.specification import check

ROOT = Path(__file__).parents[2]
CHAT = "/v1/chat/completions"
ME = Principal("org", "p1", "u1", frozenset({"*"}))


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with Platform.open(Home(tmp_path / "home")) as platform:
        charge(platform)
        yield platform


BODIES: dict[str, tuple[dict[str, Any], type[Any]]] = {
    CHAT: ({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}, ChatCompletion),
    "/v1/completions": ({"model": "tiny", "prompt": ["Hi", "Ho"], "n": 2}, Completion),
    "/v1/embeddings": ({"model": "vectors", "input": ["a b", "c"]}, CreateEmbeddingResponse),
    "/v1/responses": ({"model": "tiny", "input": "Hi"}, Response),
}


@pytest.mark.parametrize("endpoint", BODIES)
def test_every_endpoint_answers_as_it_does_over_http_and_is_charged(
    platform: Platform, endpoint: str
) -> None:
    body, kind = BODIES[endpoint]
    lines = [line(f"good {n}", endpoint, **body) for n in range(3)]
    wrong = line("wrong", endpoint, **{**body, "model": "none"})
    with house(platform) as here:
        batch = here.run([*lines, wrong], endpoint)
        output, errors = here.read(batch.output_file_id), here.read(batch.error_file_id)
    assert batch.status == "completed" and batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 4, "completed": 3, "failed": 1}
    assert [item["custom_id"] for item in output] == ["good 0", "good 1", "good 2"]
    for item in output:
        assert item["error"] is None and item["response"]["status_code"] == 200
        check("POST", endpoint, 200, item["response"]["body"])
        kind.model_validate(item["response"]["body"])
    (error,) = errors
    assert error["custom_id"] == "wrong" and error["response"]["status_code"] == 404
    assert error["response"]["body"]["error"]["code"] == "model_not_found"
    # Charged as work of a batch, by the ids that the file tells.
    rows = [row for row in rows_of(platform) if row.state == "settled"]
    of_batch = "batch_embedding" if endpoint.endswith("embeddings") else "batch"
    assert {row.kind for row in rows} == {of_batch}
    ids = {item["response"]["request_id"] for item in output}
    assert {row.id.partition("-")[0] for row in rows} == ids
    used, told = [row.used for row in rows if row.used], batch.usage
    assert told is not None
    assert sum(count.prompt + count.cached for count in used) == told.input_tokens > 0
    assert sum(count.completion for count in used) == told.output_tokens


def test_a_batch_tells_what_its_model_thought_and_did_not_say(platform: Platform) -> None:
    thinking = FakeServing({"tiny": FakeResponder(reasoning_tokens=5)})
    with house(platform, thinking) as here:
        batch = here.run([chat_line("a"), chat_line("b")])
    assert batch.usage is not None
    assert (batch.usage.output_tokens, batch.usage.output_tokens_details.reasoning_tokens) == (
        16,
        10,
    )
    used = [row.used for row in rows_of(platform)]
    assert used == [Counts(prompt=7, completion=3, reasoning=5)] * 2


def test_bad_lines_are_named_and_nothing_is_asked_or_charged(platform: Platform) -> None:
    twice = chat_line("twice")
    bad = {
        2: ("invalid_json_line", b'{"custom_id": "a",\n'),
        4: ("duplicate_custom_id", twice),
        5: ("invalid_method", chat_line("get").replace(b'"POST"', b'"GET"')),
        6: ("invalid_url", line("url", "/v1/embeddings", model="tiny")),
        7: ("invalid_utf8", b'{"custom_id": "\xff"}\n'),
        8: ("invalid_request", b'{"custom_id": "x", "method": "POST", "url": "/v1/completions"}\n'),
    }
    lines = [chat_line("first"), bad[2][1], twice, *(raw for _, raw in list(bad.values())[1:])]
    serving = fakes()
    with house(platform, serving) as here:
        batch = here.run(lines)
        assert batch.status == "failed" and batch.errors is not None
        found = {fault.line: fault.code for fault in batch.errors.data or []}
        assert found == {number: code for number, (code, _) in bad.items()}
        assert all(fault.message for fault in batch.errors.data or [])
        assert (batch.output_file_id, batch.error_file_id) == (None, None)
        check("GET", f"/v1/batches/{batch.id}", 200, batch.to_dict())
        for lines in ([], [b"\n\n"]):
            empty = here.run(lines)
            assert empty.status == "failed" and empty.errors is not None
            assert [fault.code for fault in empty.errors.data or []] == ["empty_file"]
    assert serving.principals == [] and rows_of(platform) == []


def test_what_a_body_must_not_say_is_the_result_of_its_line(platform: Platform) -> None:
    lines = [
        chat_line("streamed", stream=True),
        chat_line("unknown", colour="red"),
        chat_line("wrong", temperature=9),
        chat_line("right"),
    ]
    with house(platform) as here:
        batch = here.run(lines)
        errors = here.read(batch.error_file_id)
        behind = here.run([line("b", "/v1/responses", model="tiny", input="Hi", background=True)],
                          "/v1/responses")  # fmt: skip
        (refused,) = here.read(behind.error_file_id)
    told = {item["custom_id"]: item["response"]["body"]["error"]["param"] for item in errors}
    assert told == {"streamed": "stream", "unknown": "colour", "wrong": "temperature"}
    assert refused["response"]["body"]["error"]["param"] == "background"
    assert batch.request_counts is not None and batch.request_counts.completed == 1


def test_what_is_to_be_stored_is_stored(platform: Platform) -> None:
    with house(platform) as here:
        done = here.run([chat_line("a", store=True, metadata={"night": "ly"})])
        (chat,) = here.read(done.output_file_id)
        asked = line("b", "/v1/responses", model="tiny", input="Hi", store=True)
        (made,) = here.read(here.run([asked], "/v1/responses").output_file_id)
        (kept,) = here.client.chat.completions.list(metadata={"night": "ly"})
        assert kept.id == chat["response"]["body"]["id"]
        found = here.client.responses.retrieve(made["response"]["body"]["id"])
        assert found.output_text == "Hello, world"
        for stored in (kept.id, found.id):
            body: dict[str, Any] = {"completion_id": stored, "rating": "up"}
            said: Any = here.client.post("/feedback", body=body, cast_to=object)
            assert said["stored"] is True


def test_pages_filters_and_metadata_through_the_client(platform: Platform) -> None:
    with house(platform) as here:
        made = [here.submit([chat_line("a")], metadata={"n": str(n)}).id for n in range(5)]
        listed = list(here.client.batches.list(limit=2))
        assert [batch.id for batch in listed] == made[::-1]
        assert [(batch.metadata or {})["n"] for batch in listed] == list("43210")
        assert all(batch.expires_at == batch.created_at + 24 * 3600 for batch in listed)
        raw = here.client.batches.with_raw_response.list()
        check("GET", "/v1/batches", 200, raw.http_response.json())
        with pytest.raises(openai.BadRequestError) as caught:
            here.client.batches.list(extra_query={"order": "asc"})
        assert caught.value.param == "order"
        with pytest.raises(openai.NotFoundError):
            here.client.batches.retrieve("batch_none")


def test_what_cannot_be_created_is_refused_by_name(platform: Platform) -> None:
    right = files.add_bytes(platform, ME, "a", "batch", b"").id
    other = files.add_bytes(platform, ME, "a", "fine-tune", b"").id
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("input_file_id", {"input_file_id": other}),
        ("input_file_id", {"input_file_id": "file-none"}),
        ("endpoint", {"endpoint": "/v1/moderations"}),
        ("endpoint", {"endpoint": "/v1/chat"}),
        ("completion_window", {"completion_window": "1h"}),
        ("metadata", {"metadata": {"k" * 65: "v"}}),
        ("colour", {"colour": "red"}),
    ]
    good = {"input_file_id": right, "endpoint": CHAT, "completion_window": "24h"}
    with house(platform) as here:
        for param, change in wrong:
            with pytest.raises(openai.APIStatusError) as caught:
                here.client.post("/batches", body={**good, **change}, cast_to=object)
            assert caught.value.status_code == (404 if "none" in str(change) else 400)
            assert caught.value.body["param"].startswith(param)  # type: ignore[index]
        poor = here.client.with_options(api_key=CHAT_KEY)
        with pytest.raises(openai.PermissionDeniedError):
            poor.post("/batches", body=good, cast_to=object)


def test_cancel_keeps_what_was_finished_and_charges_no_more(platform: Platform) -> None:
    slow = FakeResponder(hold_after=1)
    with house(platform, fakes(slow=slow)) as here:
        lines = [chat_line(str(n), model="slow" if n >= 4 else "tiny") for n in range(40)]
        batch = here.submit(lines)
        until(lambda: slow.opened == 16 and _done(here, batch.id) == 4, "the rest is held")
        asked = here.client.batches.cancel(batch.id)
        assert asked.status == "cancelling" and asked.cancelling_at is not None
        check("POST", f"/v1/batches/{batch.id}/cancel", 200, asked.to_dict())
        over = here.reached(batch, "cancelled")
        assert [item["custom_id"] for item in here.read(over.output_file_id)] == list("0123")
        assert over.error_file_id is None and over.cancelled_at is not None
        with pytest.raises(openai.ConflictError):
            here.client.batches.cancel(batch.id)
    rows = rows_of(platform)
    assert [row.state for row in rows].count("settled") == 4
    assert {row.reason for row in rows if row.state == "released"} == {"its line has no answer"}


def _done(here: House, batch_id: str) -> int:
    counts = here.client.batches.retrieve(batch_id).request_counts
    return 0 if counts is None else counts.completed


def test_a_batch_that_is_not_done_in_24_hours_says_so_of_each_line(platform: Platform) -> None:
    slow, late_ms = FakeResponder(hold_after=1), 0
    with house(platform, fakes(slow=slow), clock=lambda: time.time_ns() // 10**6 + late_ms) as here:
        batch = here.submit([chat_line("quick"), chat_line("slow", model="slow")])
        until(lambda: slow.opened == 1 and _done(here, batch.id) == 1, "one is done, one held")
        late_ms = batches.WINDOW_S * 1000
        over = here.reached(batch, "expired")
        assert [item["custom_id"] for item in here.read(over.output_file_id)] == ["quick"]
        (error,) = here.read(over.error_file_id)
    assert (error["custom_id"], error["response"]) == ("slow", None)
    assert error["error"]["code"] == "batch_expired"
    assert sorted(row.state for row in rows_of(platform)) == ["released", "settled"]


def test_a_budget_ends_in_error_lines_and_nothing_is_lost(platform: Platform) -> None:
    with platform.db.write() as connection:  # five answers of three tokens
        set_budget(connection, PAYER, "project", "month", 3 * 5)
    with house(platform) as here:
        batch = here.run([chat_line(str(n), max_tokens=3) for n in range(20)])
        output, errors = here.read(batch.output_file_id), here.read(batch.error_file_id)
    assert batch.status == "completed"
    assert sorted(int(item["custom_id"]) for item in output + errors) == list(range(20))
    assert len(output) == 5 and {item["response"]["status_code"] for item in errors} == {429}
    assert {item["response"]["body"]["error"]["code"] for item in errors} == {"insufficient_quota"}
    assert [row.cost for row in rows_of(platform)] == [3] * 5


def test_a_rate_limit_slows_a_batch_down_and_loses_nothing(platform: Platform) -> None:
    limit = RateLimit(requests=600)
    with platform.db.write() as connection:
        set_rate_limit(connection, PAYER, LimitOf("project:p1", "*"), limit)
    serving = fakes()
    with house(platform, serving) as here:
        # More than a minute's worth at once; the rest comes with the tenths of a second.
        batch = here.run([chat_line(str(n)) for n in range(610)])
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 610, "completed": 610, "failed": 0}
    assert [row.state for row in rows_of(platform)] == ["settled"] * 610


def test_a_project_that_may_not_ask_a_model_may_not_in_a_batch_either(platform: Platform) -> None:
    owner = platform.local_principal()
    model_permissions.set_to(platform, owner, owner.project_id, "deny_list", ["secret"])
    key = create_key(platform, owner, "batches", ["*"])
    keys = KeyRing(platform)
    asker = keys.authenticate(key.secret)
    file = files.add_bytes(
        platform, owner, "a", "batch", chat_line("no", model="secret") + chat_line("yes")
    )
    with house(platform, fakes(secret=FakeResponder(["psst"])), keys=keys):
        batch = batches.create(platform, asker, file.id, CHAT)
        until(lambda: batches.get(platform, owner, batch.id).status == "completed", "it is over")
    batch = batches.get(platform, owner, batch.id)
    assert (batch.completed, batch.failed) == (1, 1)
    assert b"psst" not in files.get(platform, owner, batch.error_file_id or "").path.read_bytes()
    assert [row.model for row in rows_of(platform)] == ["tiny"]


def test_answers_with_unicodes_line_ends_are_still_a_line_each(platform: Platform) -> None:
    said = "one\u2028two\u2029three\x85four"
    with house(platform, fakes(lines=FakeResponder([said]))) as here:
        batch = here.run(
            [line("a", CHAT, model="lines", messages=[{"role": "user", "content": "?"}])]
        )
        text = here.client.files.content(batch.output_file_id or "").text
    (found,) = map(json.loads, text.splitlines())
    assert found["response"]["body"]["choices"][0]["message"]["content"] == said


# kill -9


def drill(platform: Platform, kills: int, count: int) -> None:
    """A batch over servers that are killed in the middle of it."""
    file = files.add_bytes(
        platform, ME, "a", "batch", b"".join(chat_line(str(n)) for n in range(count))
    )
    batch = batches.create(platform, ME, file.id, CHAT)
    bites = sum(_kill_in_the_middle(platform, batch.id) for _ in range(kills))
    assert bites, "no kill met the batch in the middle: the drill did not bite"
    server = _serve(platform)
    try:
        until(lambda: batches.get(platform, ME, batch.id).status == "completed", "it is over")
    finally:
        server.terminate()
        assert server.wait(20) in (0, -15)
    over = batches.get(platform, ME, batch.id)
    assert (over.total, over.completed, over.failed) == (count, count, 0)
    assert over.error_file_id is None
    raw = files.get(platform, ME, over.output_file_id or "").path.read_bytes()
    results = [json.loads(found) for found in raw.splitlines()]
    assert [item["custom_id"] for item in results] == [str(n) for n in range(count)]
    # And each line is charged once, whatever was asked again.
    rows = rows_of(platform)
    assert {row.state for row in rows} <= {"settled", "released"}, "something is left open"
    settled = [row.id for row in rows if row.state == "settled"]
    assert sorted(settled) == sorted(item["response"]["request_id"] for item in results)
    released = {row.reason for row in rows if row.state == "released"}
    assert released <= {"the server was killed before this line had a result; it is asked again"}
    assert over.usage.completion_tokens == sum(row.used.completion for row in rows if row.used)
    assert list(platform.home.batches.iterdir()) == []


def _kill_in_the_middle(platform: Platform, batch_id: str) -> bool:
    """Start a server, kill it once it has done something; whether the batch was not over then."""
    before = batches.get(platform, ME, batch_id).completed
    server = _serve(platform)
    try:
        until(
            lambda: batches.get(platform, ME, batch_id).completed > before, "the server works on it"
        )
        time.sleep(random.uniform(0, 0.2))  # the moment of the kill is the test's subject
    finally:
        server.kill()
        assert server.wait() == -9
    rows_of(platform)  # which checks that all adds up
    return batches.get(platform, ME, batch_id).status == "in_progress"


def _serve(platform: Platform) -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.gateway.batch_house", str(platform.home.root)],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert server.stdout is not None and server.stdout.readline().startswith("http")
    return server


def test_two_kills_of_a_server_lose_no_line_and_charge_none_twice(platform: Platform) -> None:
    drill(platform, kills=2, count=1500)


@pytest.mark.slow
def test_twenty_kills_of_a_server(platform: Platform) -> None:
    drill(platform, kills=20, count=8000)
