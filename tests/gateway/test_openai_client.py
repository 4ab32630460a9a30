"""The official client against a real server: each understands the other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletionMessage, ParsedChatCompletionMessage

from bessemer.core.errors import Busy, ContextLengthExceeded, EngineUnavailable
from bessemer.core.ids import new_id
from tests.fakes import FakeResponder, FakeServing
from tests.gateway.calling import CHAT_KEY, KEY, Running, app_of, running

HI = [{"role": "user", "content": "Hi"}]
RESPONDERS = {
    "tiny": FakeResponder(["Hello", ", ", "wörld"]),
    "json": FakeResponder(['{"city": "Paris"}']),
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


# Each field that the specification's ChatCompletionResponseMessage has, null or empty, as OpenAI
# answers, and as histories that were saved from there hold them.
SAVED: list[dict[str, Any]] = [
    {"role": "assistant", "content": "Hello, wörld", "refusal": None, "annotations": []},
    {"role": "assistant", "content": None, "refusal": "No.", "annotations": []},
    {"role": "assistant", "content": "", "refusal": None, "tool_calls": [], "audio": None},
    {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        ],
        "annotations": [],
    },
]


def test_an_answer_can_be_sent_back_as_a_message(client: openai.OpenAI) -> None:
    said = client.chat.completions.create(model="tiny", messages=HI).choices[0].message  # type: ignore[arg-type]
    for message in (said, *map(ChatCompletionMessage.model_validate, SAVED)):
        for form in (message, message.model_dump(), message.to_dict()):
            messages: Any = [*HI, form, *HI]
            again = client.chat.completions.create(model="tiny", messages=messages)
            assert again.choices[0].finish_reason == "stop"
            asked = RESPONDERS["tiny"].requests[-1].messages
            assert asked[1]["content"] == (message.content or message.refusal or "")


@pytest.mark.filterwarnings("ignore:Pydantic serializer")
def test_what_the_client_has_parsed_can_be_sent_back(client: openai.OpenAI) -> None:
    class City(pydantic.BaseModel):
        city: str

    asked: Any = [*HI]
    parsed = client.chat.completions.parse(model="json", messages=asked, response_format=City)
    function = {"name": "f", "arguments": "{}", "parsed_arguments": City(city="Rome")}
    call = {"id": "c", "type": "function", "function": function}
    called = ParsedChatCompletionMessage[None].model_validate(
        {"role": "assistant", "content": None, "tool_calls": [call]}
    )
    said = parsed.choices[0].message
    assert said.parsed == City(city="Paris")
    again = client.chat.completions.create(model="tiny", messages=[*asked, said, called, *HI])
    assert again.choices[0].finish_reason == "stop"
    sent = RESPONDERS["tiny"].requests[-1].messages
    assert sent[1]["content"] == '{"city": "Paris"}'
    assert sent[2]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}


def test_a_client_set_up_for_openai_needs_another_url_and_key_only(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-AbCdEfGh12345678")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj_AbCdEfGh1234567812345678")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with openai.OpenAI(max_retries=0) as client:
        assert client.organization and client.project
        said: Any = client.chat.completions.create(model="tiny", messages=HI)  # type: ignore[arg-type]
        assert said.choices[0].message.content == "Hello, wörld"
    with (
        openai.OpenAI(max_retries=0, project=new_id("proj")) as other,
        pytest.raises(openai.AuthenticationError) as fault,
    ):
        other.chat.completions.create(model="tiny", messages=HI)  # type: ignore[arg-type]
    assert fault.value.code == "mismatched_project"


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
