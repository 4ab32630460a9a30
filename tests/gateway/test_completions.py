"""`POST /v1/completions`: bare prompts, in each of their four spellings."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import Completion

from tests.fakes import FakeResponder
from tests.gateway.calling import app_of, complete


def test_a_whole_completion() -> None:
    answer = complete(app_of(FakeResponder(["Hello", " you"])))
    assert answer.status == 200
    body = answer.json()
    Completion.model_validate(body)
    assert body["id"].startswith("cmpl-")
    assert body["choices"] == [
        {"index": 0, "text": "Hello you", "logprobs": None, "finish_reason": "stop"}
    ]
    assert body["usage"]["total_tokens"] == 9


def test_a_stream_of_completions_and_its_usage() -> None:
    app = app_of(FakeResponder(["Hello", " you"]))
    *chunks, done = complete(app, stream=True, stream_options={"include_usage": True}).events()
    assert done == "[DONE]"
    *others, last = chunks
    # The client's type does not know the null that OpenAI sends before the end.
    for chunk in (others[-1], last):
        Completion.model_validate(chunk)
    assert {chunk["choices"][0]["finish_reason"] for chunk in others[:-1]} == {None}
    assert "".join(chunk["choices"][0]["text"] for chunk in others) == "Hello you"
    assert others[-1]["choices"][0]["finish_reason"] == "stop"
    assert [chunk["usage"] for chunk in others] == [None] * len(others)
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 2)


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("one", ["one"]),
        ("", [""]),
        (None, [""]),
        (["one", "two"], ["one", "two"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_a_prompt_is_text_or_ids_one_or_many(prompt: object, asked: list[Any]) -> None:
    responder = FakeResponder()
    answer = complete(app_of(responder), prompt=prompt)
    assert answer.status == 200
    assert [request.prompt for request in responder.requests] == asked
    assert [choice["index"] for choice in answer.json()["choices"]] == list(range(len(asked)))


def test_many_prompts_with_n_choices_each_keep_their_order_and_count_each_prompt_once() -> None:
    responder = FakeResponder(["x"])
    body = complete(app_of(responder), prompt=["a", "b"], n=2, seed=5).json()
    assert [request.prompt for request in responder.requests] == ["a", "a", "b", "b"]
    # What a prompt is answered does not depend on which other prompts were sent along.
    assert [request.sampling.seed for request in responder.requests] == [5, 6, 5, 6]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (14, 4)


def test_the_default_is_sixteen_tokens_as_it_always_was() -> None:
    responder = FakeResponder()
    complete(app_of(responder))
    complete(app_of(responder), max_tokens=100)
    assert [request.max_tokens for request in responder.requests] == [16, 100]


def test_logprobs_are_parallel_lists_with_offsets_in_characters() -> None:
    app = app_of(FakeResponder(["né", "東", "!"]))
    whole = complete(app, logprobs=1).json()["choices"][0]["logprobs"]
    assert whole == {
        "tokens": ["né", "東", "!"],
        "token_logprobs": [-1.0, -1.0, -1.0],
        "top_logprobs": [{"né": -1.0}, {"東": -1.0}, {"!": -1.0}],
        "text_offset": [0, 2, 3],
    }
    *chunks, _ = complete(app, logprobs=1, stream=True).events()
    found = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [offset for part in found if part for offset in part["text_offset"]] == [0, 2, 3]


@pytest.mark.parametrize(("suffix", "asked"), [("end", "end"), ("", None), (None, None)])
def test_a_suffix_is_handed_on(suffix: str | None, asked: str | None) -> None:
    responder = FakeResponder()
    assert complete(app_of(responder), suffix=suffix).status == 200
    assert [request.suffix for request in responder.requests] == [asked]


@pytest.mark.parametrize(
    "fields", [{"echo": False}, {"suffix": None}, {"best_of": 1}, {"user": "me"}]
)
def test_neutral_values_are_accepted(fields: dict[str, object]) -> None:
    assert complete(app_of(FakeResponder()), **fields).status == 200


@pytest.mark.parametrize(
    ("prompt", "part"),
    [
        ([], "an empty list"),
        (["a", 1], "a mixture"),
        ([1, [2]], "a mixture"),
        (["a"] * 129, "129 answers"),
        ({"a": 1}, "got `object`"),
        ([1.5], "got `float`"),
    ],
)
def test_prompts_that_are_none_are_refused(prompt: object, part: str) -> None:
    answer = complete(app_of(FakeResponder()), prompt=prompt)
    assert answer.status == 400
    assert part in answer.error["message"]
    assert answer.error["param"].startswith("prompt")


def test_chats_fields_are_unknown_here() -> None:
    answer = complete(app_of(FakeResponder()), messages=[])
    assert answer.error["message"] == "Unrecognized request argument supplied: messages"
