"""`POST /v1/chat/completions`: what goes in reaches the responder, what comes out is OpenAI's."""

from __future__ import annotations

import time
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from bessemer.core.protocols import Sampling
from tests.fakes import FAKE_DIGEST, FakeResponder
from tests.gateway.calling import Answer, app_of, chat


def chunks_of(answer: Answer) -> list[dict[str, Any]]:
    """The chunks of a stream that ended well, each of them valid for the official client."""
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    *chunks, done = answer.events()
    assert done == "[DONE]"
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    return chunks


def said(chunks: list[dict[str, Any]], index: int = 0) -> str:
    choices = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
    return "".join(choice["delta"].get("content", "") for choice in choices)


def test_a_whole_answer() -> None:
    before = int(time.time())
    answer = chat(app_of(FakeResponder(["Hello", " you"])))
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    ChatCompletion.model_validate(body)
    assert body["id"].startswith("chatcmpl-")
    assert before <= body["created"] <= time.time()
    digits = FAKE_DIGEST.removeprefix("sha256:")[:12]
    assert (body["model"], body["system_fingerprint"]) == ("tiny", f"fp_{digits}")
    assert body["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Hello you",
                "refusal": None,
                "annotations": [],
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 2,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_no_fingerprint_is_invented_for_what_has_no_digest() -> None:
    body = chat(app_of(FakeResponder(model_digest=None))).json()
    assert "system_fingerprint" not in body


def test_a_stream_says_the_role_then_the_text_then_why_it_ended() -> None:
    chunks = chunks_of(chat(app_of(FakeResponder(["Hello", " you"])), stream=True))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    first = {"role": "assistant", "content": "", "refusal": None}
    assert deltas == [first, {"content": "Hello"}, {"content": " you"}, {}]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None, None, None, "stop"]
    assert len({(c["id"], c["created"], c["model"], c["system_fingerprint"]) for c in chunks}) == 1
    assert all("usage" not in chunk for chunk in chunks)


def test_include_usage_adds_a_last_chunk_without_choices_and_null_to_the_others() -> None:
    app = app_of(FakeResponder(["a", "b"]))
    chunks = chunks_of(chat(app, stream=True, stream_options={"include_usage": True}))
    *others, last = chunks
    assert [chunk["usage"] for chunk in others] == [None] * len(others)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 9
    assert said(chunks) == "ab"


def test_stream_options_without_a_stream_are_refused() -> None:
    answer = chat(app_of(FakeResponder()), stream_options={"include_usage": True})
    assert (answer.status, answer.error["param"]) == (400, "stream_options")


@pytest.mark.parametrize("stream", [False, True])
def test_n_choices_are_n_requests_whose_shared_prompt_counts_once(stream: bool) -> None:
    responder = FakeResponder(["x", "y"])
    options = {"stream_options": {"include_usage": True}} if stream else {}
    answer = chat(app_of(responder), n=3, seed=2**63 - 1, stream=stream, **options)
    if stream:
        chunks = chunks_of(answer)
        assert [said(chunks, index) for index in range(3)] == ["xy"] * 3
        usage = chunks[-1]["usage"]
    else:
        choices = answer.json()["choices"]
        assert [(c["index"], c["message"]["content"]) for c in choices] == [
            (index, "xy") for index in range(3)
        ]
        usage = answer.json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (7, 6)
    assert len({request.request_id for request in responder.requests}) == 3
    assert len({request.sampling.seed for request in responder.requests}) == 3
    assert all(-(2**63) <= (r.sampling.seed or 0) < 2**63 for r in responder.requests)
    assert responder.closed == 3


def test_logprobs_have_tokens_bytes_and_alternatives() -> None:
    app = app_of(FakeResponder(["é"]))
    expected = {
        "content": [
            {
                "token": "é",
                "logprob": -1.0,
                "bytes": [195, 169],
                "top_logprobs": [{"token": "é", "logprob": -1.0, "bytes": [195, 169]}],
            }
        ],
        "refusal": None,
    }
    whole = chat(app, logprobs=True, top_logprobs=1).json()
    assert whole["choices"][0]["logprobs"] == expected
    chunks = chunks_of(chat(app, logprobs=True, top_logprobs=1, stream=True))
    assert [c["choices"][0]["logprobs"] for c in chunks] == [None, expected, None]
    bare = chat(app, logprobs=True).json()["choices"][0]["logprobs"]
    assert bare["content"][0]["top_logprobs"] == []


def test_every_parameter_reaches_the_responder() -> None:
    responder = FakeResponder()
    chat(
        app_of(responder), temperature=0.3, top_p=0.8, top_k=40, seed=-5, max_completion_tokens=12,
        stop=["a", "b"], logprobs=True, top_logprobs=20,
    )  # fmt: skip
    (asked,) = responder.requests
    assert asked.sampling == Sampling(temperature=0.3, top_p=0.8, top_k=40, seed=-5)
    assert (asked.max_tokens, list(asked.stop), asked.top_logprobs) == (12, ["a", "b"], 20)
    assert asked.messages == [{"role": "user", "content": "Hi"}]


def test_defaults_are_openais() -> None:
    responder = FakeResponder()
    chat(app_of(responder))
    (asked,) = responder.requests
    assert asked.sampling == Sampling(temperature=1.0, top_p=1.0, top_k=0, seed=None)
    assert (asked.max_tokens, list(asked.stop), asked.top_logprobs) == (None, [], None)


def test_temperature_zero_is_not_mistaken_for_absent() -> None:
    responder = FakeResponder()
    chat(app_of(responder), temperature=0, top_p=0, seed=0)
    assert responder.requests[0].sampling == Sampling(temperature=0, top_p=0, seed=0)


def test_messages_are_text_and_the_developer_speaks_as_system() -> None:
    responder = FakeResponder()
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": text} for text in ("one", " two")]},
        # As the official client sends our own answer back.
        {"role": "assistant", "content": "ok", "refusal": None, "annotations": [], "audio": None,
         "function_call": None, "tool_calls": None},
        {"role": "user", "content": ""},
        # A refusal is what the assistant said, as a text or as parts.
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "assistant", "content": [{"type": "text", "text": "Well, "},
                                          {"type": "refusal", "refusal": "no."}]},
        {"role": "assistant", "content": "yes", "refusal": ""},
        {"role": "user", "content": "Why?", "name": "Ann", "refusal": None},
    ]  # fmt: skip
    assert chat(app_of(responder), messages=messages).status == 200
    assert responder.requests[0].messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one two"},
        {"role": "assistant", "content": "ok"},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": "No."},
        {"role": "assistant", "content": "Well, no."},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "name": "Ann", "content": "Why?"},
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
        {"prediction": {"type": "content", "content": "x"}},
        {"safety_identifier": "x", "prompt_cache_key": "k", "prompt_cache_retention": "24h"},
        {"tools": [], "tool_choice": "none", "functions": [], "function_call": "none"},
        {"parallel_tool_calls": True, "response_format": {"type": "text"}, "modalities": ["text"]},
        {"logit_bias": {}, "presence_penalty": 0, "frequency_penalty": 0.0, "verbosity": "medium"},
        {"service_tier": "default", "reasoning_effort": "none"},
        {"tools": None, "audio": None, "stop": None, "n": None, "temperature": None, "seed": None,
         "max_tokens": None, "stream": None, "stream_options": None, "logit_bias": None},
        {"stop": []},
        {"stream": True, "stream_options": {"include_usage": False, "include_obfuscation": False}},
    ],
)  # fmt: skip
def test_what_cannot_change_the_answer_is_accepted(fields: dict[str, object]) -> None:
    assert chat(app_of(FakeResponder()), **fields).status == 200


def test_sampling_parameters_reach_the_engine() -> None:
    responder = FakeResponder()
    fields = {
        "presence_penalty": 0.5, "frequency_penalty": -2, "repetition_penalty": 1.2,
        "min_p": 0.1, "top_k": 7, "top_p": 0.9, "temperature": 0.3, "seed": 4,
    }  # fmt: skip
    assert chat(app_of(responder), **fields, logit_bias={"256": -100, "7": 2.5}).status == 200
    (asked,) = responder.requests
    assert asked.sampling == Sampling(**fields, logit_bias={256: -100, 7: 2.5})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("web_search_options", {}),
        ("moderation", {"model": "m"}),
        ("reasoning_effort", "high"),
        ("verbosity", "low"),
        ("store", True),
        ("service_tier", "priority"),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(field: str, value: object) -> None:
    responder = FakeResponder()
    answer = chat(app_of(responder), **{field: value})
    assert answer.status == 400
    assert (answer.error["code"], answer.error["param"]) == ("unsupported_parameter", field)
    assert f"'{field}'" in answer.error["message"]
    assert responder.requests == []


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "assistant", "content": "x", "audio": {"id": "a"}}, "messages[0].audio"),
        ({"role": "user", "content": [{"type": "refusal", "refusal": "x"}]},
         "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
         "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "text", "text": "x", "file": {}}]},
         "messages[0].content[0].file"),
    ],
)  # fmt: skip
def test_messages_that_need_more_than_text_are_refused_by_place(
    message: dict[str, object], param: str
) -> None:
    answer = chat(app_of(FakeResponder()), messages=[message])
    assert answer.status == 400
    assert (answer.error["code"], answer.error["param"]) == ("unsupported_parameter", param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": 3}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}] * 2049}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "refusal": "No."}]}, "messages[0].refusal"),
        ({"messages": [{"role": "assistant", "content": [{"type": "refusal"}]}]},
         "messages[0].content[0].refusal"),
        ({"messages": [{"role": "assistant",
                        "content": [{"type": "refusal", "refusal": "No.", "text": "Yes."}]}]},
         "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]},
         "messages[0].content[0].text"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": "x" * 1001}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"min_p": 1.5}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"word": 1}}, "logit_bias"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}},
         "stream_options.include_obfuscation"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_by_place(fields: dict[str, object], param: str) -> None:
    responder = FakeResponder()
    answer = chat(app_of(responder), **fields)
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["param"] == param
    assert responder.requests == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"mirostat": 2}, "mirostat"),
        ({"best_of": 1}, "best_of"),
        ({"messages": [{"role": "user", "content": "x", "mood": 1}]}, "messages[0].mood"),
        ({"stream": True, "stream_options": {"chunk": 1}}, "stream_options.chunk"),
    ],
)
def test_unknown_fields_are_refused_by_name(fields: dict[str, object], param: str) -> None:
    answer = chat(app_of(FakeResponder()), **fields)
    assert answer.status == 400
    assert answer.error["message"] == f"Unrecognized request argument supplied: {param}"
    assert answer.error["param"] == param


def test_an_answer_without_text_is_still_whole() -> None:
    app = app_of(FakeResponder([]))
    assert chat(app).json()["choices"][0]["message"]["content"] == ""
    assert said(chunks_of(chat(app, stream=True))) == ""
