"""`functions` and `function_call`, as older code has them, through the official client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Any

import openai
import pytest

from bessemer.core.protocols import ChatRequest, Delta, ToolCallDelta, ToolChoice, Usage
from tests.fakes import FakeResponder, FakeServing
from tests.gateway import specification
from tests.gateway.calling import KEY, MESSAGES, app_of, chat, running

GET: Any = {"name": "get", "description": "d", "parameters": {"type": "object"}}
PUT: Any = {"name": "put"}
TOOLS = [{"type": "function", "function": GET}, {"type": "function", "function": PUT}]


class Calls(FakeResponder):
    """Calls `get`, in pieces; after a result it says it."""

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        self.requests.append(request)
        last = request.messages[-1]
        if last["role"] == "tool":
            yield Delta(text=f"It is {last['content']}.")
            yield Delta(finish_reason="stop", usage=Usage(prompt_tokens=9, completion_tokens=2))
            return
        yield Delta(tool_calls=[ToolCallDelta(0, "call_x", "get")])
        yield Delta(tool_calls=[ToolCallDelta(0, arguments='{"a"')])
        yield Delta(tool_calls=[ToolCallDelta(0, arguments=": 1}")])
        usage = Usage(prompt_tokens=7, completion_tokens=4)
        yield Delta(finish_reason="tool_calls", usage=usage)


@pytest.fixture
def model() -> Calls:
    return Calls()


@pytest.fixture
def client(model: Calls) -> Iterator[openai.OpenAI]:
    with running(app_of(FakeServing({"tiny": model}))) as server:
        yield openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)


def ask(client: openai.OpenAI, messages: Any = MESSAGES, **fields: Any) -> Any:
    return client.chat.completions.create(
        model="tiny", messages=messages, functions=[GET, PUT], **fields
    )


def test_a_function_is_called_in_the_old_form_and_its_result_read(
    client: openai.OpenAI, model: Calls
) -> None:
    answer = ask(client)
    specification.check("CreateChatCompletionResponse", answer.to_dict())
    (choice,) = answer.choices
    assert choice.finish_reason == "function_call"
    assert choice.message.function_call.to_dict() == {"name": "get", "arguments": '{"a": 1}'}
    assert (choice.message.content, choice.message.tool_calls) == (None, None)
    assert model.requests[0].tools == TOOLS
    assert not model.requests[0].parallel_tool_calls, "there is a place for one call"
    result = {"role": "function", "name": "get", "content": "sunny"}
    after = ask(client, [*MESSAGES, choice.message, result])
    assert after.choices[0].message.content == "It is sunny."
    called, told = model.requests[1].messages[-2:]
    assert called["tool_calls"][0]["function"] == {"name": "get", "arguments": '{"a": 1}'}
    assert told["tool_call_id"] == called["tool_calls"][0]["id"]


def test_a_stream_tells_the_call_in_pieces(client: openai.OpenAI) -> None:
    chunks = list(ask(client, stream=True))
    pieces = [c.choices[0].delta.function_call for c in chunks if c.choices[0].delta.function_call]
    assert pieces[0].name == "get"
    assert "".join(piece.arguments for piece in pieces) == '{"a": 1}'
    assert all(chunk.choices[0].delta.tool_calls is None for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "function_call"


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (None, ToolChoice("auto")),
        ("auto", ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ({"name": "put"}, ToolChoice("required", ["put"])),
    ],
)
def test_choices(sent: Any, meant: ToolChoice) -> None:
    model = FakeResponder()
    assert chat(app_of(model), functions=[GET, PUT], function_call=sent).status == 200
    assert model.requests[0].tool_choice == meant


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": [GET], "tools": TOOLS}, "functions"),
        ({"functions": [GET, GET]}, "functions[1].function.name"),
        ({"functions": [GET], "function_call": {"name": "put"}}, "function_call"),
        ({"functions": [GET], "function_call": "required"}, "function_call"),
        ({"function_call": "auto"}, "function_call"),
        ({"messages": [*MESSAGES, {"role": "function", "content": "x"}]}, "messages[1].name"),
        (
            {"messages": [*MESSAGES, {"role": "function", "name": "get", "content": "x"}]},
            "messages[1].tool_call_id",
        ),
        (
            {"messages": [{"role": "user", "function_call": {"name": "get", "arguments": "{}"}}]},
            "messages[0].function_call",
        ),
    ],
)
def test_what_makes_no_sense_is_named(fields: dict[str, Any], param: str) -> None:
    answer = chat(app_of(FakeResponder()), **fields)
    assert (answer.status, answer.error["param"]) == (400, param), answer
