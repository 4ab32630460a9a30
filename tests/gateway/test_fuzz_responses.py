"""Whatever is sent to `/v1/responses` and `/v1/conversations`: never a 500, see `test_fuzz`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.app import responses
from bessemer.app.background import Background
from bessemer.app.platform import Platform
from bessemer.app.prompt_size import PromptSize
from bessemer.app.responses import Asked
from bessemer.app.tables import conversations as conversations_table
from bessemer.core.home import Home
from bessemer.core.protocols import ChatRequest
from bessemer.gateway.asgi import build
from bessemer.gateway.conversations import NewConversation, NewItems, Update
from bessemer.gateway.exchange import ASGIApp
from bessemer.gateway.resources import resource_routes
from bessemer.gateway.response_request import CountBody, ResponseBody
from tests.fakes import FakeResponder, FakeServing
from tests.gateway.bodies import (
    CONVERSATION_ITEMS,
    CONVERSATIONS,
    COUNTS,
    KNOWN_CONVERSATION,
    KNOWN_RESPONSE,
    MINIMAL,
    RESPONSES,
    RESPONSES_VALID,
    damaged,
    keys,
    misspelled,
    values,
)
from tests.gateway.calling import KEY, FakeKeyRing, call

FIELDS = {
    RESPONSES: ResponseBody.__struct_fields__,
    COUNTS: CountBody.__struct_fields__,
    CONVERSATIONS: NewConversation.__struct_fields__,
    CONVERSATION_ITEMS: (*NewItems.__struct_fields__, *Update.__struct_fields__),
}
PATHS = tuple(FIELDS)


class Counting(FakeResponder):
    async def prompt_size(self, request: ChatRequest) -> PromptSize:
        return PromptSize(sum(len(message["content"]) for message in request.messages), 10_000)


RESPONDER: Counting
APP: ASGIApp


@pytest.fixture(scope="module", autouse=True)
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """With a response and a conversation that bodies can name."""
    global RESPONDER, APP
    RESPONDER = Counting(["a"])
    serving, me = FakeServing({"tiny": RESPONDER}), FakeKeyRing().authenticate(KEY)
    with Platform.open(Home(tmp_path_factory.mktemp("fuzz") / "home")) as platform:
        # Nothing works in the background, so what goes there only waits.
        background = Background(platform, serving, most_at_once=0)
        routes = resource_routes(platform, serving=serving, background=background)
        APP = build(serving, FakeKeyRing(), routes=routes)
        asked = Asked(
            id=KNOWN_RESPONSE, model="tiny", items=[], says={"tools": []},
            request=ChatRequest(request_id=KNOWN_RESPONSE),
        )  # fmt: skip
        prepared = responses.prepare(platform, me, asked)
        whole = msgspec.structs.replace(prepared.response, status="completed")
        responses.keep(platform, prepared, whole)
        row = {"id": KNOWN_CONVERSATION, "org_id": "org", "project_id": "p1", "owner_id": "u1"}
        with platform.db.write() as connection:
            insert = conversations_table.insert()
            connection.execute(insert.values(**row, created_ms=1, labels="{}"))
        yield


def check(path: str, raw: bytes) -> None:
    opened = RESPONDER.opened
    answer = call(APP, path, raw)
    assert RESPONDER.opened == RESPONDER.closed
    if answer.status != 200:
        assert answer.status in (400, 404), answer
        assert answer.error["message"]
        assert RESPONDER.opened == opened, "what is refused is not asked first"


@pytest.mark.parametrize("path", PATHS)
def test_what_is_damaged_below_is_valid_before(path: str) -> None:
    for body in RESPONSES_VALID[path]:
        answer = call(APP, path, body)
        assert answer.status == 200, (body, answer)


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_value_in_any_field(path: str, data: st.DataObject) -> None:
    names = st.sampled_from(FIELDS[path]) | st.text(max_size=5)
    body = {**MINIMAL[path], **data.draw(st.dictionaries(names, values, max_size=3))}
    check(path, json.dumps(body).encode())


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_valid_bodies_damaged_in_a_few_places(path: str, data: st.DataObject) -> None:
    check(path, data.draw(damaged(path, RESPONSES_VALID)))


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_valid_bodies_with_other_bytes_in_a_place(path: str, data: st.DataObject) -> None:
    check(path, data.draw(misspelled(path, RESPONSES_VALID)))


@settings(max_examples=150, deadline=None)
@given(items=st.lists(st.dictionaries(keys, values, max_size=5) | values, max_size=4))
def test_any_items(items: list[Any]) -> None:
    check(RESPONSES, json.dumps({"model": "tiny", "input": items}).encode())
    check(CONVERSATION_ITEMS, json.dumps({"items": items}).encode())
