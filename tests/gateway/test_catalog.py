"""`/v1/models` says what can be asked, `/healthz` how things stand, at once."""

from __future__ import annotations

import asyncio

from openai.types import Model

from bessemer import __version__
from tests.fakes import FakeResponder, FakeServing
from tests.gateway.calling import MESSAGES, acall, app_of, call


def test_models_are_listed_in_openais_shape_with_their_state() -> None:
    serving = FakeServing({"b": FakeResponder(), "a": FakeResponder()}, states={"b": "stopped"})
    answer = call(app_of(serving), "/v1/models", method="GET")
    assert answer.status == 200
    body = answer.json()
    assert body["object"] == "list"
    for model in body["data"]:
        Model.model_validate(model)
    assert [(m["id"], m["state"]) for m in body["data"]] == [("a", "ready"), ("b", "stopped")]


def test_one_model_by_its_name_even_with_slashes() -> None:
    app = app_of(FakeServing({"org/m:1": FakeResponder()}))
    answer = call(app, "/v1/models/org/m:1", method="GET")
    assert answer.json() == {
        "id": "org/m:1",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "org",
        "state": "ready",
    }
    missing = call(app, "/v1/models/org", method="GET")
    assert (missing.status, missing.error["code"]) == (404, "model_not_found")


def test_an_adapter_names_its_base_as_its_parent() -> None:
    serving = FakeServing(
        {"base": FakeResponder(), "mine": FakeResponder()}, parents={"mine": "base"}
    )
    data = call(app_of(serving), "/v1/models", method="GET").json()["data"]
    assert [(model["id"], model.get("parent")) for model in data] == [
        ("base", None),
        ("mine", "base"),
    ]
    assert call(app_of(serving), "/v1/models/mine", method="GET").json() == data[1]
    assert "parent" not in data[0]


def test_health_needs_no_key_and_is_ok_when_nothing_loads() -> None:
    states = {"b": "failed", "c": "stopped"}
    serving = FakeServing({name: FakeResponder() for name in "abc"}, states=states)  # type: ignore[arg-type]
    answer = call(app_of(serving), "/healthz", method="GET", key=None)
    assert answer.status == 200
    assert answer.json() == {
        "status": "ok",
        "models": [
            {"id": "a", "state": "ready"},
            {"id": "b", "state": "failed"},
            {"id": "c", "state": "stopped"},
        ],
        "version": __version__,
    }


def test_health_says_loading_honestly() -> None:
    serving = FakeServing({"a": FakeResponder(), "b": FakeResponder()}, states={"b": "loading"})
    assert call(app_of(serving), "/healthz", method="GET").json()["status"] == "loading"


def test_health_answers_while_every_engine_hangs() -> None:
    stuck = FakeResponder(hold_after=0)
    app = app_of(stuck)
    body = {"model": "tiny", "messages": MESSAGES}

    async def run() -> int:
        waiting = [asyncio.create_task(acall(app, "/v1/chat/completions", body)) for _ in range(20)]
        while stuck.opened < 20:
            await asyncio.sleep(0)
        answer = await acall(app, "/healthz", method="GET")
        stuck.go.set()
        assert {done.status for done in await asyncio.gather(*waiting)} == {200}
        return answer.status

    assert asyncio.run(run()) == 200
