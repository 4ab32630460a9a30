"""The official client against a real server: each understands the other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import openai
import pytest

from bessemer.core.errors import Busy, ContextLengthExceeded, EngineUnavailable
from tests.fakes import FakeResponder, FakeServing
from tests.gateway.calling import CHAT_KEY, KEY, Running, app_of, running

HI = [{"role": "user", "content": "Hi"}]
RESPONDERS = {
    "tiny": FakeResponder(["Hello", ", ", "wörld"]),
    "full": FakeResponder(error=Busy("full", retry_after_s=1)),
    "dead": FakeResponder(error=EngineUnavailable("it died")),
    "small": FakeResponder(error=ContextLengthExceeded("8 tokens, 9 tokens")),
    "dies": FakeResponder(["a", "b"], error=EngineUnavailable("it died"), error_after=1),
    "broken": FakeResponder(error=ZeroDivisionError("x")),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(app_of(FakeServing(RESPONDERS))) as found:
        yield found


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as found:
        yield found


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=HI)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == "Hello, wörld"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 10
    assert answer._request_id is not None
    assert answer._request_id.startswith("req_")


def test_chat_streamed_with_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=HI,  # type: ignore[arg-type]
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello, wörld"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3


def test_the_clients_own_stream_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="tiny", messages=HI) as stream:  # type: ignore[arg-type]
        texts = [event.delta for event in stream if event.type == "content.delta"]
        whole = stream.get_final_completion()
    assert "".join(texts) == whole.choices[0].message.content == "Hello, wörld"


def test_an_answer_can_be_sent_back_as_a_message(client: openai.OpenAI) -> None:
    said = client.chat.completions.create(model="tiny", messages=HI).choices[0].message  # type: ignore[arg-type]
    again = client.chat.completions.create(
        model="tiny",
        messages=[*HI, said, *HI],  # type: ignore[list-item]
    )
    assert again.choices[0].finish_reason == "stop"


def test_text_completion_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="tiny", prompt=["a", "b"], n=2, logprobs=1)
    assert [choice.text for choice in whole.choices] == ["Hello, wörld"] * 4
    chunks = client.completions.create(model="tiny", prompt="a", stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Hello, wörld"


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == sorted(RESPONDERS)
    assert client.models.retrieve("tiny").owned_by == "org"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nope")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "error", "code"),
    [
        ("nope", openai.NotFoundError, "model_not_found"),
        ("full", openai.RateLimitError, "engine_busy"),
        ("dead", openai.InternalServerError, "engine_unavailable"),
        ("small", openai.BadRequestError, "context_length_exceeded"),
        ("broken", openai.InternalServerError, "internal_error"),
    ],
)
def test_the_client_raises_its_own_error_for_each_of_ours(
    client: openai.OpenAI, model: str, error: type[openai.APIStatusError], code: str, stream: bool
) -> None:
    with pytest.raises(error) as found:
        client.chat.completions.create(model=model, messages=HI, stream=stream)  # type: ignore[call-overload]
    assert found.value.code == code


def test_a_stream_that_breaks_raises_in_the_client(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="dies", messages=HI, stream=True)  # type: ignore[arg-type]
    with pytest.raises(openai.APIError, match="it died"):
        list(stream)


def test_wrong_keys_and_missing_rights(server: Running) -> None:
    wrong = openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-bsm-wrong", max_retries=0)
    with wrong, pytest.raises(openai.AuthenticationError):
        wrong.models.list()
    narrow = openai.OpenAI(base_url=f"{server.url}/v1", api_key=CHAT_KEY, max_retries=0)
    with narrow:
        assert narrow.chat.completions.create(model="tiny", messages=HI).choices  # type: ignore[arg-type]
        with pytest.raises(openai.PermissionDeniedError):
            narrow.models.list()


def test_many_asynchronous_requests_at_once(server: Running) -> None:
    async def ask(client: openai.AsyncOpenAI) -> str:
        stream = await client.chat.completions.create(model="tiny", messages=HI, stream=True)  # type: ignore[call-overload]
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def run() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY) as client:
            return await asyncio.gather(*(ask(client) for _ in range(50)))

    assert asyncio.run(run()) == ["Hello, wörld"] * 50
