"""Runs over what was stored, through the official client: which answers, in whose project."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import openai
import pytest
import sqlalchemy as sa

from bessemer.app import eval_stored
from bessemer.app.platform import Platform
from bessemer.app.tables import chat_completions, responses
from bessemer.core.home import Home
from tests.fakes import FakeResponder
from tests.gateway.evals_house import EQUAL, House, ended, house

LOGS = {"type": "logs"}
SAYS_PARIS = {**EQUAL, "reference": "Paris"}
LOOK = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with Platform.open(Home(tmp_path / "home")) as found:
        yield found


@pytest.fixture
def models() -> dict[str, FakeResponder]:
    return {"paris": FakeResponder(["Pa", "ris"]), "rome": FakeResponder(["Rome"])}


@pytest.fixture
def served(platform: Platform, models: dict[str, FakeResponder]) -> Iterator[House]:
    with house(platform, models) as found:
        yield found


def chat(client: openai.OpenAI, model: str, ask: str, **more: Any) -> str:
    messages: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": ask}]},
    ]
    return client.chat.completions.create(model=model, messages=messages, store=True, **more).id


def stored(kind: str = "completions", **filters: Any) -> dict[str, Any]:
    source = "stored_completions" if kind == "completions" else "responses"
    return {"type": kind, "source": {"type": source, **filters}}


def evaluated(client: openai.OpenAI, data_source: Any, config: Any = LOGS) -> list[Any]:
    """The outputs of a run by their items' places."""
    made = client.evals.create(data_source_config=config, testing_criteria=[SAYS_PARIS])  # type: ignore[list-item]
    run = ended(client, client.evals.runs.create(made.id, data_source=data_source))
    assert run.status == "completed" and run.report["complete"], run
    listed = client.evals.runs.output_items.list(run.id, eval_id=made.id)
    return sorted(listed, key=lambda one: one.datasource_item_id)


def texts(outputs: list[Any]) -> list[str]:
    return [one.datasource_item["input"][-1]["content"] for one in outputs]


def refused(call: Any) -> dict[str, Any]:
    with pytest.raises(openai.APIStatusError) as caught:
        call()
    found: dict[str, Any] = json.loads(caught.value.response.content)["error"]
    return {"status": caught.value.status_code, **found}


def age(platform: Platform, table: sa.Table, id_: str, created_s: int) -> None:
    with platform.db.write() as connection:
        this = table.update().where(table.c.id == id_)
        connection.execute(this.values(created_ms=created_s * 1000 + 999))


def test_stored_chats_are_judged_as_they_were_answered(
    served: House, models: dict[str, FakeResponder]
) -> None:
    client = served.client()
    first = chat(client, "paris", "France?", metadata={"use": "geography"})
    chat(client, "rome", "Italy?")
    asked = len(models["paris"].requests) + len(models["rome"].requests)
    outputs = evaluated(client, stored())
    assert [one.status for one in outputs] == ["pass", "fail"]
    assert outputs[0].datasource_item == {
        "id": first,
        "model": "paris",
        "metadata": {"use": "geography"},
        "input": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "France?"},
        ],
        "output_text": "Paris",
    }
    assert outputs[0].sample.output[0].content == "Paris"
    assert len(models["paris"].requests) + len(models["rome"].requests) == asked


def test_what_was_refused_is_what_was_said(served: House) -> None:
    client = served.client()
    messages: Any = [
        {"role": "user", "content": "Mars?"},
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "Never."}]},
        {"role": "user", "content": "France?"},
    ]
    client.chat.completions.create(model="paris", messages=messages, store=True)
    (one,) = evaluated(client, stored())
    item: Any = one.datasource_item
    assert [m["content"] for m in item["input"]] == ["Mars?", "No.", "Never.", "France?"]


def test_another_model_answers_what_was_stored_anew(
    served: House, models: dict[str, FakeResponder]
) -> None:
    client = served.client()
    chat(client, "rome", "France?")
    again = {
        **stored(),
        "model": "paris",
        "input_messages": {"type": "item_reference", "item_reference": "item.input"},
    }
    (output,) = evaluated(client, again)
    assert (output.status, output.sample.output[0].content) == ("pass", "Paris")
    assert output.datasource_item["output_text"] == "Rome", "what was said then can be judged too"
    assert models["paris"].requests[-1].messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "France?"},
    ]


def test_chats_are_found_by_model_time_and_metadata(served: House, platform: Platform) -> None:
    client = served.client()
    chat(client, "paris", "one", metadata={"use": "a", "n": "1"})
    chat(client, "paris", "two", metadata={"use": "a", "n": "2"})
    old = chat(client, "rome", "three", metadata={"use": "b"})
    age(platform, chat_completions, old, 1_700_000_000)

    def found(config: Any = LOGS, **filters: Any) -> list[str]:
        return texts(evaluated(client, stored(**filters), config))

    assert found() == ["one", "two", "three"]
    assert found(limit=2) == ["two", "three"], "the newest ones, oldest first"
    assert found(model="paris") == ["one", "two"]
    assert found(metadata={"use": "a", "n": "2"}) == ["two"]
    assert found({"type": "logs", "metadata": {"use": "a"}}, metadata={"n": "1"}) == ["one"]
    assert found({"type": "stored_completions", "metadata": {"use": "b"}}) == ["three"]
    assert found(created_before=1_700_000_000, created_after=1_700_000_000) == ["three"]
    assert found(created_after=1_700_000_001) == ["one", "two"]
    made = client.evals.create(data_source_config=LOGS, testing_criteria=[SAYS_PARIS])  # type: ignore[arg-type, list-item]
    for nothing in ({"model": "none"}, {"metadata": {"use": "c"}}, {"created_before": 5}):
        run = stored(**nothing)
        error = refused(lambda run=run: client.evals.runs.create(made.id, data_source=run))
        assert error["status"] == 400 and "no answer that is stored here" in error["message"]


def test_stored_responses_bring_the_turns_before_them(served: House) -> None:
    client = served.client()
    first = client.responses.create(model="rome", input="Italy?", instructions="Be brief.")
    client.responses.create(model="paris", input="France?", previous_response_id=first.id)
    conversation = client.conversations.create(
        items=[{"type": "message", "role": "user", "content": "Hello"}]
    )
    for ask in ("Spain?", "Peru?"):
        client.responses.create(model="paris", input=ask, conversation=conversation.id)
    client.responses.create(model="rome", input="not kept", store=False)
    outputs = evaluated(client, stored("responses"))
    assert [one.status for one in outputs] == ["fail", "pass", "pass", "pass"]
    said = [
        [f"{message['role']}: {message['content']}" for message in one.datasource_item["input"]]
        for one in outputs
    ]
    assert said == [
        ["system: Be brief.", "user: Italy?"],
        ["user: Italy?", "assistant: Rome", "user: France?"],
        ["user: Hello", "user: Spain?"],
        ["user: Hello", "user: Spain?", "assistant: Paris", "user: Peru?"],
    ]
    client.responses.delete(first.id)
    assert texts(evaluated(client, stored("responses"))) == ["Spain?", "Peru?"], (
        "what went on from a deleted turn cannot be told any more"
    )


def test_who_spoke_is_told_and_asked_again(served: House, models: dict[str, FakeResponder]) -> None:
    client = served.client()
    asked: Any = [{"role": "user", "name": "ann", "content": "Which capital?"}]
    client.chat.completions.create(model="paris", messages=asked, store=True)
    again = stored() | {
        "model": "rome",
        "input_messages": {"type": "item_reference", "item_reference": "item.input"},
    }
    (output,) = evaluated(client, again)
    assert output.datasource_item["input"] == asked
    assert models["rome"].requests[-1].messages == asked


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, ["plain", "full"]),
        ({"model": "rome"}, ["full"]),
        ({"metadata": {"use": "a"}}, ["full"]),
        ({"instructions_search": "CODING"}, ["full"]),
        ({"temperature": 0.5}, ["full"]),
        ({"temperature": 1}, ["plain"]),
        ({"top_p": 0.9}, ["full"]),
        ({"users": ["u0", "u1"]}, ["full"]),
        ({"tools": ["look", "other"]}, ["full"]),
        ({"reasoning_effort": "none"}, ["plain", "full"]),
        ({"created_before": 1_700_000_000}, ["plain"]),
        ({"created_after": 1_700_000_001}, ["full"]),
        ({"limit": 1}, ["full"]),
        ({"reasoning_effort": "high"}, None),
        ({"users": ["u2"]}, None),
        ({"tools": []}, None),
    ],
)
def test_responses_are_found_by_what_was_asked(
    served: House, platform: Platform, filters: Mapping[str, Any], found: list[str] | None
) -> None:
    client = served.client()
    plain = client.responses.create(model="paris", input="plain")
    age(platform, responses, plain.id, 1_700_000_000)
    client.responses.create(
        model="rome", input="full", instructions="You are a coding assistant.",
        metadata={"use": "a"}, temperature=0.5, top_p=0.9, user="u1", tools=[LOOK],  # type: ignore[list-item]
    )  # fmt: skip
    if found is not None:
        assert texts(evaluated(client, stored("responses", **filters))) == found
        return
    made = client.evals.create(data_source_config=LOGS, testing_criteria=[SAYS_PARIS])  # type: ignore[arg-type, list-item]
    nothing: Any = stored("responses", **filters)
    error = refused(lambda: client.evals.runs.create(made.id, data_source=nothing))
    assert error["status"] == 400 and "no answer that is stored here" in error["message"]


def test_a_run_keeps_to_what_was_stored_when_it_was_asked_for(platform: Platform) -> None:
    slow = FakeResponder(["Paris"], hold_after=0)
    models = {"paris": FakeResponder(["Paris"]), "slow": slow}
    with house(platform, models, runs=False) as served:
        client = served.client()
        gone, _ = [chat(client, "paris", ask) for ask in ("one", "two")]
        made = client.evals.create(data_source_config=LOGS, testing_criteria=[SAYS_PARIS])  # type: ignore[arg-type, list-item]
        run = client.evals.runs.create(made.id, data_source=stored())  # type: ignore[arg-type]
        client.chat.completions.delete(gone)
        chat(client, "paris", "three")
    with house(platform, models) as served:
        done = ended(served.client(), run)
    assert (done.result_counts.total, done.result_counts.passed) == (2, 1)
    assert done.report["sentence"].startswith("Partial (1 of 2 items have no output)")


def test_another_project_and_a_key_that_may_not_read_answers_find_nothing(served: House) -> None:
    chat(served.client(), "paris", "mine")
    served.client().responses.create(model="paris", input="mine")
    theirs, writer = served.client("theirs"), served.client("writer")
    for kind in ("completions", "responses"):
        made = theirs.evals.create(data_source_config=LOGS, testing_criteria=[SAYS_PARIS])  # type: ignore[arg-type, list-item]
        run: Any = stored(kind)
        error = refused(lambda: theirs.evals.runs.create(made.id, data_source=run))  # noqa: B023
        assert error["status"] == 400 and "no answer that is stored" in error["message"]
        mine = writer.evals.create(data_source_config=LOGS, testing_criteria=[SAYS_PARIS])  # type: ignore[arg-type, list-item]
        error = refused(lambda: writer.evals.runs.create(mine.id, data_source=run))  # noqa: B023
        assert error["status"] == 403


@pytest.mark.parametrize(
    ("data_source", "param"),
    [
        ({**stored(), "sampling_params": {"seed": 1}}, "data_source.model"),
        (stored(metadata={"n": 1}), "data_source.source.metadata"),
        (stored(limit=0), "data_source.source.limit"),
        (stored(created_after=-1), "data_source.source.created_after"),
        (stored(temperature=1), "temperature"),
        (stored("responses", reasoning_effort="much"), "data_source.source.reasoning_effort"),
    ],
)
def test_a_filter_that_makes_no_sense_is_named(served: House, data_source: Any, param: str) -> None:
    client = served.client()
    chat(client, "paris", "one")
    made = client.evals.create(data_source_config=LOGS, testing_criteria=[SAYS_PARIS])  # type: ignore[arg-type, list-item]
    error = refused(lambda: client.evals.runs.create(made.id, data_source=data_source))
    assert error["status"] == 400 and param in error["param"], error


def test_more_than_a_run_takes_is_refused_before_it_begins(
    served: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = served.client()
    for ask in ("one", "two", "three"):
        chat(client, "paris", ask)
    monkeypatch.setattr(eval_stored, "MOST", 2)
    made = client.evals.create(data_source_config=LOGS, testing_criteria=[SAYS_PARIS])  # type: ignore[arg-type, list-item]
    error = refused(lambda: client.evals.runs.create(made.id, data_source=stored()))  # type: ignore[arg-type]
    assert "more than 2 stored answers match" in error["message"]
    assert texts(evaluated(client, stored(limit=2))) == ["two", "three"]
