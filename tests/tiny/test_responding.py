"""`/v1/responses` on a real engine, through the official client; and the example that uses it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.cli.calling import say
from tests.tiny import world
from tests.tiny.house import House, Server
from tests.tiny.test_examples import run_example

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL: Any = {"type": "function", "name": "look", "parameters": CITY, "strict": True}
SCHEMA: Any = {"format": {"type": "json_schema", "name": "place", "schema": CITY, "strict": True}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model like `tiny` with room for what tells models of tools.

    Equal prompts have equal answers, whatever is in the cache.
    """
    folder = tmp_path_factory.mktemp("roomy")
    house = House(folder / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BESSEMER_HOME", str(house.root))
        model = world.write_model(folder / "tiny", context_length=4096)
        assert say("pull", str(model), "--licence", "CC0-1.0").status == 0
        house.key = say("key", "create", "--json").json["secret"]
    with house.up("--model", "tiny", "--deterministic") as found:
        found.wait_ready("tiny")
        yield found


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return server.client()


def test_an_answer_is_counted_stored_and_continued(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "temperature": 0, "max_output_tokens": 16}
    first = client.responses.create(input="Where?", instructions="Be brief.", **asked)
    assert first.usage is not None
    assert 1 <= first.usage.output_tokens <= 16
    assert client.responses.retrieve(first.id).output_text == first.output_text
    second = client.responses.create(input="And now?", previous_response_id=first.id, **asked)
    by_hand = client.responses.create(
        input=[
            {"role": "user", "content": "Where?"},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "And now?"},
        ],
        **asked,
    )
    assert second.usage is not None and by_hand.usage is not None
    assert second.usage.input_tokens == by_hand.usage.input_tokens
    assert second.output_text == by_hand.output_text, "it is the same prompt to the model"
    counted = client.responses.input_tokens.count(
        model="tiny", input="And now?", previous_response_id=first.id
    )
    assert counted.input_tokens == second.usage.input_tokens


def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "input": "Where?", "temperature": 0}
    whole = client.responses.create(max_output_tokens=24, **asked)
    kinds, texts = [], []
    with client.responses.stream(max_output_tokens=24, **asked) as stream:
        for event in stream:
            kinds.append(event.type)
            if event.type == "response.output_text.delta":
                texts.append(event.delta)
    assert event.type in ("response.completed", "response.incomplete")
    final = event.response
    assert "".join(texts) == whole.output_text == final.output_text
    assert kinds[0] == "response.created"
    assert final.usage is not None and whole.usage is not None
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_a_function_is_called_and_its_result_goes_into_the_prompt(client: openai.OpenAI) -> None:
    asked = client.responses.create(
        model="tiny", input="Paris?", tools=[TOOL], tool_choice="required", temperature=0,
        parallel_tool_calls=False,
    )  # fmt: skip
    (call,) = [item for item in asked.output if item.type == "function_call"]
    assert call.name == "look" and json.loads(call.arguments)["city"] in ("Paris", "Rome")
    answers = [
        client.responses.create(
            model="tiny", previous_response_id=asked.id, temperature=0, max_output_tokens=16,
            input=[{"type": "function_call_output", "call_id": call.call_id, "output": said}],
        )
        for said in ("sun", "a long day of rain and of snow")
    ]  # fmt: skip
    short, long = (answer.usage.input_tokens for answer in answers if answer.usage)
    assert asked.usage is not None
    assert long > short > 0


def test_an_answer_is_held_to_its_schema(client: openai.OpenAI) -> None:
    for seed in range(3):
        answer = client.responses.create(model="tiny", input=f"A city {seed}", text=SCHEMA)
        assert answer.status == "completed"
        assert json.loads(answer.output_text)["city"] in ("Paris", "Rome")


def test_what_runs_in_the_background_is_there_later(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "input": "Where?", "temperature": 0}
    whole = client.responses.create(max_output_tokens=16, **asked)
    stream = client.responses.create(max_output_tokens=16, background=True, stream=True, **asked)
    events = list(stream)
    made = events[0]
    assert made.type == "response.created" and made.response.status == "queued"
    found = client.responses.retrieve(made.response.id)
    assert found.output_text == whole.output_text
    again = list(client.responses.retrieve(made.response.id, stream=True))
    assert [event.type for event in again] == [event.type for event in events]


def test_respond_calls_streams_and_holds_to_a_schema(server: Server) -> None:
    said = run_example(
        "respond.py", BESSEMER_URL=server.url, BESSEMER_KEY=server.house.key, MODEL="tiny"
    )
    assert (said.status, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[0] in ("calls get_weather for Paris", "calls get_weather for Rome")
    assert any(line.endswith(" tokens]") for line in lines)
    assert json.loads(said.out.rpartition(" tokens]")[2])["city"] in ("Paris", "Rome")
