"""`/v1/conversations` through the official client, and responses that go on in one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from bessemer.app.platform import Platform
from bessemer.core.errors import EngineUnavailable
from bessemer.core.home import Home
from bessemer.gateway.asgi import build
from bessemer.gateway.exchange import ASGIApp
from bessemer.gateway.resources import resource_routes
from tests.fakes import FakeResponder, FakeServing
from tests.gateway import specification
from tests.gateway.calling import KEY, OTHER_KEY, FakeKeyRing, call, running


@pytest.fixture
def serving() -> FakeServing:
    return FakeServing(
        {
            "tiny": FakeResponder(["Hello"]),
            "dies": FakeResponder(["a"], error=EngineUnavailable("it died"), error_after=1),
        }
    )


@pytest.fixture
def app(tmp_path: Path, serving: FakeServing) -> Iterator[ASGIApp]:
    with Platform.open(Home(tmp_path / "home")) as platform:
        yield build(serving, FakeKeyRing(), routes=resource_routes(platform, serving=serving))


@pytest.fixture
def client(app: ASGIApp) -> Iterator[openai.OpenAI]:
    with running(app) as server:
        yield openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)


def texts(client: openai.OpenAI, conversation_id: str) -> list[str]:
    found: list[Any] = list(client.conversations.items.list(conversation_id, order="asc", limit=2))
    for item in found:
        specification.check("ConversationItem", item.to_dict())
    return [item.content[0].text for item in found]


def test_a_conversation_from_its_beginning_to_its_end(client: openai.OpenAI) -> None:
    assert client.conversations.create().metadata == {}
    made = client.conversations.create(
        metadata={"topic": "demo"}, items=[{"role": "user", "content": "Hi"}]
    )
    specification.check("ConversationResource", made.to_dict())
    assert client.conversations.retrieve(made.id) == made
    added = client.conversations.items.create(
        made.id,
        items=[
            {"role": "assistant", "content": "Hello"},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "4"},
        ],
    )
    specification.check("ConversationItemList", added.to_dict())
    assert [item.type for item in added.data] == [
        "message",
        "function_call",
        "function_call_output",
    ]
    call_id = added.data[1].id or ""
    assert client.conversations.items.retrieve(call_id, conversation_id=made.id) == added.data[1]
    assert client.conversations.items.delete(call_id, conversation_id=made.id) == made
    left = [item.type for item in client.conversations.items.list(made.id, order="asc")]
    assert left == ["message", "message", "function_call_output"]
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.retrieve(call_id, conversation_id=made.id)
    assert client.conversations.update(made.id, metadata={"topic": "x"}).metadata == {"topic": "x"}
    gone = client.conversations.delete(made.id)
    specification.check("DeletedConversationResource", gone.to_dict())
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.list(made.id)


def test_who_deletes_the_items_they_list_goes_on_behind_the_last_one(client: openai.OpenAI) -> None:
    items: Any = [{"role": "user", "content": str(number)} for number in range(9)]
    made = client.conversations.create(items=items)
    deleted: list[str] = []
    for item in client.conversations.items.list(made.id, order="desc", limit=2):
        if len(deleted) < 7:
            client.conversations.items.delete(item.id or "", conversation_id=made.id)
            deleted.append(item.id or "")
    assert len(set(deleted)) == 7 and texts(client, made.id) == ["0", "1"]
    # One that was taken out is nowhere any more, and its id is free.
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.delete(deleted[0], conversation_id=made.id)
    with pytest.raises(openai.NotFoundError):
        again: Any = {"type": "item_reference", "id": deleted[0]}
        client.responses.create(model="tiny", input=[again])
    back: Any = {"type": "message", "id": deleted[0], "role": "user", "content": "back"}
    client.conversations.items.create(made.id, items=[back])
    assert texts(client, made.id) == ["0", "1", "back"]


def test_responses_read_and_grow_their_conversation(
    client: openai.OpenAI, serving: FakeServing
) -> None:
    made = client.conversations.create(items=[{"role": "user", "content": "1"}])
    first = client.responses.create(model="tiny", input="2", conversation=made.id)
    assert first.conversation is not None and first.conversation.id == made.id
    stream = client.responses.create(
        model="tiny", input="3", conversation={"id": made.id}, stream=True, store=False
    )
    assert list(stream)[-1].type == "response.completed"
    assert texts(client, made.id) == ["1", "2", "Hello", "3", "Hello"]
    sent = serving._responders["tiny"].requests[-1].messages
    assert [message["content"] for message in sent] == ["1", "2", "Hello", "3"]
    client.responses.delete(first.id)
    assert len(texts(client, made.id)) == 5, "the conversation keeps what was said"
    with pytest.raises(openai.BadRequestError, match="conversation"):
        second = client.responses.create(model="tiny", input="4", conversation=made.id)
        client.responses.create(model="tiny", input="5", previous_response_id=second.id)


def test_an_answer_that_fails_leaves_its_conversation_as_it_was(client: openai.OpenAI) -> None:
    made = client.conversations.create()
    with pytest.raises(openai.InternalServerError):
        client.responses.create(model="dies", input="1", conversation=made.id)
    failed = list(
        client.responses.create(model="dies", input="1", conversation=made.id, stream=True)
    )
    assert failed[-1].type == "response.failed"
    assert texts(client, made.id) == []


def test_an_item_that_comes_twice_is_refused_and_nothing_is_added(client: openai.OpenAI) -> None:
    item: Any = {"type": "message", "role": "user", "content": "1", "id": "msg_1"}
    made = client.conversations.create(items=[item])
    fresh: Any = {"role": "user", "content": "2"}
    with pytest.raises(openai.BadRequestError, match="Duplicate") as twice:
        client.conversations.items.create(made.id, items=[fresh, item])
    with pytest.raises(openai.NotFoundError, match="msg_none") as missing:
        client.conversations.create(items=[{"type": "item_reference", "id": "msg_none"}])
    assert (twice.value.param, missing.value.param) == ("items", "items")
    with pytest.raises(openai.BadRequestError, match="Duplicate"):
        client.responses.create(model="tiny", input=[item], conversation=made.id)
    assert texts(client, made.id) == ["1"]
    with pytest.raises(openai.BadRequestError):
        client.conversations.items.create(made.id, items=[fresh] * 21)


def test_another_project_sees_nothing(app: ASGIApp) -> None:
    made = call(app, "/v1/conversations", {"items": [{"role": "user", "content": "x"}]}).json()
    one = f"/v1/conversations/{made['id']}"
    item = call(app, one + "/items", method="GET").json()["data"][0]["id"]
    asked: list[tuple[str, str, Any]] = [
        ("GET", one, None), ("DELETE", one, None), ("POST", one, {"metadata": {}}),
        ("GET", one + "/items", None), ("POST", one + "/items", {"items": []}),
        ("GET", f"{one}/items/{item}", None), ("DELETE", f"{one}/items/{item}", None),
    ]  # fmt: skip
    for method, path, body in asked:
        assert call(app, path, body, method=method, key=OTHER_KEY).status == 404, path
        assert call(app, path, body, method=method, key=None).status == 401
    assert call(app, one, method="GET").json() == made
    assert call(app, one, {"metadata": {}, "name": "x"}).error["param"] == "name"
    assert call(app, "/v1/conversations", {"items": [{"type": "mcp_call"}]}).error["param"] == (
        "items[0].type"
    )
