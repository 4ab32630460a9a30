"""Over a real engine: a prompt's log-probabilities, echoes, the best of several, and deadlines."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from bessemer.app.responder import EngineResponder
from bessemer.gateway.exchange import ASGIApp
from bessemer.inference.engine import EngineSettings, NativeEngine
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer
from tests.fakes import FakeServing
from tests.gateway.calling import app_of, chat, complete
from tests.inference.speaking import CONTEXT_LENGTH, write_speaking_model

PROMPT = "Hello there, says the text"


class World(NamedTuple):
    app: ASGIApp
    engine: NativeEngine
    tokenizer: Tokenizer

    def scores(self, ids: list[int]) -> list[float]:
        """Computed another way: the engine's scoring of a whole sequence."""
        return asyncio.run(self.engine.score(ids))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = write_speaking_model(tmp_path_factory.mktemp("model"))
    settings = EngineSettings(precision="fp64", max_running=8, chunk_tokens=16)
    engine = NativeEngine.open(folder, "d", settings)
    tokenizer, template = Tokenizer.load(folder), ChatTemplate.load(folder)
    responder = EngineResponder(engine, tokenizer, template, CONTEXT_LENGTH)
    yield World(app_of(FakeServing({"tiny": responder})), engine, tokenizer)  # type: ignore[dict-item]
    engine.close()


def test_an_echo_is_the_prompt_and_tells_of_its_tokens(world: World) -> None:
    fields: dict[str, Any] = {"prompt": PROMPT, "echo": True, "max_tokens": 5, "seed": 1}
    whole = complete(world.app, logprobs=2, **fields).json()["choices"][0]
    plain = complete(world.app, **fields).json()["choices"][0]
    assert plain["text"] == whole["text"] and whole["text"].startswith(PROMPT)
    assert plain["logprobs"] is None and "prompt_logprobs" not in whole
    ids, found = world.tokenizer.encode(PROMPT), whole["logprobs"]
    assert found["tokens"][: len(ids)] == [world.tokenizer.token_text(id_) for id_ in ids]
    assert (found["token_logprobs"][0], found["top_logprobs"][0]) == (None, None)
    told = found["token_logprobs"][1 : len(ids)]
    assert told == pytest.approx(world.scores(ids), abs=1e-9)
    assert {len(found[key]) for key in found} == {len(ids) + 5}
    assert all(2 <= len(top) <= 3 for top in found["top_logprobs"][1:])
    for token, offset in list(zip(found["tokens"], found["text_offset"], strict=True))[: len(ids)]:
        assert whole["text"][offset:].startswith(token)
    events = complete(world.app, logprobs=2, stream=True, **fields).events()[:-1]
    pieces = [event["choices"][0] for event in events]
    assert "".join(piece["text"] for piece in pieces) == whole["text"]
    for key, expected in found.items():
        streamed = [x for piece in pieces if piece["logprobs"] for x in piece["logprobs"][key]]
        if key == "text_offset":  # the answer's random bytes are no whole characters
            streamed, expected = streamed[: len(ids)], expected[: len(ids)]
        assert streamed == (expected if key != "token_logprobs" else pytest.approx(expected))


def test_an_echo_of_ids_is_their_text_and_no_tokens_are_made_if_none_are_asked_for(
    world: World,
) -> None:
    ids = world.tokenizer.encode(PROMPT)
    answer = complete(world.app, prompt=[ids], echo=True, logprobs=0, max_tokens=0).json()
    choice = answer["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (PROMPT, "length")
    assert choice["logprobs"]["token_logprobs"][1:] == pytest.approx(world.scores(ids), abs=1e-9)
    assert answer["usage"]["completion_tokens"] == 0
    assert answer["usage"]["prompt_tokens"] == len(ids)


@pytest.mark.parametrize("top", [0, 3])
def test_a_chats_prompt_is_told_of_whatever_the_cache_holds(top: int, world: World) -> None:
    fields: dict[str, Any] = {"prompt_logprobs": top, "max_tokens": 3, "seed": 2, "n": 2}
    first, again = (chat(world.app, **fields).json() for _ in range(2))
    found = first["prompt_logprobs"]
    assert len(found) == first["usage"]["prompt_tokens"] and found[0] is None
    ids, logprobs = [], []
    for place in found[1:]:
        assert top <= len(place) <= top + 1 and len(place) > 0
        (id_, chosen), *others = place.items()
        ids.append(int(id_))
        logprobs.append(chosen["logprob"])
        assert chosen["decoded_token"] == world.tokenizer.token_text(int(id_))
        ranks = sorted(each["rank"] for each in place.values())
        assert ranks[:top] == list(range(1, top + 1)) and chosen["rank"] in ranks
        assert all(
            (each["rank"] < chosen["rank"]) == (each["logprob"] > chosen["logprob"])
            for _, each in others
        )
    first_id = world.tokenizer.control_id("<|im_start|>")
    assert first_id is not None
    assert logprobs == pytest.approx(world.scores([first_id, *ids]), abs=1e-9)
    assert again["prompt_logprobs"][1:] == [
        {key: pytest.approx(value) for key, value in place.items()} for place in found[1:]
    ]
    assert "prompt_logprobs" not in chat(world.app, max_tokens=1).json()


def test_the_best_are_those_with_the_highest_logprob_per_token(world: World) -> None:
    fields: dict[str, Any] = {"prompt": ["One", "Two"], "max_tokens": 6, "seed": 5}
    all_ = complete(world.app, n=6, logprobs=0, **fields).json()["choices"]
    assert {choice["finish_reason"] for choice in all_} == {"length"}
    answer = complete(world.app, n=2, best_of=6, **fields).json()
    expected = []
    for start in (0, 6):
        group = all_[start : start + 6]
        group.sort(key=lambda c: -statistics.fmean(c["logprobs"]["token_logprobs"]))
        expected += [choice["text"] for choice in group[:2]]
    assert [choice["text"] for choice in answer["choices"]] == expected
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert {choice["logprobs"] for choice in answer["choices"]} == {None}
    assert answer["usage"]["completion_tokens"] == 2 * 6 * 6
    prompts = [len(world.tokenizer.encode(prompt)) for prompt in fields["prompt"]]
    assert answer["usage"]["prompt_tokens"] == sum(prompts)
    told = complete(world.app, best_of=6, logprobs=1, **fields).json()["choices"]
    assert [choice["text"] for choice in told] == expected[::2]
    assert all(len(choice["logprobs"]["tokens"]) == 6 for choice in told)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"best_of": 3, "stream": True}, "best_of"),
        ({"best_of": 129}, "best_of"),
        ({"prompt": ["a"] * 65, "best_of": 2}, "prompt"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": 1, "echo": True}, "prompt_logprobs"),
        ({"echo": True, "suffix": "end"}, "echo"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 0, "echo": True}, "max_tokens"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1.0}, "timeout"),
        ({"timeout": 86_401}, "timeout"),
    ],
)
def test_what_does_not_go_together_is_refused(
    fields: dict[str, Any], param: str, world: World
) -> None:
    answer = complete(world.app, **fields)
    assert (answer.status, answer.error["param"]) == (400, param)


def test_a_request_ends_when_its_time_has_passed(world: World) -> None:
    late = chat(world.app, timeout=1e-6)
    assert (late.status, late.error["code"]) == (504, "deadline_exceeded")
    assert chat(world.app, timeout=60, max_tokens=2).status == 200
    endless = {str(id_): -100 for id_ in world.tokenizer.eos_ids}
    *said, last = complete(
        world.app, max_tokens=4000, timeout=0.3, stream=True, logit_bias=endless
    ).events()
    assert last["error"]["code"] == "deadline_exceeded"
    assert "0.3 s were given" in last["error"]["message"]
    assert sum(len(event["choices"][0]["text"]) for event in said) > 0
    assert asyncio.run(world.engine.info()).running == 0
