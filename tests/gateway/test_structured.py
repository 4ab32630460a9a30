"""From the official client to a random network and back: forms and calls are valid, always."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import openai
import pydantic
import pytest

from bessemer.app.responder import EngineResponder
from bessemer.inference.engine import EngineSettings, NativeEngine
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer
from tests.fakes import FakeServing
from tests.gateway.calling import KEY, app_of, running
from tests.inference.speaking import CONTEXT_LENGTH, closing, write_speaking_model
from tests.text.model_folder import CHATML
from tests.text.templates import BLOCKS, PARAMETERS

MODELS = {"list": CHATML, "hermes": BLOCKS, "llama": PARAMETERS}
MARKED = "hermes"  # this one has tokens for <tool_call> and </tool_call>
HI = [{"role": "user", "content": "Hi"}]
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
SCHEMAS = {"weather": WEATHER, "stop": {"type": "object", "maxProperties": 0}}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "stop"}},
]


class House(NamedTuple):
    client: openai.OpenAI
    url: str
    tokenizers: dict[str, Tokenizer]

    def ask(self, model: str, **fields: Any) -> Any:
        """A chat at a temperature at which the network says anything."""
        bias = closing(self.tokenizers[model], fields.pop("strength", 8.0))
        facts = {"messages": HI, "temperature": 1.5, "seed": 3, "max_tokens": 300} | fields
        return self.client.chat.completions.create(
            model=model, logit_bias={str(k): v for k, v in bias.items()}, **facts
        )


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    engines, responders, tokenizers = [], {}, {}
    for name, template in MODELS.items():
        marks = ("<tool_call>", "</tool_call>") if name == MARKED else ()
        folder: Path = write_speaking_model(tmp_path_factory.mktemp(name), template, marks)
        engine = NativeEngine.open(folder, "d", EngineSettings(precision="fp32", max_running=8))
        engines.append(engine)
        tokenizers[name] = Tokenizer.load(folder)
        responders[name] = EngineResponder(
            engine, tokenizers[name], ChatTemplate.load(folder), CONTEXT_LENGTH, model_digest="d"
        )
    serving = FakeServing(responders)  # type: ignore[arg-type]
    with (
        running(app_of(serving)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client,
    ):
        yield House(client, server.url, tokenizers)
    for engine in engines:
        engine.close()


def check_calls(message: Any) -> list[str]:
    """Names of the calls, after their ids and arguments."""
    calls = message.tool_calls
    assert len({call.id for call in calls}) == len(calls)
    for call in calls:
        assert call.id.startswith("call_") and call.type == "function"
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
    return [call.function.name for call in calls]


class Color(Enum):
    red = "red"
    green = "green"


class Point(pydantic.BaseModel):
    x: int = pydantic.Field(ge=-9, le=9)
    y: float | None


class Drawing(pydantic.BaseModel):
    title: str = pydantic.Field(max_length=9)
    color: Color
    points: list[Point] = pydantic.Field(min_length=1, max_length=3)


def test_the_client_parses_a_pydantic_model(house: House) -> None:
    bias = closing(house.tokenizers["list"])
    answer = house.client.chat.completions.parse(
        model="list",
        messages=HI,  # type: ignore[arg-type]
        response_format=Drawing,
        logit_bias={str(k): int(v) for k, v in bias.items()},
        temperature=1.5,
        max_tokens=400,
    )
    assert isinstance(answer.choices[0].message.parsed, Drawing)
    assert answer.choices[0].finish_reason == "stop"


def test_forms_of_all_kinds_streamed_and_whole(house: House) -> None:
    for stream in (False, True):
        answer = house.ask(
            "list",
            stream=stream,
            extra_body={"structured_outputs": {"choice": ["grün", "blau"]}},
        )
        if stream:
            text = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
        else:
            text = answer.choices[0].message.content
        assert text in ("grün", "blau")
    done = house.client.completions.create(
        model="llama", prompt="x", extra_body={"structured_outputs": {"regex": "[ab]{4}"}}
    )
    assert set(done.choices[0].text) <= set("ab") and len(done.choices[0].text) == 4


def test_a_form_that_cannot_be_held_to_is_a_400(house: House) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "foo"}}}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="Invalid type: foo") as found:
            house.ask("list", response_format=form, stream=stream)
        assert found.value.param == "response_format"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("seed", range(2))
def test_required_calls(house: House, model: str, seed: int) -> None:
    answer = house.ask(
        model, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, seed=seed
    )
    choice = answer.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert len(check_calls(choice.message)) == 1


@pytest.mark.parametrize("model", MODELS)
def test_a_named_function_is_called_once(house: House, model: str) -> None:
    answer = house.ask(
        model, tools=TOOLS, tool_choice={"type": "function", "function": {"name": "weather"}}
    )
    assert check_calls(answer.choices[0].message) == ["weather"]


def test_parallel_calls(house: House) -> None:
    answer = house.ask("list", tools=TOOLS, tool_choice="required", n=8, max_tokens=500)
    counts = [len(check_calls(c.message)) for c in answer.choices if c.finish_reason != "length"]
    assert counts and max(counts) > 1


@pytest.mark.parametrize("model", MODELS)
def test_a_stream_of_calls_is_openai_s(house: House, model: str) -> None:
    chunks = list(
        house.ask(
            model, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, stream=True
        )
    )
    pieces = [call for c in chunks for call in c.choices[0].delta.tool_calls or ()]
    first, *others = pieces
    assert (first.index, first.type, first.function.arguments) == (0, "function", "")
    assert first.id is not None and first.function.name in SCHEMAS
    assert all((p.id, p.type, p.function.name) == (None, None, None) for p in others)
    arguments = "".join(piece.function.arguments for piece in others)
    jsonschema.validate(json.loads(arguments), SCHEMAS[first.function.name])
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert not any(c.choices[0].delta.content for c in chunks)


def test_the_client_s_own_stream_helper_finds_the_calls(house: House) -> None:
    bias = closing(house.tokenizers["list"])
    with house.client.chat.completions.stream(
        model="list",
        messages=HI,  # type: ignore[arg-type]
        tools=TOOLS,  # type: ignore[arg-type]
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=300,
        logit_bias={str(k): int(v) for k, v in bias.items()},
    ) as stream:
        events = {event.type for event in stream}
        message = stream.get_final_completion().choices[0].message
    assert "tool_calls.function.arguments.delta" in events
    check_calls(message)


def test_auto_is_text_until_a_call_opens(house: House) -> None:
    text = house.ask("list", tools=TOOLS, max_tokens=20)
    assert text.choices[0].message.content
    assert text.choices[0].message.tool_calls is None
    (opening,) = house.tokenizers[MARKED].encode("<tool_call>")
    bias = {**closing(house.tokenizers[MARKED]), opening: 100.0}
    called = house.client.chat.completions.create(
        model=MARKED,
        messages=HI,  # type: ignore[arg-type]
        tools=TOOLS,  # type: ignore[arg-type]
        logit_bias={str(k): int(v) for k, v in bias.items()},
        parallel_tool_calls=False,
        max_tokens=300,
    )
    assert called.choices[0].finish_reason == "tool_calls"
    check_calls(called.choices[0].message)


def test_a_model_that_is_told_not_to_call_does_not(house: House) -> None:
    without = house.ask("list", max_tokens=20)
    told = house.ask("list", tools=TOOLS, tool_choice="none", max_tokens=20)
    assert told.choices[0].message.content == without.choices[0].message.content
    assert told.usage.prompt_tokens == without.usage.prompt_tokens


def test_a_stop_string_ends_words_and_not_a_call(house: House) -> None:
    answer = house.ask(
        "list", tools=TOOLS, tool_choice="required", parallel_tool_calls=False, stop=['"', "{"]
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    check_calls(answer.choices[0].message)
    free = house.ask("list", tools=TOOLS, max_tokens=30).choices[0].message.content
    stop = free[5:8]
    cut = house.ask("list", tools=TOOLS, max_tokens=30, stop=stop)
    assert cut.choices[0].message.content == free[: free.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_a_call_that_is_cut_says_so(house: House) -> None:
    answer = house.ask("list", tools=TOOLS, tool_choice="required", max_tokens=30)
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("model", ["list", "hermes"])
def test_a_whole_turn_with_the_result_sent_back(house: House, model: str) -> None:
    called = house.ask(model, tools=TOOLS, tool_choice="required").choices[0].message
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in called.tool_calls
    ]
    again = house.ask(model, messages=[*HI, called, *results], tools=TOOLS, max_tokens=8)
    assert again.choices[0].finish_reason in ("stop", "length")


@pytest.mark.parametrize("model", MODELS)
def test_endless_nesting_is_a_400_or_an_answer(house: House, model: str) -> None:
    def tool(depth: int) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "object", "maxProperties": 0}
        for _ in range(depth):
            schema = {"type": "object", "properties": {"a": schema}, "additionalProperties": False}
        return {"type": "function", "function": {"name": "deep", "parameters": schema}}

    asked = house.ask(model, tools=[tool(8)], tool_choice="required", max_tokens=9)
    assert asked.choices[0].finish_reason in ("length", "tool_calls")
    with pytest.raises(openai.BadRequestError, match="64 levels") as found:
        house.ask(model, tools=[tool(200)], tool_choice="required")
    assert found.value.param == "tools[0].function.parameters"
    arguments = '{"a":' * 5_000 + "1" + "}" * 5_000
    call = {"id": "c", "type": "function", "function": {"name": "deep", "arguments": arguments}}
    said = [*HI, {"role": "assistant", "tool_calls": [call]}, *HI]
    with pytest.raises(openai.BadRequestError, match="context length"):
        house.ask(model, messages=said)


def test_many_kinds_at_once(house: House) -> None:
    bias = {str(k): int(v) for k, v in closing(house.tokenizers["list"]).items()}

    async def ask(client: openai.AsyncOpenAI, number: int) -> Any:
        kinds: list[dict[str, Any]] = [
            {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False},
            {"response_format": {"type": "json_object"}},
            {"extra_body": {"structured_outputs": {"regex": "[0-9]{12}"}}},
            {},
        ]
        return await client.chat.completions.create(
            model="list",
            messages=HI,  # type: ignore[arg-type]
            logit_bias=bias,
            max_tokens=200,
            seed=number,
            **kinds[number % 4],
        )

    async def run() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key=KEY) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(12)))

    for number, answer in enumerate(asyncio.run(run())):
        choice = answer.choices[0]
        if number % 4 == 0:
            check_calls(choice.message)
        elif number % 4 == 1 and choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), dict)
        elif number % 4 == 2:
            assert choice.message.content.isdigit() and len(choice.message.content) == 12
