"""Whatever bytes are sent, the answer is a 200 or an error that says what is wrong: never a 500."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.app.embeddings import EngineEmbedder
from bessemer.gateway.chat_request import ChatBody
from bessemer.gateway.completion_request import CompletionBody
from bessemer.gateway.embeddings import EmbeddingBody
from bessemer.text.tokenizer import Tokenizer
from tests.fakes import FakeEngine, FakeResponder, FakeServing
from tests.gateway.bodies import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    MINIMAL,
    VALID,
    damaged,
    keys,
    misspelled,
    values,
)
from tests.gateway.calling import app_of, call
from tests.text.model_folder import write_model_folder

PATHS = (CHAT, COMPLETIONS)
FIELDS = {
    CHAT: ChatBody.__struct_fields__,
    COMPLETIONS: CompletionBody.__struct_fields__,
    EMBEDDINGS: EmbeddingBody.__struct_fields__,
}
EVERY_PATH = tuple(FIELDS)


@pytest.fixture(scope="module", autouse=True)
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> None:
    global TOKENIZER
    TOKENIZER = Tokenizer.load(write_model_folder(tmp_path_factory.mktemp("tokenizer")))


TOKENIZER: Tokenizer


def check(path: str, raw: bytes) -> None:
    responder = FakeResponder(["a"])
    embedder = EngineEmbedder(FakeEngine(), TOKENIZER, 1024)
    app = app_of(FakeServing({"tiny": responder}, embedders={"tiny": embedder}))
    answer = call(app, path, raw)
    if answer.status == 200:
        assert responder.requests or path == EMBEDDINGS
        assert responder.opened == responder.closed
    else:
        assert answer.status in (400, 404), answer
        assert answer.error["message"]
        assert responder.requests == []


@pytest.mark.parametrize("path", EVERY_PATH)
def test_what_is_damaged_below_is_valid_before(path: str) -> None:
    for body in VALID[path]:
        check_valid(path, body)


def check_valid(path: str, body: dict[str, object]) -> None:
    embedder = EngineEmbedder(FakeEngine(), TOKENIZER, 1024)
    app = app_of(FakeServing({"tiny": FakeResponder(["a"])}, embedders={"tiny": embedder}))
    assert call(app, path, body).status == 200, body


@pytest.mark.parametrize("path", EVERY_PATH)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_value_in_any_field(path: str, data: st.DataObject) -> None:
    names = st.sampled_from(FIELDS[path]) | st.text(max_size=5)
    body = {**MINIMAL[path], **data.draw(st.dictionaries(names, values, max_size=3))}
    check(path, json.dumps(body).encode())


@pytest.mark.parametrize("path", EVERY_PATH)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_valid_bodies_damaged_in_a_few_places(path: str, data: st.DataObject) -> None:
    check(path, data.draw(damaged(path)))


@pytest.mark.parametrize("path", EVERY_PATH)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_valid_bodies_with_other_bytes_in_a_place(path: str, data: st.DataObject) -> None:
    check(path, data.draw(misspelled(path)))


@settings(max_examples=150, deadline=None)
@given(messages=st.lists(st.dictionaries(keys, values, max_size=4) | values, max_size=4))
def test_any_messages(messages: list[object]) -> None:
    check(CHAT, json.dumps({"model": "tiny", "messages": messages}).encode())


@settings(max_examples=150, deadline=None)
@given(prompt=values | st.lists(st.integers(-3, 9), max_size=5))
def test_any_prompt(prompt: object) -> None:
    check(COMPLETIONS, json.dumps({"model": "tiny", "prompt": prompt}).encode())


@pytest.mark.parametrize("path", EVERY_PATH)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_bytes(path: str, data: st.DataObject) -> None:
    raw = json.dumps(MINIMAL[path]).encode()
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, len(raw)))
    check(path, raw[:start] + data.draw(st.binary(max_size=6)) + raw[end:])
