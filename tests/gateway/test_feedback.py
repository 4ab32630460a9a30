"""`/v1/feedback`: what is said of answers, by whom, and of which."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bessemer.app import feedback, files, stored_completions
from bessemer.app.platform import Platform
from bessemer.core.database import now_ms
from bessemer.core.errors import NotFound
from bessemer.core.home import Home
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal
from bessemer.core.tables import answers
from bessemer.data.given_splits import check_shape, shape_named
from bessemer.gateway.asgi import build
from bessemer.gateway.exchange import ASGIApp
from bessemer.gateway.resources import resource_routes
from tests.fakes import FakeResponder, FakeServing
from tests.gateway.calling import CHAT_KEY, FakeKeyRing, call, chat
from tests.specification import check

ME = Principal("org", "p1", "u1", frozenset({"*"}))
STRANGER = Principal("org", "p2", "u2", frozenset({"*"}))


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with Platform.open(Home(tmp_path / "home")) as found:
        yield found


@pytest.fixture
def app(platform: Platform) -> ASGIApp:
    serving = FakeServing({"tiny": FakeResponder()})
    return build(serving, FakeKeyRing(), routes=resource_routes(platform))


def get(app: ASGIApp, path: str, **more: Any) -> Any:
    path, _, query = path.partition("?")
    return call(with_query(app, query), f"/v1/feedback{path}", method="GET", **more)


def with_query(app: ASGIApp, query: str) -> ASGIApp:
    async def asked(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "query_string": query.encode()}, receive, send)

    return asked


def record(platform: Platform, owner: Principal) -> str:
    """An answer that is stored; its request's id."""
    request_id = new_id("req")
    row = {
        "id": new_id("answer"), "org_id": owner.org_id, "project_id": owner.project_id,
        "owner_id": owner.owner_id, "created_ms": now_ms(), "request_id": f"{request_id}-0",
        "digest": "", "record": "",
    }  # fmt: skip
    with platform.db.write() as connection:
        connection.execute(answers.insert().values(row))
    return request_id


def test_a_thumb_on_an_answer_is_kept_listed_and_taken_back(app: ASGIApp) -> None:
    answer = chat(app)
    said = []
    for id_, rating in ((answer.json()["id"], "up"), (answer.headers["x-request-id"], "down")):
        body = {"completion_id": id_, "rating": rating, "comment": "Hm.", "correction": None}
        made = call(app, "/v1/feedback", body)
        assert made.status == 200
        assert made.json() | {"id": "", "created_at": 0} == {
            "id": "", "created_at": 0, "object": "feedback", "stored": False, **body,
        }  # fmt: skip
        said.append(made.json())
    assert [item["id"] for item in get(app, "").json()["data"]] == [s["id"] for s in said[::-1]]
    assert get(app, f"/{said[0]['id']}").json() == said[0]
    path = f"/v1/feedback/{said[0]['id']}"
    assert call(app, path, method="DELETE").json()["deleted"] is True
    assert get(app, f"/{said[0]['id']}").status == 404


def test_filters_and_pages(app: ASGIApp, platform: Platform) -> None:
    ids = []
    for number in range(6):
        made = feedback.create(
            platform, ME, f"{'chatcmpl-'}{'0' * 25}{number % 2}", "up" if number < 3 else "down",
            correction="Better." if number == 5 else None,
        )  # fmt: skip
        ids.append(made.id)

    def listed(query: str) -> list[str]:
        return [item["id"] for item in get(app, f"?{query}").json()["data"]]

    assert listed("order=asc") == ids
    assert listed("rating=up&order=asc") == ids[:3]
    assert listed("corrected=true") == [ids[5]]
    assert listed("corrected=false&order=asc") == ids[:5]
    assert listed(f"completion_id=chatcmpl-{'0' * 25}1&order=asc") == ids[1::2]
    page = get(app, "?limit=2&order=asc").json()
    assert page["has_more"] and listed(f"after={page['last_id']}&order=asc") == ids[2:]
    for query, param in (("rating=good", "rating"), ("corrected=1", "corrected"), ("q=1", "q")):
        assert get(app, f"?{query}").error["param"] == param


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"completion_id": "run_" + "0" * 26}, "completion_id"),
        ({"completion_id": "chatcmpl-short"}, "completion_id"),
        ({"completion_id": "req_" + "u" * 26}, "completion_id"),
        ({"rating": "good"}, "rating"),
        ({"rating": None}, "rating"),
        ({"comment": "x" * 10_001}, "comment"),
        ({"correction": "a\0b"}, "correction"),
        ({"stars": 5}, "stars"),
    ],
)
def test_what_is_wrong_is_named(app: ASGIApp, change: dict[str, Any], param: str) -> None:
    body = {"completion_id": "resp_" + "0" * 26, "rating": "up", **change}
    answer = call(app, "/v1/feedback", body)
    assert (answer.status, answer.error["param"]) == (400, param)


def test_a_stored_answer_is_known_and_another_projects_is_not_there(platform: Platform) -> None:
    mine, theirs = record(platform, ME), record(platform, STRANGER)
    assert feedback.create(platform, ME, mine, "up").stored
    assert feedback.create(platform, ME, mine.replace("req_", "chatcmpl-"), "up").stored
    with pytest.raises(NotFound):
        feedback.create(platform, ME, theirs, "up")


def test_another_project_and_a_poor_key_see_nothing(app: ASGIApp, platform: Platform) -> None:
    said = feedback.create(platform, STRANGER, "req_" + "0" * 26, "up")
    assert get(app, "").json()["data"] == []
    assert get(app, f"/{said.id}").status == 404
    assert call(app, f"/v1/feedback/{said.id}", method="DELETE").status == 404
    body = {"completion_id": "req_" + "0" * 26, "rating": "up"}
    assert call(app, "/v1/feedback", body, key=CHAT_KEY).status == 403
    assert get(app, "", key=CHAT_KEY).status == 403
    assert get(app, f"/{said.id}", key=None).status == 401


def test_corrections_of_stored_completions_are_pairs_to_learn_from(
    app: ASGIApp, platform: Platform
) -> None:
    assert "store=true" in call(app, "/v1/feedback/pairs").error["message"]
    asked = [{"role": "user", "content": "Hi"}]

    def answered(*choices: str, who: Principal = ME) -> str:
        id_ = new_id("chatcmpl-")
        told = [{"message": {"role": "assistant", "content": text}} for text in choices]
        answer = {"id": id_, "model": "tiny", "choices": told}
        stored_completions.add(
            platform, who, {}, msgspec.json.encode(asked), msgspec.json.encode(answer)
        )
        return id_

    def corrected(id_: str, correction: str | None, who: Principal = ME) -> None:
        feedback.create(platform, who, id_, "down", correction=correction)

    corrected(answered("Yo."), "Hello!")
    corrected(answered("Yo!").replace("chatcmpl-", "req_"), "Good day.")
    corrected(answered("Right."), "Right.")  # no correction at all
    corrected(answered("Fine."), None)
    corrected(answered("One.", "Two."), "Three.")  # of which?
    corrected(new_id("chatcmpl-"), "Not stored.")
    corrected(answered("Psst.", who=STRANGER), "Secret.", STRANGER)
    file = call(app, "/v1/feedback/pairs").json()
    check("GET", f"/v1/files/{file['id']}", 200, file)
    assert (file["purpose"], file["filename"]) == ("fine-tune", "feedback.jsonl")
    path = files.get(platform, ME, file["id"]).path
    check_shape(path, shape_named("preferences"))  # as a job of method `dpo` does
    pairs = [json.loads(raw) for raw in path.read_bytes().splitlines()]
    assert [pair["input"]["messages"] for pair in pairs] == [asked, asked]
    assert [
        (pair["preferred_output"][0]["content"], pair["non_preferred_output"][0]["content"])
        for pair in pairs
    ] == [("Hello!", "Yo."), ("Good day.", "Yo!")]
    assert call(app, "/v1/feedback/pairs", key=CHAT_KEY).status == 403
