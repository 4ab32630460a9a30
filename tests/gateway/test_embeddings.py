"""`POST /v1/embeddings`: OpenAI's shapes, and its official client."""

from __future__ import annotations

import asyncio
import base64
import math
import struct
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from bessemer.app.embeddings import Embedded, EmbedRequest
from bessemer.core.errors import Busy, ContextLengthExceeded
from tests.fakes import FakeServing
from tests.gateway.calling import KEY, Answer, Running, app_of, call, running

VECTORS = {"a": [0.6, 0.8], "b": [-1.0, 0.0]}


class FakeEmbedder:
    """Vectors from a table, three tokens each; or an error."""

    def __init__(self, error: Exception | None = None) -> None:
        self.requests: list[EmbedRequest] = []
        self._error = error

    async def embed(self, request: EmbedRequest) -> Embedded:
        self.requests.append(request)
        if self._error is not None:
            raise self._error
        vectors = [VECTORS.get(str(item), [0.0, 1.0]) for item in request.inputs]
        return Embedded(vectors, 3 * len(vectors))


def ask(embedder: FakeEmbedder, **fields: object) -> Answer:
    app = app_of(FakeServing({}, embedders={"m": embedder}))
    return call(app, "/v1/embeddings", {"model": "m", "input": "a", **fields})


def test_the_answer_has_openais_shape() -> None:
    answer = ask(FakeEmbedder(), input=["a", "b"])
    assert answer.status == 200
    assert answer.json() == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.6, 0.8]},
            {"object": "embedding", "index": 1, "embedding": [-1.0, 0.0]},
        ],
        "model": "m",
        "usage": {"prompt_tokens": 6, "total_tokens": 6},
    }


def test_base64_is_little_endian_float32() -> None:
    (item,) = ask(FakeEmbedder(), encoding_format="base64").json()["data"]
    assert base64.b64decode(item["embedding"]) == struct.pack("<2f", 0.6, 0.8)


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_every_form_of_input(given: object, inputs: list[Any]) -> None:
    embedder = FakeEmbedder()
    assert ask(embedder, input=given, dimensions=2, pooling="last", user="me").status == 200
    (request,) = embedder.requests
    assert list(request.inputs) == inputs
    assert (request.dimensions, request.pooling) == (2, "last")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ["a", 1]}, "input"),
        ({"input": [[1], "a"]}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": [1.5]}, "input[0]"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"pooling": "median"}, "pooling"),
        ({"temperature": 1}, "temperature"),
    ],
)
def test_what_is_wrong_is_named_by_its_field(fields: dict[str, object], param: str) -> None:
    answer = ask(FakeEmbedder(), **fields)
    assert (answer.status, answer.error["param"]) == (400, param)


def test_only_post_and_only_with_a_key() -> None:
    app = app_of(FakeServing({}, embedders={"m": FakeEmbedder()}))
    assert call(app, "/v1/embeddings", method="GET").status == 405
    assert call(app, "/v1/embeddings", {"model": "m", "input": "a"}, key=None).status == 401


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    embedders = {
        "m": FakeEmbedder(),
        "small": FakeEmbedder(ContextLengthExceeded("8 tokens, 9 tokens")),
        "full": FakeEmbedder(Busy("full", retry_after_s=1)),
    }
    with running(app_of(FakeServing({}, embedders=embedders))) as found:
        yield found


def test_the_official_client_which_asks_for_base64(server: Running) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        found = client.embeddings.create(model="m", input=["a", "b"])
        as_text = client.embeddings.create(model="m", input="a", encoding_format="base64")
        as_numbers = client.embeddings.create(model="m", input="a", encoding_format="float")
        for model, error in (
            ("nope", openai.NotFoundError),
            ("small", openai.BadRequestError),
            ("full", openai.RateLimitError),
        ):
            with pytest.raises(error):
                client.embeddings.create(model=model, input="a")
    assert found.data[0].embedding == pytest.approx([0.6, 0.8], abs=1e-7)
    assert found.usage.total_tokens == 6
    assert as_numbers.data[0].embedding == [0.6, 0.8]
    raw: Any = as_text.data[0].embedding
    assert math.isclose(struct.unpack("<2f", base64.b64decode(raw))[1], 0.8, abs_tol=1e-7)


def test_many_asynchronous_requests_at_once(server: Running) -> None:
    async def run() -> list[list[float]]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY) as client:
            asked = [client.embeddings.create(model="m", input="b") for _ in range(20)]
            return [found.data[0].embedding for found in await asyncio.gather(*asked)]

    assert asyncio.run(run()) == [[-1.0, 0.0]] * 20
