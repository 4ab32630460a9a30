"""Whatever goes wrong, the answer has OpenAI's error shape, says what to do, and no secrets."""

from __future__ import annotations

import gzip
import json
import logging

import pytest

from bessemer.core.errors import (
    Busy,
    ContextLengthExceeded,
    EngineLoading,
    EngineUnavailable,
    ModelTooLarge,
)
from bessemer.core.ids import new_id
from bessemer.gateway.exchange import MAX_BODY_BYTES
from tests.fakes import FakeResponder, FakeServing
from tests.gateway.calling import (
    CHAT_KEY,
    KEY,
    MESSAGES,
    OTHER_KEY,
    app_of,
    call,
    chat,
)

CHAT = "/v1/chat/completions"
BODY = {"model": "tiny", "messages": MESSAGES}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"nonsense",
        b"[]",
        b"null",
        b'"text"',
        b'{"model": NaN}',
        b'\xef\xbb\xbf{"model": "tiny"}',
        b'{"model": "tiny", "messages": []} trailing',
        b'{"model": "\xff\xfe"}',
        b'{"model": "\xed\xa0\x80"}',
        b'{"model": "\\ud800", "messages": []}',
        b'{"model": "tiny", "messages": ' + b"[" * 100_000,
        b'{"model": "tiny", "tools": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model": "tiny", "tools": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        b'{"model": "tiny", "unknown": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model": "tiny", "messages": [], "seed": ' + b"9" * 5_000 + b"}",
        b'{"model": "tiny", "messages": [], "temperature": 1e999}',
        b'{"model": "tiny", "messages": [], "audio": 1e999}',
        b'{"model": "tiny", "messages": [], "audio": "\\ud800"}',
        b'{"model": "tiny", "messages": [], "audio": "\xff"}',
        "{}".encode("utf-16"),
    ],
    ids=lambda raw: repr(raw[:40]),
)
def test_a_body_that_cannot_be_read_is_a_400(raw: bytes) -> None:
    answer = call(app_of(FakeResponder()), CHAT, raw)
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"


def test_a_missing_field_is_named() -> None:
    answer = call(app_of(FakeResponder()), CHAT, {"messages": MESSAGES})
    assert (answer.status, answer.error["param"]) == (400, "model")
    assert "model" in answer.error["message"]


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("text/plain", 400),
        ("application/x-www-form-urlencoded", 400),
        ("multipart/form-data; boundary=x", 400),
    ],
)
def test_only_json_is_taken(content_type: str, status: int) -> None:
    answer = call(app_of(FakeResponder()), CHAT, BODY, headers={"content-type": content_type})
    assert answer.status == status


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Basic abc", "sk-bsm-x", "Bearer wrong", "Bearer \xe9"],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/models", "/v1/models/tiny"])
def test_without_a_valid_key_nothing_is_answered(header: str | None, path: str) -> None:
    responder = FakeResponder()
    headers = {} if header is None else {"authorization": header}
    method = "GET" if "models" in path else "POST"
    answer = call(app_of(responder), path, BODY, method=method, key=None, headers=headers)
    assert answer.status == 401
    assert answer.error["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert responder.requests == []


@pytest.mark.parametrize(
    ("project", "status"),
    [
        ("proj_abc123DEF456ghi789JKL012", 200),  # OpenAI's, which who moves still has set
        ("proj_01jd3k5v8w2x4y6z8a0c2e4g6", 200),  # nearly one of ours, and none
        ("p1", 200),
        ("", 200),
        ("research", 200),
        ("project_default", 401),
        (new_id("proj"), 401),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", "/v1/models"])
def test_a_key_acts_in_no_other_project_of_ours_than_asked(
    project: str, status: int, path: str
) -> None:
    responder = FakeResponder()
    headers = {"openai-organization": "org-abc123", "openai-project": project}
    method = "GET" if path == "/v1/models" else "POST"
    body = {"model": "tiny", "input": "x"} if path == "/v1/embeddings" else BODY
    answer = call(app_of(responder), path, body, method=method, headers=headers)
    assert (answer.status == 401) == (status == 401)
    if status == 401:
        assert (answer.error["code"], responder.requests) == ("mismatched_project", [])
        assert answer.error["type"] == "invalid_request_error"
        assert "'p1'" in answer.error["message"] and project in answer.error["message"]


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/embeddings"])
def test_a_packed_body_is_refused_in_plain_words(path: str) -> None:
    packed = gzip.compress(json.dumps(BODY).encode())
    for encoding in ("gzip", "GZIP", "br", "zstd", "identity, gzip"):
        answer = call(app_of(FakeResponder()), path, packed, headers={"content-encoding": encoding})
        assert (answer.status, answer.error["code"]) == (415, "unsupported_encoding")
        assert repr(encoding) in answer.error["message"]
    for encoding in ("identity", " Identity ", ""):
        headers = {"content-encoding": encoding}
        assert call(app_of(FakeResponder()), CHAT, BODY, headers=headers).status == 200


def test_the_key_is_asked_for_before_the_body_is_read() -> None:
    assert call(app_of(FakeResponder()), CHAT, b"nonsense", key=None).status == 401


def test_a_key_without_the_scope_is_refused() -> None:
    answer = call(app_of(FakeResponder()), "/v1/models", method="GET", key=CHAT_KEY)
    assert answer.status == 403
    assert answer.error["code"] == "permission_denied"
    assert "models:read" in answer.error["message"]


def test_a_key_reaches_only_its_own_projects_models() -> None:
    own, foreign = FakeResponder(["own"]), FakeResponder(["foreign"])
    serving = FakeServing({}, private={"p1": {"m": own}, "p2": {"m": foreign, "n": foreign}})
    app = app_of(serving)
    for key, said in [(KEY, "own"), (OTHER_KEY, "foreign")]:
        answer = call(app, CHAT, {**BODY, "model": "m"}, key=key)
        assert answer.json()["choices"][0]["message"]["content"] == said
    unseen = call(app, CHAT, {**BODY, "model": "n"}, key=KEY)
    unknown = call(app, CHAT, {**BODY, "model": "x"}, key=KEY)
    assert (unseen.status, unknown.status) == (404, 404)
    assert unseen.body.replace(b"`n`", b"`x`") == unknown.body
    listed = call(app, "/v1/models", method="GET", key=OTHER_KEY).json()["data"]
    assert [model["id"] for model in listed] == ["m", "n"]
    assert call(app, "/v1/models/n", method="GET", key=KEY).status == 404


def test_an_unknown_model_is_openais_404() -> None:
    answer = chat(app_of(FakeResponder()), model="nope")
    assert answer.status == 404
    assert (answer.error["code"], answer.error["param"]) == ("model_not_found", "model")


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/", "/v1/nope", "/v1/chat/completions/", "/v2/x"])
def test_an_unknown_url_is_a_404_with_or_without_a_key(path: str) -> None:
    for key in (KEY, None):
        answer = call(app_of(FakeResponder()), path, method="GET", key=key)
        assert (answer.status, answer.error["code"]) == (404, "unknown_url")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", CHAT, "POST"),
        ("DELETE", "/v1/completions", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("PUT", "/v1/models/tiny", "GET, HEAD, DELETE"),
        ("POST", "/healthz", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_a_405_that_says_which_is_right(
    method: str, path: str, allowed: str
) -> None:
    answer = call(app_of(FakeResponder()), path, method=method)
    assert answer.status == 405
    assert answer.headers["allow"] == allowed
    assert allowed in answer.error["message"]


@pytest.mark.parametrize(
    "path",
    ["/v1/assistants/a/files", "/v1/threads", "/v1/threads/t/x/y", "/v1/chatkit", "/v1/videos"],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_all_of_a_retired_resource_says_what_replaces_it(method: str, path: str) -> None:
    answer = call(app_of(FakeResponder()), path, method=method)
    assert (answer.status, answer.error["code"]) == (404, "retired")
    assert ("/v1/responses" in answer.error["message"]) is not path.endswith("videos")


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", CHAT), ("POST", "/v1/embeddings"), ("GET", "/v1/models"), ("GET", "/v1/models/tiny")],
)
def test_a_query_that_nothing_reads_is_refused_by_name(method: str, path: str) -> None:
    answer = call(app_of(FakeResponder()), f"{path}?limit=1", method=method)
    assert (answer.status, answer.error["param"]) == (400, "limit")
    assert answer.error["code"] == "unknown_parameter"


def test_other_paths_go_to_the_other_application_and_ours_do_not() -> None:
    async def other(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    app = app_of(FakeResponder(), other)
    assert [call(app, path).status for path in ("/", "/chat", "/v1x")] == [299] * 3
    assert [call(app, path).status for path in ("/v1", "/v1/", "/v1/x")] == [404] * 3
    assert call(app, "/healthz", method="GET").status == 200


def test_a_body_that_announces_too_much_is_refused_unread() -> None:
    headers = {"content-length": str(MAX_BODY_BYTES + 1)}
    answer = call(app_of(FakeResponder()), CHAT, BODY, headers=headers)
    assert (answer.status, answer.error["code"]) == (413, "payload_too_large")
    assert f"{MAX_BODY_BYTES:,}" in answer.error["message"]


def test_a_body_that_grows_too_large_unannounced_is_refused() -> None:
    piece = b" " * 1_000_000
    assert call(app_of(FakeResponder()), CHAT, [piece] * 11).status == 413


def test_a_body_just_within_the_limit_is_taken() -> None:
    body = b'{"model": "tiny", "messages": [{"role": "user", "content": "%s"}]}'
    raw = body % (b"x" * (MAX_BODY_BYTES - len(body) + 2))
    assert len(raw) == MAX_BODY_BYTES
    assert call(app_of(FakeResponder()), CHAT, raw).status == 200


def test_full_is_429_with_a_time_to_come_back() -> None:
    answer = chat(app_of(FakeResponder(error=Busy("32 requests wait", retry_after_s=2.3))))
    assert answer.status == 429
    assert answer.headers["retry-after"] == "3"
    assert answer.error["type"] == "rate_limit_error"
    assert "32 requests" in answer.error["message"]


@pytest.mark.parametrize("fault", [EngineUnavailable("it died"), EngineLoading("it loads")])
@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_cannot_answer_is_503_with_a_time_to_come_back(
    fault: EngineUnavailable, stream: bool
) -> None:
    serving = FakeServing({"tiny": FakeResponder()}, fault=fault)
    answer = chat(app_of(serving), stream=stream)
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.error["code"] == fault.code


def test_a_model_that_never_fits_is_507_and_clients_are_told_not_to_ask_again() -> None:
    fault = ModelTooLarge("m needs 9.00 GB", need_bytes=9_000_000_000)
    answer = chat(app_of(FakeServing({"tiny": FakeResponder()}, fault=fault)))
    assert (answer.status, answer.error["code"]) == (507, "model_too_large")
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers


def test_a_prompt_that_does_not_fit_is_openais_error_and_tells_the_next_step() -> None:
    fault = ContextLengthExceeded(
        "maximum context length is 8 tokens; the prompt has 9 tokens",
        next_step="shorten the prompt",
        param="messages",
    )
    answer = chat(app_of(FakeResponder(error=fault)), stream=True)
    assert answer.status == 400
    assert answer.error["code"] == "context_length_exceeded"
    assert "9 tokens (next: shorten the prompt)" in answer.error["message"]


@pytest.mark.parametrize("n", [1, 3])
def test_an_error_in_the_middle_of_a_stream_is_its_last_event(n: int) -> None:
    responder = FakeResponder(["a", "b"], error=EngineUnavailable("it died"), error_after=1)
    answer = chat(app_of(responder), stream=True, n=n)
    assert answer.status == 200
    *_, last = answer.events()
    assert last["error"]["code"] == "engine_unavailable"
    assert "[DONE]" not in answer.body.decode()
    assert responder.opened == responder.closed


def test_an_unexpected_exception_is_a_500_that_shows_nothing_and_logs_everything(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = chat(app_of(FakeResponder(error=ZeroDivisionError("the inner secret"))))
    assert answer.status == 500
    assert answer.error["type"] == "server_error"
    assert "inner secret" not in answer.body.decode()
    assert "ZeroDivisionError" not in answer.body.decode()
    request_id = answer.headers["x-request-id"]
    assert request_id in answer.error["message"]
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert request_id in record.getMessage()
    assert record.exc_info is not None
    assert "the inner secret" in str(record.exc_info[1])


def test_an_unexpected_exception_in_a_stream_is_its_last_event() -> None:
    answer = chat(app_of(FakeResponder(error=ZeroDivisionError("x"), error_after=1)), stream=True)
    *_, last = answer.events()
    assert last["error"]["type"] == "server_error"
    assert answer.headers["x-request-id"] in last["error"]["message"]


def test_every_answer_has_an_id_of_its_own() -> None:
    app = app_of(FakeResponder())
    answers = [
        chat(app),
        chat(app, stream=True),
        chat(app, model="nope"),
        call(app, CHAT, b"", key=None),
        call(app, "/nope"),
        call(app, "/healthz", method="GET"),
        call(app, "/v1/models", method="GET"),
    ]
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)


def test_no_key_and_no_message_ever_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    private = [{"role": "user", "content": "my private words"}]
    faults = [None, Busy("full", retry_after_s=1), ZeroDivisionError("x")]
    for fault in faults:
        chat(app_of(FakeResponder(error=fault)), messages=private)
    wrong = "sk-bsm-not-quite-right"
    answer = call(app_of(FakeResponder()), CHAT, {"messages": private}, key=wrong)
    assert wrong not in answer.body.decode()
    assert len(caplog.records) > 0
    for text in (KEY, wrong, "my private words"):
        assert text not in caplog.text
