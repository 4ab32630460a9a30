"""Who may ask which model, and that an answer nobody reads is cancelled."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from bessemer.app.chat import ModelNotFound, find_model, list_models, respond
from bessemer.core.errors import EngineLoading, PermissionDenied
from bessemer.core.principal import Principal
from bessemer.core.protocols import ChatRequest
from tests.fakes import FAKE_DIGEST, FakeResponder, FakeServing

REQUEST = ChatRequest(request_id="r1", messages=[{"role": "user", "content": "Hi"}])


def somebody(*scopes: str, project: str = "p1") -> Principal:
    return Principal("o1", project, "u1", frozenset(scopes))


def test_an_answer_comes_from_the_model_that_was_named() -> None:
    serving = FakeServing({"a": FakeResponder(["from a"]), "b": FakeResponder(["from b"])})

    async def run() -> str:
        return "".join([d.text async for d in respond(serving, somebody("chat"), "b", REQUEST)])

    assert asyncio.run(run()) == "from b"


def test_a_reply_knows_what_answered_from_its_first_delta_on() -> None:
    async def run() -> list[str | None]:
        reply = respond(FakeServing({"a": FakeResponder()}), somebody("chat"), "a", REQUEST)
        before = reply.model_digest
        await anext(reply)
        await reply.aclose()
        return [before, reply.model_digest]

    assert asyncio.run(run()) == [None, FAKE_DIGEST]


def test_asking_needs_the_scope_chat_and_is_refused_before_anything_is_asked() -> None:
    serving = FakeServing({"a": FakeResponder()})
    with pytest.raises(PermissionDenied, match="'chat'"):
        respond(serving, somebody("models:read"), "a", REQUEST)
    assert serving.principals == []


def test_an_unknown_model_is_not_found_and_a_long_name_is_not_echoed_whole() -> None:
    async def run(model: str) -> None:
        await anext(respond(FakeServing({}), somebody("chat"), model, REQUEST))

    with pytest.raises(ModelNotFound, match="`nope` does not exist"):
        asyncio.run(run("nope"))
    with pytest.raises(ModelNotFound) as found:
        asyncio.run(run("x" * 5000))
    assert len(found.value.message) < 300


def test_a_model_that_does_not_load_says_so() -> None:
    async def run() -> None:
        serving = FakeServing({}, fault=EngineLoading("still loading"))
        await anext(respond(serving, somebody("chat"), "a", REQUEST))

    with pytest.raises(EngineLoading):
        asyncio.run(run())


def test_each_key_has_its_own_line_in_the_engine() -> None:
    responder = FakeResponder(["x"])

    async def ask(key_id: str | None) -> None:
        asks = replace(somebody("chat"), key_id=key_id)
        async for _ in respond(FakeServing({"a": responder}), asks, "a", REQUEST):
            pass

    asyncio.run(ask("key_1"))
    asyncio.run(ask(None))
    assert [request.client for request in responder.requests] == ["key_1", "u1"]


def test_closing_a_reply_closes_the_responder_at_once() -> None:
    responder = FakeResponder(endless=True)

    async def run() -> None:
        reply = respond(FakeServing({"a": responder}), somebody("chat"), "a", REQUEST)
        await anext(reply)
        assert (responder.opened, responder.closed) == (1, 0)
        await reply.aclose()
        assert responder.closed == 1

    asyncio.run(run())


def test_cancelling_who_waits_closes_the_responder() -> None:
    responder = FakeResponder(hold_after=0)

    async def run() -> None:
        reply = respond(FakeServing({"a": responder}), somebody("chat"), "a", REQUEST)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(reply)
        assert responder.closed == 1

    asyncio.run(run())


def test_listing_models_needs_its_scope_and_shows_only_the_projects_own() -> None:
    serving = FakeServing({"a": FakeResponder()}, private={"p2": {"secret": FakeResponder()}})
    one, two = somebody("models:read"), somebody("models:read", project="p2")
    assert [model.id for model in list_models(serving, one)] == ["a"]
    assert [model.id for model in list_models(serving, two)] == ["a", "secret"]
    assert find_model(serving, two, "secret").state == "ready"
    with pytest.raises(ModelNotFound):
        find_model(serving, one, "secret")
    with pytest.raises(PermissionDenied):
        list_models(serving, somebody("chat"))
