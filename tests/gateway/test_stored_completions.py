"""Chat completions with `store: true`, and what the official client can do with them later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import openai
import pytest

from bessemer.app.platform import Platform
from bessemer.app.stored_completions import Keeper
from bessemer.core.errors import OutOfSpace
from bessemer.core.home import Home
from bessemer.core.principal import Principal
from bessemer.gateway.asgi import build
from bessemer.gateway.exchange import ASGIApp
from bessemer.gateway.resources import resource_routes
from tests.fakes import FakeResponder, FakeServing
from tests.gateway import specification
from tests.gateway.calling import CHAT_KEY, KEY, OTHER_KEY, FakeKeyRing, app_of, call, chat, running

EVERY = "/v1/chat/completions"


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with Platform.open(Home(tmp_path / "home")) as found:
        yield found


@pytest.fixture
def app(platform: Platform) -> ASGIApp:
    serving = FakeServing({"tiny": FakeResponder(["Hello", "!"]), "other": FakeResponder(["Yes"])})
    routes = resource_routes(platform, serving=serving)
    return build(serving, FakeKeyRing(), routes=routes, keeper=Keeper(platform))


@pytest.fixture
def client(app: ASGIApp) -> Iterator[openai.OpenAI]:
    with running(app) as server:
        yield openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)


def ask(client: openai.OpenAI, model: str = "tiny", **fields: Any) -> Any:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
    ]
    return client.chat.completions.create(model=model, messages=messages, store=True, **fields)  # type: ignore[arg-type]


def test_store_read_label_and_delete(client: openai.OpenAI) -> None:
    made = ask(client, metadata={"team": "a"}, n=2)
    found = client.chat.completions.retrieve(made.id)
    specification.check("CreateChatCompletionResponse", found.to_dict())
    assert found.choices == made.choices and found.usage == made.usage
    assert found.to_dict()["metadata"] == {"team": "a"}
    messages = list(client.chat.completions.messages.list(made.id, limit=1))
    assert [(m.role, m.content) for m in messages] == [("developer", "Be brief."), ("user", "Hi")]
    assert len(messages[1].content_parts or ()) == 2
    client.chat.completions.update(made.id, metadata={"team": "b"})
    assert client.chat.completions.retrieve(made.id).to_dict()["metadata"] == {"team": "b"}
    assert [c.id for c in client.chat.completions.list(metadata={"team": "b"})] == [made.id]
    assert list(client.chat.completions.list(metadata={"team": "a"})) == []
    gone = client.chat.completions.delete(made.id)
    specification.check("ChatCompletionDeleted", gone.to_dict())
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.retrieve(made.id)


def test_a_saved_history_is_listed_as_the_specification_has_it(client: openai.OpenAI) -> None:
    messages: Any = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "refusal": "No.", "annotations": None},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "Never."}]},
        {"role": "assistant", "content": "Well.", "tool_calls": None, "function_call": None},
    ]
    made = client.chat.completions.create(model="tiny", messages=messages, store=True)
    listed = client.chat.completions.messages.list(made.id)
    specification.check("ChatCompletionMessageList", listed.to_dict())
    said = [(m.content, m.refusal) for m in listed.data]
    assert said == [("Hi", None), (None, "No."), ("Never.", None), ("Well.", None)]


def test_a_stream_is_stored_whole_before_it_says_that_it_is_done(client: openai.OpenAI) -> None:
    chunks = list(ask(client, stream=True, logprobs=True))
    found = client.chat.completions.retrieve(chunks[0].id)
    assert found.choices[0].message.content == "Hello!"
    assert found.choices[0].logprobs is not None and found.usage is not None
    assert found.usage.completion_tokens == 2 and found.created == chunks[0].created


def test_lists_go_in_pages_and_by_model_and_metadata(client: openai.OpenAI) -> None:
    ids = [ask(client, metadata={"n": str(n % 2), "all": "x"}).id for n in range(5)]
    other = ask(client, "other").id
    assert [c.id for c in client.chat.completions.list(limit=2)] == [*ids, other]
    assert [c.id for c in client.chat.completions.list(order="desc", limit=4)] == [
        other,
        *ids[::-1],
    ]
    assert [c.id for c in client.chat.completions.list(model="other")] == [other]
    wanted = {"n": "1", "all": "x"}
    assert [c.id for c in client.chat.completions.list(metadata=wanted)] == ids[1::2]
    page = client.chat.completions.list(limit=2)
    specification.check("ChatCompletionList", page.to_dict())
    specification.check(
        "ChatCompletionMessageList", client.chat.completions.messages.list(ids[0]).to_dict()
    )


@pytest.mark.parametrize("labels", [{"a": "b\0"}, {"a\0": "b"}])
def test_a_label_that_not_every_database_holds_is_refused_before_the_answer(
    app: ASGIApp, labels: dict[str, str]
) -> None:
    refused = chat(app, store=True, metadata=labels)
    assert refused.status == 400 and refused.error["param"].startswith("metadata")


def test_without_store_nothing_is_kept(app: ASGIApp) -> None:
    assert chat(app, metadata={"a": "b"}).status == 200
    assert chat(app, store=False).status == 200
    assert call(app, EVERY, method="GET").json()["data"] == []
    assert chat(app_of(FakeResponder()), store=True).error["param"] == "store"


def test_an_answer_that_cannot_be_stored_is_an_error_in_time() -> None:
    class Full:
        async def keep(
            self, principal: Principal, given: Mapping[str, str], messages: bytes, answer: bytes
        ) -> None:
            raise OutOfSpace("the disk is full")

    app = build(FakeServing({"tiny": FakeResponder(["a"])}), FakeKeyRing(), keeper=Full())
    assert chat(app, store=True).status == 507
    events = chat(app, store=True, stream=True).events()
    assert events[-1]["error"]["message"] == "the disk is full" and "[DONE]" not in events


def test_other_keys_and_wrong_requests(app: ASGIApp) -> None:
    made = chat(app, store=True).json()["id"]
    one = f"{EVERY}/{made}"
    requests: list[tuple[str, str, Any]] = [
        ("GET", one, None), ("POST", one, {"metadata": {}}), ("DELETE", one, None),
        ("GET", one + "/messages", None),
    ]  # fmt: skip
    for method, path, body in [*requests, ("GET", EVERY, None)]:
        assert call(app, path, body, method=method, key=CHAT_KEY).status == 403
        assert call(app, path, body, method=method, key=None).status == 401
        assert call(app, path, body, method=method, key=OTHER_KEY).status == 403
    assert call(app, one, {}).error["param"] == "metadata"
    assert call(app, one, {"metadata": {"a": 1}}).status == 400
    assert call(app, one, {"metadata": {"a": "x" * 513}}).status == 400
    assert call(app, EVERY, method="DELETE").headers["allow"] == "GET, POST"
    rich = Principal("org", "p2", "u2", frozenset({"*"}))
    from bessemer.app import stored_completions

    with pytest.raises(stored_completions.NotFound):
        stored_completions.get(_platform_of(app), rich, made)


def _platform_of(app: ASGIApp) -> Platform:
    keeper = app._keeper  # type: ignore[attr-defined]
    found: Platform = keeper._platform
    return found
