"""A partner over HTTP, on loopback: our own gateway, and servers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from bessemer.app.partner import Partner, Timeouts
from bessemer.core.errors import (
    BessemerError,
    Busy,
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineUnavailable,
    InvalidInput,
    NotFound,
)
from bessemer.core.protocols import (
    ChatRequest,
    Constraint,
    Delta,
    Sampling,
    ToolCallDelta,
    ToolChoice,
    Usage,
)
from tests.fakes import FakeResponder, FakeServing
from tests.gateway.calling import KEY, app_of, running
from tests.polling import until

HI = [{"role": "user", "content": "Hi"}]


def request(**fields: Any) -> ChatRequest:
    return ChatRequest(**{"request_id": "r", "messages": HI} | fields)


@contextlib.asynccontextmanager
async def partner_over(responder: FakeResponder, **options: Any) -> AsyncIterator[Partner]:
    """A partner that is our own gateway over `responder`."""
    with running(app_of(FakeServing({"m": responder}))) as server:
        fields = {"model": "m", "api_key": KEY} | options
        async with Partner.open(f"{server.url}/v1/", **fields) as partner:
            yield partner


async def deltas_of(partner: Partner, asked: ChatRequest) -> list[Delta]:
    return [delta async for delta in partner.respond(asked)]


async def test_the_answer_is_what_the_responder_over_there_says() -> None:
    responder = FakeResponder(["Hello", ", ", "wörld"])
    async with partner_over(responder) as partner:
        deltas = await deltas_of(partner, request())
        direct = [delta async for delta in responder.respond(request())]
    assert deltas == direct


async def test_what_is_asked_arrives_as_it_was_asked() -> None:
    responder = FakeResponder()
    sampling = Sampling(
        temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, presence_penalty=1, logit_bias={5: 2.0},
        seed=3,
    )  # fmt: skip
    asked = request(sampling=sampling, max_tokens=2, stop=["x"], top_logprobs=2)
    async with partner_over(responder) as partner:
        deltas = await deltas_of(partner, asked)
    (arrived,) = responder.requests
    assert (arrived.sampling, arrived.max_tokens, list(arrived.stop)) == (sampling, 2, ["x"])
    assert deltas[-1].finish_reason == "length"
    assert deltas[0].logprobs is not None
    assert (deltas[0].logprobs[0].token, deltas[0].logprobs[0].logprob) == ("Hello", -1.0)


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    "choice",
    [
        ToolChoice(),
        ToolChoice("none"),
        ToolChoice("required"),
        ToolChoice("required", ["look"]),
        ToolChoice("auto", ["look"]),
    ],
)
async def test_tools_arrive_as_they_were_asked(choice: ToolChoice) -> None:
    responder = FakeResponder()
    asked = request(tools=[TOOL], tool_choice=choice, parallel_tool_calls=False)
    async with partner_over(responder) as partner:
        await deltas_of(partner, asked)
    (arrived,) = responder.requests
    assert (list(arrived.tools), arrived.tool_choice) == ([TOOL], choice)
    assert not arrived.parallel_tool_calls


@pytest.mark.parametrize("prompt", [None, "once"])
@pytest.mark.parametrize(
    "constraint",
    [
        Constraint("json_schema", '{"type":"object"}'),
        Constraint("json_object"),
        Constraint("regex", "a+"),
        Constraint("lark", 'start: "a"'),
        Constraint("choice", '["yes","no"]'),
    ],
)
async def test_a_constraint_arrives_as_it_was_asked(
    constraint: Constraint, prompt: str | None
) -> None:
    responder = FakeResponder()
    messages = HI if prompt is None else ()
    async with partner_over(responder) as partner:
        await deltas_of(partner, request(messages=messages, prompt=prompt, constraint=constraint))
    arrived = responder.requests[0].constraint
    assert arrived is not None
    assert (arrived.kind, arrived.text.replace(" ", "")) == (
        constraint.kind,
        constraint.text.replace(" ", ""),
    )


@pytest.mark.parametrize("prompt", ["once", [5, 6, 7]])
async def test_a_bare_prompt_is_completed(prompt: Any) -> None:
    responder = FakeResponder(["a", "b"])
    asked = request(messages=(), prompt=prompt, max_tokens=16, top_logprobs=1)
    async with partner_over(responder) as partner:
        deltas = await deltas_of(partner, asked)
    assert "".join(delta.text for delta in deltas) == "ab"
    assert responder.requests[0].prompt == prompt
    assert deltas[0].logprobs is not None and deltas[0].logprobs[0].token == "a"
    assert deltas[-1].usage is not None and deltas[-1].usage.completion_tokens == 2


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (Busy("full", retry_after_s=7), Busy, "the partner says: full"),
        (ContextLengthExceeded("8 of 9", param="messages"), ContextLengthExceeded, "8 of 9"),
        (InvalidInput("no", param="stop"), InvalidInput, "the partner says: no"),
        (EngineUnavailable("it died"), EngineUnavailable, "it died.*status 503"),
    ],
)
async def test_a_refusal_is_the_same_error_here(
    fault: BessemerError, error: type[BessemerError], words: str
) -> None:
    async with partner_over(FakeResponder(error=fault)) as partner:
        with pytest.raises(error, match=words) as found:
            await deltas_of(partner, request())
    assert found.value.param == fault.param
    if isinstance(found.value, Busy):
        assert found.value.retry_after_s == 7


async def test_a_model_that_is_not_there_is_not_found_and_a_wrong_key_is_our_fault() -> None:
    async with partner_over(FakeResponder(), model="nope") as partner:
        with pytest.raises(NotFound, match="nope"):
            await deltas_of(partner, request())
    async with partner_over(FakeResponder(), api_key="sk-wrong") as partner:
        with pytest.raises(EngineUnavailable, match="status 401"):
            await deltas_of(partner, request())


async def test_an_answer_that_breaks_off_keeps_what_was_said() -> None:
    responder = FakeResponder(["a", "b"], error=EngineUnavailable("it died"), error_after=1)
    said: list[str] = []
    async with partner_over(responder) as partner:
        with pytest.raises(EngineUnavailable, match="it died"):
            async for delta in partner.respond(request()):
                said.append(delta.text)
    assert said == ["a"]


async def test_closing_the_answer_ends_the_work_over_there() -> None:
    responder = FakeResponder(endless=True)
    async with partner_over(responder) as partner:
        answer = partner.respond(request())
        await anext(answer)
        await answer.aclose()
        await asyncio.to_thread(until, lambda: responder.closed == 1, "the partner is told")


async def test_silence_is_not_waited_for_forever() -> None:
    responder = FakeResponder(hold_after=1)
    async with partner_over(responder, timeouts=Timeouts(silence_s=0.2)) as partner:
        with pytest.raises(EngineUnavailable, match="did not answer in time"):
            await deltas_of(partner, request())


async def test_a_request_to_a_partner_ends_when_its_time_has_passed() -> None:
    responder = FakeResponder(hold_after=1)
    async with partner_over(responder) as partner:
        with pytest.raises(DeadlineExceeded, match=r"0\.2 s were given"):
            await deltas_of(partner, request(deadline_s=0.2))


@pytest.mark.parametrize("field", [{"echo": True}, {"prompt_logprobs": 0}])
async def test_what_not_every_partner_knows_is_refused(field: dict[str, Any]) -> None:
    async with partner_over(FakeResponder()) as partner:
        with pytest.raises(InvalidInput, match=next(iter(field))):
            await deltas_of(partner, request(**field))


async def test_nobody_at_the_address() -> None:
    async with Partner.open("http://127.0.0.1:9/v1", "m") as partner:
        with pytest.raises(EngineUnavailable, match="cannot be reached"):
            await deltas_of(partner, request())


def _raw(*lines: str) -> Callable[..., Any]:
    """An ASGI application that sends these lines, each in a chunk of its own."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await _say(send, 200, *lines)

    return app


async def _say(send: Any, status: int, *lines: str) -> None:
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for line in lines:
        await send({"type": "http.response.body", "body": line.encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _newest(asked: list[Any], *lines: str) -> Callable[..., Any]:
    """As OpenAI answers for its models that reason; `asked` are the bodies that it was sent."""
    words = "is not supported with this model. Use 'max_completion_tokens' instead."
    error = {"message": f"Unsupported parameter: 'max_tokens' {words}", "param": "max_tokens"}
    refusal = msgspec.json.encode({"error": error | {"code": "unsupported_parameter"}}).decode()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(body := msgspec.json.decode((await receive())["body"]))
        await (_say(send, 400, refusal) if "max_tokens" in body else _say(send, 200, *lines))

    return app


SAID = '{"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}'
LAST = '{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
COUNTS = '{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}'


async def events_of(*lines: str) -> list[Delta]:
    with running(_raw(*lines)) as server:
        async with Partner.open(f"{server.url}/v1", "m") as partner:
            return await deltas_of(partner, request())


async def test_events_in_any_pieces_with_comments_and_other_line_ends() -> None:
    said = "".join(f"data: {text}\r\n\r\n" for text in (SAID, LAST, COUNTS)) + "data: [DONE]\n\n"
    deltas = await events_of(": keep-alive\n\n", *said)
    assert [delta.text for delta in deltas] == ["hi", ""]
    assert deltas[-1].usage is not None and deltas[-1].usage.prompt_tokens == 3


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([SAID], "before it was whole"),
        ([SAID, LAST], "did not say how many tokens"),
        (["<html>"], "no JSON object: '<html>'"),
        (["[1]"], "no JSON object"),
    ],
)
async def test_what_is_no_whole_answer_is_none(lines: list[str], words: str) -> None:
    with pytest.raises(EngineUnavailable, match=words):
        await events_of(*(f"data: {line}\n\n" for line in lines))


async def test_a_limit_is_told_by_the_name_that_the_partner_takes() -> None:
    asked: list[Any] = []
    lines = [f"data: {text}\n\n" for text in (SAID, LAST, COUNTS)]
    with running(_newest(asked, *lines)) as server:
        async with Partner.open(f"{server.url}/v1", "m") as partner:
            for _ in range(2):
                deltas = await deltas_of(partner, request(max_tokens=9))
                assert deltas[0].text == "hi"
            bare = request(messages=(), prompt="once", max_tokens=9)
            with pytest.raises(InvalidInput, match="not supported with this model"):
                await deltas_of(partner, bare)
    limits = [(body.get("max_tokens"), body.get("max_completion_tokens")) for body in asked]
    assert limits == [(9, None), (None, 9), (None, 9), (9, None)], "and it is remembered"


@pytest.mark.parametrize(
    ("part", "most"), [("prompt_tokens", 3), ("completion_tokens", 8)], ids=["cached", "reasoning"]
)
@pytest.mark.parametrize("told", [2, None, 99])
async def test_of_what_was_read_and_written_no_more_is_cached_or_thought(
    part: str, most: int, told: int | None
) -> None:
    field = "cached_tokens" if part == "prompt_tokens" else "reasoning_tokens"
    usage = {"prompt_tokens": 3, "completion_tokens": 8, f"{part}_details": {field: told}}
    last = msgspec.json.encode({"choices": [], "usage": usage}).decode()
    deltas = await events_of(*(f"data: {line}\n\n" for line in (SAID, LAST, last)))
    counted: Any = {field: min(told or 0, most)}
    assert deltas[-1].usage == Usage(prompt_tokens=3, completion_tokens=8, **counted)


@pytest.mark.parametrize(
    "usage",
    [
        {"completion_tokens": 8},
        {"prompt_tokens": None},
        {"prompt_tokens": "3"},
        {"prompt_tokens": 3, "completion_tokens": -5},
        {"prompt_tokens": 10**13},
        {"prompt_tokens": 3, "completion_tokens_details": {"reasoning_tokens": -4}},
        [3, 8],
    ],
)
async def test_impossible_counts_are_a_fault_of_the_partner(usage: Any) -> None:
    last = msgspec.json.encode({"choices": [], "usage": usage}).decode()
    with pytest.raises(EngineUnavailable, match="counted tokens as nobody can"):
        await events_of(*(f"data: {line}\n\n" for line in (SAID, LAST, last)))


CALL = (
    '{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_1","type":"function",'
    '"function":{"name":"look","arguments":""}}]},"finish_reason":null}]}'
)
MORE = (
    '{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]},'
    '"finish_reason":"tool_calls"}]}'
)


async def test_calls_come_in_their_pieces() -> None:
    deltas = await events_of(*(f"data: {line}\n\n" for line in (CALL, MORE, COUNTS)))
    calls = [call for delta in deltas for call in delta.tool_calls]
    assert calls == [ToolCallDelta(0, "call_1", "look", ""), ToolCallDelta(0, None, None, "{}")]
    assert deltas[-1].finish_reason == "tool_calls"
