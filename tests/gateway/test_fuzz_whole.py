"""The fuzz tests' bodies over a real socket, a real engine in its process, tokenizer and template.

What a fake responder never does happens here: templates are rendered, texts encoded, requests
packed for the engine's socket, grammars compiled.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.app.engines import EnginePool
from bessemer.app.platform import Platform
from bessemer.app.pool_serving import PoolServing
from bessemer.app.pull import pull
from bessemer.core.home import Home
from bessemer.gateway.asgi import build
from tests.gateway.bodies import CHAT, COMPLETIONS, EMBEDDINGS, VALID, damaged, misspelled
from tests.gateway.calling import KEY, FakeKeyRing, running
from tests.inference.speaking import write_speaking_model

PATHS = (CHAT, COMPLETIONS, EMBEDDINGS)
Post = Callable[[str, bytes], tuple[int, bytes]]

# What was found once, and must not come back: path and body.
CORPUS: tuple[tuple[str, bytes], ...] = (
    # A nucleus of nothing left no token to draw, and the engine died of it.
    (COMPLETIONS, b'{"model": "tiny", "prompt": "Hi", "max_tokens": 2, "top_p": 0}'),
    (COMPLETIONS, b'{"model": "tiny", "prompt": "Hi", "top_p": 1e-320, "min_p": 0.1}'),
    (COMPLETIONS, b'{"model": "tiny", "prompt": "Hi", "temperature": 1e-320, "min_p": 0.1}'),
    (COMPLETIONS, b'{"model": "tiny", "prompt": "Hi", "repetition_penalty": 1e-320}'),
)


@pytest.fixture(scope="module")
def post(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Post]:
    folder = tmp_path_factory.mktemp("fuzz")
    source = folder / "tiny"
    source.mkdir()
    write_speaking_model(source)
    with Platform.open(Home(folder / "home")) as platform:
        # The keys of `FakeKeyRing` are of other projects; names are found by this one.
        principal = FakeKeyRing().authenticate(KEY)
        pull(platform, principal, str(source), name="tiny")
        pool = EnginePool(platform, 1)

        @contextlib.asynccontextmanager
        async def lifespan() -> AsyncIterator[None]:
            yield
            await pool.close()

        app = build(PoolServing(platform, pool), FakeKeyRing())
        with running(app, lifespan=lifespan()) as server:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}

            def send(path: str, body: bytes) -> tuple[int, bytes]:
                connection.request("POST", path, body, headers)
                reply = connection.getresponse()
                return reply.status, reply.read()

            yield send
            connection.close()
        shutil.rmtree(platform.home.socket_dir())


def check(post: Post, path: str, raw: bytes) -> None:
    status, body = post(path, raw)
    if status != 200:
        assert status in (400, 404, 413), (status, body)
        assert_openai_error(json.loads(body))
        return
    if not body.startswith(b"data: "):
        json.loads(body)
        return
    events = body.decode().split("\n\n")[:-1]
    if events[-1] != "data: [DONE]":  # a fault that showed itself after the first token
        assert_openai_error(json.loads(events[-1].removeprefix("data: ")))


def assert_openai_error(found: dict[str, dict[str, object]]) -> None:
    assert set(found) == {"error"}, found
    assert set(found["error"]) == {"message", "type", "param", "code"}, found
    assert found["error"]["type"] == "invalid_request_error", found
    assert found["error"]["message"]


@pytest.mark.parametrize("path", PATHS)
def test_what_is_damaged_below_is_answered_before(post: Post, path: str) -> None:
    for body in VALID[path]:
        status, answer = post(path, json.dumps(body).encode())
        infilling = "suffix" in body  # this model's tokenizer has no tokens for it
        assert status == (400 if infilling else 200), (body, answer)


@pytest.mark.parametrize(("path", "raw"), CORPUS)
def test_what_was_found_once_does_not_come_back(post: Post, path: str, raw: bytes) -> None:
    check(post, path, raw)


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_valid_bodies_damaged_in_a_few_places(post: Post, path: str, data: st.DataObject) -> None:
    check(post, path, data.draw(damaged(path)))


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_valid_bodies_with_other_bytes_in_a_place(
    post: Post, path: str, data: st.DataObject
) -> None:
    check(post, path, data.draw(misspelled(path)))
