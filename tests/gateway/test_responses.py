"""`/v1/responses` through the official client and by hand: whole, streamed, continued, refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest
from openai.types.responses import Response, ResponseOutputMessage, ResponseStreamEvent

from bessemer.app.platform import Platform
from bessemer.app.prompt_size import PromptSize
from bessemer.core.errors import ContextLengthExceeded, EngineUnavailable
from bessemer.core.home import Home
from bessemer.core.protocols import ChatRequest, Delta, ToolCallDelta, Usage
from bessemer.gateway.asgi import build
from bessemer.gateway.exchange import ASGIApp
from bessemer.gateway.resources import resource_routes
from tests.fakes import FakeResponder, FakeServing
from tests.gateway import specification
from tests.gateway.calling import KEY, OTHER_KEY, Answer, FakeKeyRing, Running, call, running

LOOK = {
    "type": "function",
    "name": "look",
    "description": "See.",
    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
}
CALLS = [
    Delta(text="Let me see."),
    Delta(tool_calls=[ToolCallDelta(0, "call_a", "look")]),
    Delta(tool_calls=[ToolCallDelta(0, arguments='{"at": ')]),
    Delta(tool_calls=[ToolCallDelta(0, arguments='"Paris"}')]),
    Delta(tool_calls=[ToolCallDelta(1, "call_b", "look", "{}")]),
    Delta(finish_reason="tool_calls", usage=Usage(prompt_tokens=9, completion_tokens=6)),
]
EVENTS: pydantic.TypeAdapter[ResponseStreamEvent] = pydantic.TypeAdapter(ResponseStreamEvent)


class Caller(FakeResponder):
    """Says these deltas, unless the last message is a result: then it says it."""

    def __init__(self, deltas: Sequence[Delta] = CALLS) -> None:
        super().__init__()
        self._deltas = deltas

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        self.requests.append(request)
        last = request.messages[-1]
        if last["role"] == "tool":
            yield Delta(text=f"It is {last['content']}.")
            yield Delta(finish_reason="stop", usage=Usage(prompt_tokens=20, completion_tokens=4))
            return
        for delta in self._deltas:
            yield delta


class Counter(FakeResponder):
    """A model whose every character is a token, with room for 60."""

    async def prompt_size(self, request: ChatRequest) -> PromptSize:
        tokens = sum(len(message["content"]) for message in request.messages)
        if tokens > 1000:
            raise ContextLengthExceeded("at least 1000", prompt_tokens=1000)
        return PromptSize(tokens, 60)

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        size = await self.prompt_size(request)
        if size.tokens + (request.max_tokens or 1) > 60:
            raise ContextLengthExceeded(f"{size.tokens} tokens and room for 60", param="messages")
        async for delta in super().respond(request):
            yield delta


@pytest.fixture
def serving() -> FakeServing:
    return FakeServing(
        {
            "tiny": FakeResponder(["Hello", ", ", "wörld"]),
            "caller": Caller(),
            "counter": Counter(["ok"]),
            "dies": FakeResponder(["a", "b"], error=EngineUnavailable("it died"), error_after=1),
            "dead": FakeResponder(error=EngineUnavailable("it died")),
            "json": FakeResponder(['{"city": "Paris"}']),
        }
    )


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with Platform.open(Home(tmp_path / "home")) as found:
        yield found


@pytest.fixture
def app(platform: Platform, serving: FakeServing) -> ASGIApp:
    return build(serving, FakeKeyRing(), routes=resource_routes(platform, serving=serving))


@pytest.fixture
def server(app: ASGIApp) -> Iterator[Running]:
    with running(app) as found:
        yield found


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as found:
        yield found


def respond(app: ASGIApp, **fields: object) -> Answer:
    return call(app, "/v1/responses", {"model": "tiny", "input": "Hi", **fields})


def events_of(answer: Answer) -> list[dict[str, Any]]:
    """The events, each held against the client's types and the specification."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in answer.body.decode().removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENTS.validate_python(event)
        specification.check("ResponseStreamEvent", event)
        found.append(event)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def test_a_whole_response_is_what_the_client_and_the_specification_say(
    app: ASGIApp, serving: FakeServing
) -> None:
    answer = respond(
        app, instructions="Be brief.", tools=[LOOK], metadata={"a": "b"}, max_output_tokens=20,
        temperature=0.5, user="me", prompt_cache_key="k", reasoning={"effort": "none"},
        text={"format": {"type": "text"}, "verbosity": "medium"},
    )  # fmt: skip
    body = answer.json()
    specification.check("Response", body)
    whole = Response.model_validate(body)
    assert whole.output_text == "Hello, wörld"
    assert (whole.status, whole.metadata, whole.temperature) == ("completed", {"a": "b"}, 0.5)
    assert whole.usage is not None and whole.usage.total_tokens == 10
    assert whole.id == "resp_" + answer.headers["x-request-id"].removeprefix("req_")
    (request,) = serving._responders["tiny"].requests
    assert [m["role"] for m in request.messages] == ["system", "user"]
    assert (request.max_tokens, request.sampling.temperature) == (20, 0.5)
    assert request.tools[0]["function"]["name"] == "look"


def test_a_response_tells_what_its_model_thought_and_did_not_say(platform: Platform) -> None:
    thinking = FakeServing({"tiny": FakeResponder(reasoning_tokens=5)})
    routes = resource_routes(platform, serving=thinking)
    usage = respond(build(thinking, FakeKeyRing(), routes=routes)).json()["usage"]
    assert usage["output_tokens_details"] == {"reasoning_tokens": 5}
    assert (usage["output_tokens"], usage["total_tokens"]) == (8, 15)


def test_the_events_of_a_message_come_in_order(app: ASGIApp) -> None:
    events = events_of(respond(app, stream=True))
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created", "in_progress", "output_item.added", "content_part.added",
        "output_text.delta", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    last = events[-1]["response"]
    assert last["output"][0] == events[-2]["item"]
    assert last["output"][0]["content"][0] == events[-3]["part"]
    assert events[-4]["text"] == "".join(e["delta"] for e in events[4:7]) == "Hello, wörld"


def test_the_events_of_parallel_calls_come_in_order(app: ASGIApp) -> None:
    events = events_of(respond(app, model="caller", tools=[LOOK], stream=True))
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.done",
        "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]  # fmt: skip
    said, first, second = events[-1]["response"]["output"]
    assert said["content"][0]["text"] == "Let me see."
    assert (first["call_id"], json.loads(first["arguments"])) == ("call_a", {"at": "Paris"})
    assert (second["call_id"], second["status"]) == ("call_b", "completed")


def test_an_answer_that_is_cut_is_incomplete_and_says_why(
    app: ASGIApp, serving: FakeServing
) -> None:
    serving._responders["long"] = FakeResponder(["word "] * 40)
    body = respond(app, model="long", max_output_tokens=16).json()
    specification.check("Response", body)
    assert (body["status"], body["completed_at"]) == ("incomplete", None)
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert body["output"][0]["status"] == "incomplete"
    events = events_of(respond(app, model="long", max_output_tokens=16, stream=True))
    assert events[-1]["type"] == "response.incomplete"


def test_an_engine_that_dies_is_an_error_before_and_a_failed_response_after(app: ASGIApp) -> None:
    for stream in (False, True):
        assert respond(app, model="dead", stream=stream).status == 503
    assert respond(app, model="dies").status == 503
    events = events_of(respond(app, model="dies", stream=True))
    assert events[-1]["type"] == "response.failed"
    failed = events[-1]["response"]
    assert failed["error"] == {"code": "server_error", "message": "it died"}
    assert failed["output"][0]["content"][0]["text"] == "a"
    again = call(app, f"/v1/responses/{failed['id']}", method="GET")
    assert again.json() == failed


def test_log_probabilities_come_where_they_are_included(app: ASGIApp) -> None:
    wanted = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    (item,) = respond(app, **wanted).json()["output"]
    probs = item["content"][0]["logprobs"]
    assert [p["token"] for p in probs] == ["Hello", ", ", "wörld"]
    assert probs[0]["top_logprobs"][0]["logprob"] == -1.0
    events = events_of(respond(app, **wanted, stream=True))
    assert [e["logprobs"][0]["token"] for e in events[4:7]] == ["Hello", ", ", "wörld"]


def test_tools_go_round_with_previous_response_id(
    client: openai.OpenAI, serving: FakeServing
) -> None:
    first = client.responses.create(model="caller", input="Weather?", tools=[LOOK])  # type: ignore[list-item]
    calls = [item for item in first.output if item.type == "function_call"]
    assert [c.call_id for c in calls] == ["call_a", "call_b"]
    second = client.responses.create(
        model="caller",
        previous_response_id=first.id,
        input=[
            {"type": "function_call_output", "call_id": c.call_id, "output": "sunny"} for c in calls
        ],
    )
    assert second.output_text == "It is sunny."
    assert second.previous_response_id == first.id
    sent = serving._responders["caller"].requests[-1].messages
    assert [m["role"] for m in sent] == ["user", "assistant", "tool", "tool"]
    assert sent[1]["content"] == "Let me see." and len(sent[1]["tool_calls"]) == 2
    third = client.responses.create(model="tiny", previous_response_id=second.id, input="Thanks")
    sent = serving._responders["tiny"].requests[-1].messages
    assert [m["content"] for m in sent][-2:] == ["It is sunny.", "Thanks"]
    assert [i.role for i in client.responses.input_items.list(third.id)] == ["user"]  # type: ignore[union-attr]


def test_the_same_without_a_store_by_sending_everything_again(
    client: openai.OpenAI, serving: FakeServing
) -> None:
    first = client.responses.create(model="caller", input="Weather?", tools=[LOOK], store=False)  # type: ignore[list-item]
    given: list[Any] = [{"role": "user", "content": "Weather?"}, *first.output]
    given += [
        {"type": "function_call_output", "call_id": item.call_id, "output": "cold"}
        for item in first.output
        if item.type == "function_call"
    ]
    second = client.responses.create(model="caller", input=given, store=False)
    assert second.output_text == "It is cold."
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def test_output_is_taken_as_input_as_it_is(client: openai.OpenAI, serving: FakeServing) -> None:
    class City(pydantic.BaseModel):
        city: str

    asked: Any = [{"role": "user", "content": "Weather?"}]
    tools: Any = [LOOK]
    include: Any = ["message.output_text.logprobs"]
    called = client.responses.create(model="caller", input=asked, tools=tools, include=include)
    parsed = client.responses.parse(model="json", input="Where?", text_format=City)
    # As OpenAI's server answers: what it refuses, fields that are null, lists that are empty.
    said = {
        "id": "msg_67ccd2bf17f0819081ff3bb2cf6508e60bb6a6b452d3795b",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "phase": None,
        "content": [
            {"type": "output_text", "text": "Hm. ", "annotations": [], "logprobs": []},
            {"type": "refusal", "refusal": "No."},
        ],
    }
    refused = ResponseOutputMessage.model_validate(said)
    message = {"role": "assistant", "content": [{"type": "output_text", "text": "Yes",
               "annotations": [], "logprobs": None}]}  # fmt: skip
    texts = ["Weather?", "Let me see.", '{"city": "Paris"}', "Hm. No.", "Yes"]
    output: Any = [*called.output, *parsed.output, refused]
    dumped = [item.model_dump() for item in [*called.output, refused]]
    plain = [item.to_dict() for item in output]
    for sent in (output, dumped, plain):
        client.responses.create(model="tiny", input=[*asked, *sent, message])
        messages = serving._responders["tiny"].requests[-1].messages
        assert [m["content"] for m in messages] == [
            text for text in texts if sent is not dumped or "Paris" not in text
        ]
        assert len(messages[1]["tool_calls"]) == 2
    kept = client.responses.input_items.list(
        client.responses.create(model="tiny", input=[refused]).id  # type: ignore[list-item]
    )
    specification.check("ItemResource", kept.data[0].to_dict())


def test_an_item_can_be_referred_to_by_its_id(client: openai.OpenAI, serving: FakeServing) -> None:
    first = client.responses.create(model="tiny", input="Hi")
    client.responses.create(
        model="tiny",
        input=[
            {"type": "item_reference", "id": first.output[0].id or ""},
            {"role": "user", "content": "And?"},
        ],
    )
    sent = serving._responders["tiny"].requests[-1].messages
    assert [m["content"] for m in sent] == ["Hello, wörld", "And?"]


def test_get_list_and_delete(client: openai.OpenAI) -> None:
    made = client.responses.create(
        model="tiny", input=[{"role": "user", "content": text} for text in "abcde"]
    )
    assert client.responses.retrieve(made.id).to_dict() == made.to_dict()
    listed = list(client.responses.input_items.list(made.id, limit=2, order="asc"))
    assert [item.content[0].text for item in listed] == list("abcde")  # type: ignore[union-attr]
    for item in listed:
        specification.check("ItemResource", item.to_dict())
    newest = client.responses.input_items.list(made.id, limit=2)
    assert [item.content[0].text for item in newest.data] == ["e", "d"]  # type: ignore[union-attr]
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_the_clients_helpers_stream_and_parse(client: openai.OpenAI) -> None:
    class City(pydantic.BaseModel):
        city: str

    parsed = client.responses.parse(model="json", input="Where?", text_format=City)
    assert parsed.output_parsed == City(city="Paris")
    with client.responses.stream(model="json", input="Where?", text_format=City) as stream:
        texts = [e.delta for e in stream if e.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(texts) == '{"city": "Paris"}' and final.output_parsed == City(city="Paris")


def test_the_schema_reaches_the_engine_and_comes_back(app: ASGIApp, serving: FakeServing) -> None:
    form = {"type": "json_schema", "name": "c", "schema": {"type": "object"}, "strict": True}
    body = respond(app, model="json", text={"format": form}).json()
    specification.check("Response", body)
    assert body["text"]["format"] == form
    constraint = serving._responders["json"].requests[0].constraint
    assert constraint is not None and json.loads(constraint.text) == {"type": "object"}
    assert constraint.param == "text.format"


def test_many_asynchronous_streams_at_once(server: Running) -> None:
    async def ask(client: openai.AsyncOpenAI) -> str:
        async with client.responses.stream(model="tiny", input="Hi") as stream:
            return (await stream.get_final_response()).output_text

    async def run() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY) as client:
            return await asyncio.gather(*(ask(client) for _ in range(20)))

    assert asyncio.run(run()) == ["Hello, wörld"] * 20


def test_another_project_sees_nothing(app: ASGIApp) -> None:
    body = respond(app).json()
    one = f"/v1/responses/{body['id']}"
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
        assert call(app, one + path, method=method, key=OTHER_KEY).status == 404
        assert call(app, one + path, method=method, key=None).status == 401
    for field in ({"previous_response_id": body["id"]}, {"conversation": "conv_none"}):
        other = {"model": "tiny", "input": "Hi", **field}
        assert call(app, "/v1/responses", other, key=OTHER_KEY).status == 404
    reference = [{"type": "item_reference", "id": body["output"][0]["id"]}]
    other = {"model": "tiny", "input": reference}
    assert call(app, "/v1/responses", other, key=OTHER_KEY).status == 404
    assert call(app, one, method="GET").status == 200


def test_tokens_are_counted_by_the_model(client: openai.OpenAI) -> None:
    counted = client.responses.input_tokens.count(
        model="counter", input="12345", instructions="123"
    )
    assert counted.input_tokens == 8
    specification.check("TokenCountsResource", counted.to_dict())
    with pytest.raises(openai.BadRequestError, match="cannot be counted"):
        client.responses.input_tokens.count(model="tiny", input="Hi")


def test_what_does_not_fit_is_the_fault_of_the_input(app: ASGIApp) -> None:
    for stream in (False, True):
        answer = respond(app, model="counter", input="1" * 100, stream=stream)
        assert (answer.status, answer.error["param"]) == (400, "input")
        assert answer.error["code"] == "context_length_exceeded"


def test_truncation_drops_the_oldest_turns_and_says_which(
    app: ASGIApp, serving: FakeServing
) -> None:
    turns = [
        {"role": "developer", "content": "12345"},
        {"role": "user", "content": "a" * 20},
        {"role": "assistant", "content": "b" * 5},
        {"role": "user", "content": "c" * 20},
        {"role": "user", "content": "d" * 10},
    ]
    assert respond(app, model="counter", input=turns).status == 400
    body = respond(app, model="counter", input=turns, truncation="auto").json()
    specification.check("Response", body)
    assert [m["content"][0] for m in serving._responders["counter"].requests[-1].messages] == [
        "1", "c", "d",
    ]  # fmt: skip
    listed = call(app, f"/v1/responses/{body['id']}/input_items", method="GET").json()["data"]
    gone = {item["id"] for item in listed if item["content"][0]["text"][0] in "ab"}
    assert set(body["dropped_items"]) == gone and len(gone) == 2
    short = respond(app, model="counter", input="Hi", truncation="auto").json()
    assert short["dropped_items"] == []
    assert respond(app, model="counter", input="x" * 90, truncation="auto").status == 400
    assert respond(app, model="counter", input="x" * 2000, truncation="auto").status == 400


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [LOOK, {"type": "mcp", "server_label": "x"}]}, "tools[1].type"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        ({"tools": [LOOK, LOOK]}, "tools[1].name"),
        ({"tools": [LOOK, {"type": "function", "function": LOOK}]}, "tools[1].function"),
        ({"tools": [{**LOOK, "color": "red"}]}, "tools[0].color"),
        ({"tools": [LOOK], "tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "function", "name": "look"}}, "tool_choice"),
        ({"input": [{"type": "image_generation_call", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
         "input[0].content[0].type"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input"),
        ({"input": [{"type": "message", "role": "king", "content": ""}]}, "input[0].role"),
        ({"input": [{"content": "x"}]}, "input[0].type"),
        ({"input": ["a", {"role": "user"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": "x"}, {"role": "user"}]}, "input[1].content"),
        ({"input": [{"role": "user", "content": "x", "color": "red"}]}, "input[0].color"),
        ({"input": None}, "input"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"text": {"verbosity": "high"}}, "text.verbosity"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"max_output_tokens": 1}, "max_output_tokens"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"include": ["everything"]}, "include"),
        ({"background": True, "store": False}, "background"),
        ({"previous_response_id": "a", "conversation": "b"}, "conversation"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
        ({"color": "red"}, "color"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
    ],
)  # fmt: skip
def test_what_is_not_served_is_refused_by_name(
    app: ASGIApp, fields: dict[str, object], param: str
) -> None:
    answer = respond(app, **fields)
    assert answer.status == 400 and answer.error["param"] == param, answer


def test_queries_are_checked(app: ASGIApp) -> None:
    one = f"/v1/responses/{respond(app).json()['id']}"
    with running(app) as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)
        for query in ({"stream": "true"}, {"starting_after": "3"}, {"include": "x"}, {"color": 1}):
            with pytest.raises(openai.BadRequestError) as caught:
                client.get(one.removeprefix("/v1"), cast_to=object, options={"params": query})
            assert json.loads(caught.value.response.content)["error"]["param"] == next(iter(query))
    assert call(app, one + "/cancel").status == 400, "it was no background response"
    assert call(app, "/v1/responses/compact", {"model": "tiny"}).status == 501
