"""A served model through the official client, and the examples, against real processes."""

from __future__ import annotations

import shlex
from typing import Any

import httpx2
import openai
import pytest

from bessemer.console.chat import Question, Turn, call_of
from tests.tiny.house import Server
from tests.tiny.world import CONTEXT_LENGTH

HI: Any = [{"role": "user", "content": "Where does basice keep difogu?"}]


@pytest.fixture(scope="module")
def client(served: Server) -> openai.OpenAI:
    return served.client()


def ask(client: openai.OpenAI, model: str = "tiny", **more: Any) -> str:
    asked = {"temperature": 0, "max_tokens": 16, **more}
    answer = client.chat.completions.create(model=model, messages=HI, **asked)
    return str(answer.choices[0].message.content)


def test_a_chat_is_answered_with_its_usage(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=HI, max_tokens=8)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 10
    assert 1 <= answer.usage.completion_tokens <= 8
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=HI,
            temperature=0,
            max_tokens=16,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == ask(client)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens <= 16


def test_metrics_tell_what_the_engines_did(served: Server, client: openai.OpenAI) -> None:
    def figure(name: str) -> float:
        text = httpx2.get(f"{served.url.removesuffix('/v1')}/metrics").text
        lines = [line for line in text.splitlines() if line.startswith(f"bessemer_{name}")]
        return sum(float(line.rpartition(" ")[2]) for line in lines if 'model="tiny"' in line)

    names = ("engine_requests_total", "engine_completion_tokens_total", "engine_steps_total")
    before = {name: figure(name) for name in (*names, "first_token_seconds_count")}
    answer = client.chat.completions.create(model="tiny", messages=HI, max_tokens=8)
    assert answer.usage is not None
    assert figure("engine_requests_total") == before["engine_requests_total"] + 1
    drawn = figure("engine_completion_tokens_total") - before["engine_completion_tokens_total"]
    assert answer.usage.completion_tokens <= drawn <= answer.usage.completion_tokens + 1
    assert figure("engine_steps_total") > before["engine_steps_total"]
    assert figure("first_token_seconds_count") == before["first_token_seconds_count"] + 1
    assert figure("engine_kv_budget_tokens") > figure("engine_kv_tokens") > 0


def test_the_chat_pages_verb_asks_in_the_terminal(served: Server) -> None:
    turns = [Turn("system", "Be brief."), Turn("user", 'It\'s "quoted" $HOME')]
    command = call_of(Question("tiny", turns, temperature=0, max_tokens=5)).as_cli()
    assert command is not None
    said = served.house.done(*shlex.split(command)[1:]).json
    assert 1 <= said["completion_tokens"] <= 5


def test_two_models_are_served_beside_each_other(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["other", "tiny"]
    answers = [ask(client, model) for model in ("tiny", "other", "tiny", "other")]
    assert answers[:2] == answers[2:]
    assert answers[0] != answers[1]


def test_the_same_seed_gives_the_same_answer(client: openai.OpenAI) -> None:
    answers = [ask(client, temperature=1.5, seed=seed) for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, max_tokens=CONTEXT_LENGTH)
    assert caught.value.code == "context_length_exceeded"
    assert str(CONTEXT_LENGTH) in caught.value.message


def test_an_unknown_model_and_a_wrong_key_are_told_apart(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        ask(client, "none")
    with pytest.raises(openai.AuthenticationError):
        ask(client.with_options(api_key="sk-bsm-wrong"))
