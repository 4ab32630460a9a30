"""The chat's stream: lines of JSON, faults in the open, and no work for a reader who left."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from bessemer.app.chat import respond
from bessemer.app.platform import Platform
from bessemer.console.chat import LineStream, Question, Turn, _lines, call_of
from bessemer.core.errors import Busy, ContextLengthExceeded
from bessemer.core.protocols import ChatRequest
from tests.console.copied import running_house
from tests.console.fakes import FakeServing
from tests.fakes import FakeResponder
from tests.fakes import FakeServing as Answering

QUESTION: dict[str, Any] = {
    "model": "base",
    "messages": [{"role": "user", "content": "Hello?"}],
    "temperature": 0.5,
    "max_tokens": 12,
}


def ask(client: TestClient, **changes: Any) -> list[dict[str, Any]]:
    answer = client.post("/console/chat", json={**QUESTION, **changes})
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def test_an_answer_comes_as_lines_and_ends_with_its_figures(
    client: TestClient, serving: FakeServing
) -> None:
    serving.responders["base"].always("Hi", " there", "!")
    *words, last = ask(client)
    assert [word["text"] for word in words] == ["Hi", " there", "!"]
    assert last["done"]["finish_reason"] == "stop"
    assert last["done"]["tokens"] == 3
    assert last["done"]["prompt_tokens"] == 9
    assert 0 <= last["done"]["first_s"] <= last["done"]["total_s"]


def test_the_question_reaches_the_chosen_model_as_asked(
    client: TestClient, serving: FakeServing
) -> None:
    serving.responders["taught"].always("ok")
    messages = [{"role": "system", "content": "Be brief."}, *QUESTION["messages"]]
    ask(client, model="taught", messages=messages)
    (request,) = serving.responders["taught"].requests
    assert request.messages == messages
    assert (request.sampling.temperature, request.max_tokens) == (0.5, 12)


def test_what_is_copied_asks_what_the_page_asks(tmp_path: Path) -> None:
    base = FakeResponder(("Hi", "!"))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "It's <b>"}]
    with running_house(tmp_path, Answering({"base": base})) as house:
        calls = house.calls_for("/console/chat/copied", {**QUESTION, "messages": messages})
        texts = {name: calls["Ask this"][name] for name in ("curl", "Python")}
        for number, ran in enumerate(house.run(texts).values()):
            assert ran.json["choices"][0]["message"]["content"] == "Hi!"
            request = base.requests[number]
            assert request.messages == messages
            assert (request.sampling.temperature, request.max_tokens) == (0.5, 12)


def test_a_talk_of_many_turns_is_no_verb_and_nothing_is_no_question() -> None:
    turns = [Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c")]
    assert call_of(Question("base", turns)).cli is None
    words = call_of(Question("base", turns[:1], 0.5, 9)).cli
    assert words == ["chat", "base", "--message=a", "--temperature=0.5", "--max-tokens=9", "--json"]


def test_nothing_cannot_be_copied(client: TestClient) -> None:
    assert client.post("/console/chat/copied", json={**QUESTION, "messages": []}).status_code == 400


def test_no_limit_means_no_limit(client: TestClient, serving: FakeServing) -> None:
    serving.responders["base"].always("ok")
    ask(client, max_tokens=None)
    assert serving.responders["base"].requests[0].max_tokens is None


@pytest.mark.parametrize(
    "fault",
    [
        ContextLengthExceeded("9,000 tokens do not fit 8,192", next_step="start a new chat"),
        Busy("32 of 32 places are taken", retry_after_s=1.0, next_step="try again"),
    ],
)
def test_a_fault_is_the_last_line_with_what_to_do(
    client: TestClient, serving: FakeServing, fault: ContextLengthExceeded | Busy
) -> None:
    serving.responders["base"].always_fail(fault)
    (line,) = ask(client)
    expected = {"code": fault.code, "message": fault.message, "next_step": fault.next_step}
    assert line == {"error": expected}


def test_an_unknown_model_is_named(client: TestClient) -> None:
    (line,) = ask(client, model="nobody")
    assert line["error"]["code"] == "model_not_found"
    assert "nobody" in line["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"{}",
        json.dumps({**QUESTION, "surprise": 1}).encode(),
        json.dumps({**QUESTION, "temperature": 3}).encode(),
        json.dumps({**QUESTION, "max_tokens": 0}).encode(),
        json.dumps({**QUESTION, "messages": [{"role": "tool", "content": "x"}]}).encode(),
    ],
)
def test_a_question_that_is_not_one_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post("/console/chat", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_an_endless_question_is_refused(client: TestClient) -> None:
    answer = client.post("/console/chat", content=b"x" * 4_000_001)
    assert answer.status_code == 413


def test_models_come_with_their_states(client: TestClient, serving: FakeServing) -> None:
    serving.states["taught"] = "loading"
    assert client.get("/console/models").json() == {
        "models": [{"name": "base", "state": "ready"}, {"name": "taught", "state": "loading"}]
    }


def test_the_page_escapes_what_it_shows(
    platform: Platform, client: TestClient, serving: FakeServing
) -> None:
    serving.states["<script>alert(1)</script>"] = "ready"
    assert "<script>alert" not in client.get("/chat").text


@pytest.mark.parametrize("words_taken", [0, 1, 2])
def test_a_reader_who_leaves_ends_the_answer(platform: Platform, words_taken: int) -> None:
    """At any moment: before the first word, between words, and while a word is on its way."""
    asyncio.run(_leave_after(platform, words_taken))


async def _leave_after(platform: Platform, words_taken: int) -> None:
    serving = FakeServing("base")
    responder = serving.responders["base"]
    left = asyncio.Event()
    taken = 0

    async def receive() -> dict[str, Any]:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal taken
        if not message.get("body"):
            if words_taken == 0:
                left.set()
            return
        taken += 1
        if taken == words_taken:
            left.set()
            await asyncio.Event().wait()  # this word never arrives

    reply = respond(serving, platform.local_principal(), "base", ChatRequest(request_id="r"))
    stream = LineStream(_lines(reply))
    task = asyncio.create_task(stream({"type": "http", "asgi": {}}, receive, send))  # type: ignore[arg-type]
    if words_taken:
        while not responder.requests:
            await asyncio.sleep(0)
        responder.say("a", "b", "c")
    await asyncio.wait_for(task, 5)
    assert taken == words_taken
    if responder.requests:
        responder.wait_closed()
