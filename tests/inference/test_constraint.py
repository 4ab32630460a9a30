"""Whatever a random network prefers, its answers are what their constraint says."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import llguidance
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from bessemer.core.errors import InvalidInput
from bessemer.core.protocols import MAX_CONSTRAINT_CHARS, Constraint, Sampling, TokenChunk
from bessemer.inference.engine import EngineSettings, NativeEngine
from bessemer.inference.live import NativeLiveEngine
from bessemer.models.folder import load_decoder
from bessemer.text.tokenizer import Tokenizer
from tests.inference.speaking import answer, asking, closing, schema, write_speaking_model

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "ü"]}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


class Speaker(NamedTuple):
    engine: NativeEngine
    tokenizer: Tokenizer
    folder: Path

    def say(self, constraint: Constraint | None, **more: Any) -> tuple[str, str]:
        request = asking(self.tokenizer, constraint, **more)
        return asyncio.run(answer(self.engine, self.tokenizer, request))

    def chunks(self, constraint: Constraint | None, **more: Any) -> list[TokenChunk]:
        async def collect() -> list[TokenChunk]:
            request = asking(self.tokenizer, constraint, **more)
            return [chunk async for chunk in self.engine.generate(request)]

        return asyncio.run(collect())


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Speaker]:
    folder = write_speaking_model(tmp_path_factory.mktemp("speaking"))
    engine = NativeEngine.open(folder, "d", EngineSettings(precision="fp64", max_running=8))
    yield Speaker(engine, Tokenizer.load(folder), folder)
    engine.close()


def test_both_sides_read_the_vocabulary_alike(speaker: Speaker, tmp_path: Path) -> None:
    for folder in (speaker.folder, _sentencepiece(tmp_path)):
        tokenizer = Tokenizer.load(folder)
        theirs = llguidance.LLTokenizer((folder / "tokenizer.json").read_text())
        for id_ in range(tokenizer.vocab_size):
            ours = tokenizer.token_bytes(id_)
            # 0xFF, which no text has, is their mark for control tokens.
            assert theirs.decode_bytes([id_]) == ours or ours == b"\xff"


def _sentencepiece(folder: Path) -> Path:
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁a", '{"', "é"]
    vocabulary = {piece: id_ for id_, piece in enumerate(pieces)}
    backend = tokenizers.Tokenizer(
        models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True)
    )
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    backend.add_special_tokens(["<unk>", "</s>"])
    backend.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("seed", range(4))
def test_an_object_of_a_schema(speaker: Speaker, seed: int) -> None:
    sampling = Sampling(temperature=1.5, seed=seed, top_p=0.99)
    text, reason = speaker.say(schema(PERSON), sampling=sampling)
    jsonschema.validate(json.loads(text), PERSON)
    assert reason == "stop"


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.0),
        Sampling(top_k=1),
        Sampling(top_k=40, top_p=0.2),
        Sampling(min_p=0.9, temperature=2.0),
        Sampling(repetition_penalty=1.8, presence_penalty=2.0, frequency_penalty=2.0),
    ],
)
def test_every_way_to_draw(speaker: Speaker, sampling: Sampling) -> None:
    text, reason = speaker.say(schema(PERSON), sampling=sampling)
    jsonschema.validate(json.loads(text), PERSON)
    assert reason == "stop"


def test_a_bias_cannot_lead_out_of_the_constraint(speaker: Speaker) -> None:
    wanted = speaker.tokenizer.encode("Q")[0]
    bias = {wanted: 100.0, 2: 100.0}
    text, _ = speaker.say(Constraint("regex", "[abc]{5}"), sampling=Sampling(logit_bias=bias))
    assert re.fullmatch("[abc]{5}", text)
    banned = dict.fromkeys(speaker.tokenizer.encode("a"), -100.0)
    text, _ = speaker.say(Constraint("regex", "[abc]{5}"), sampling=Sampling(logit_bias=banned))
    assert re.fullmatch("[bc]{5}", text)


def test_any_object(speaker: Speaker) -> None:
    text, reason = speaker.say(Constraint("json_object"), max_tokens=900)
    assert reason == "stop"
    assert isinstance(json.loads(text), dict)


def test_an_expression_holds_for_the_whole_answer(speaker: Speaker) -> None:
    text, reason = speaker.say(Constraint("regex", r"(\+49|0)[1-9][0-9]{3,9} (ja|nein)"))
    assert re.fullmatch(r"(\+49|0)[1-9][0-9]{3,9} (ja|nein)", text)
    assert reason == "stop"


def test_a_grammar(speaker: Speaker) -> None:
    grammar = 'start: term (("+" | "-") term){2}\nterm: NUMBER | "(" term ")"\nNUMBER: /[0-9]{1,3}/'
    text, reason = speaker.say(Constraint("lark", grammar))
    assert isinstance(eval(re.sub(r"\b0+(?=\d)", "", text)), int)
    assert reason == "stop"


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.text(max_size=12), min_size=1, max_size=4))
def test_one_of_any_strings(speaker: Speaker, choices: list[str]) -> None:
    text, reason = speaker.say(Constraint("choice", json.dumps(choices)))
    assert text in choices
    assert reason == "stop"


def test_an_answer_may_end_before_it_begins(speaker: Speaker) -> None:
    eos = min(speaker.tokenizer.eos_ids)
    chunks = speaker.chunks(
        Constraint("regex", "a*"), sampling=Sampling(temperature=0, logit_bias={eos: 100.0})
    )
    assert [(list(c.ids), c.finish_reason, c.stop_id) for c in chunks] == [([], "stop", eos)]


def test_a_stop_id_waits_until_the_answer_may_end(speaker: Speaker) -> None:
    eos = min(speaker.tokenizer.eos_ids)
    eager = Sampling(temperature=0, logit_bias={eos: 100.0})
    text, reason = speaker.say(Constraint("regex", "a{3,}"), sampling=eager)
    assert (text, reason) == ("aaa", "stop")
    # So does one that nobody named: the model's own end of turn.
    text, reason = speaker.say(Constraint("regex", "a{3,}"), sampling=eager, stop_ids=[])
    assert (text, reason) == ("aaa", "stop")


def test_an_answer_that_is_cut_says_so_and_one_that_just_fits_does_not(speaker: Speaker) -> None:
    chunks = speaker.chunks(Constraint("regex", "[0-9]{9}"), max_tokens=5)
    assert chunks[-1].finish_reason == "length"
    assert sum(len(chunk.ids) for chunk in chunks) == chunks[-1].completion_tokens == 5
    _, reason = speaker.say(Constraint("regex", "[0-9]{9}"), max_tokens=9)
    assert reason == "stop"
    text, reason = speaker.say(Constraint("regex", "[0-9]{9}x"), max_tokens=9)
    assert (len(text), reason) == (9, "length")


def test_told_logprobs_are_the_models_own(speaker: Speaker) -> None:
    constraint = schema(PERSON)
    chunks = speaker.chunks(constraint, top_logprobs=3, sampling=Sampling(temperature=0))
    ids = [id_ for chunk in chunks for id_ in chunk.ids]
    told = [one.logprob for chunk in chunks for one in chunk.logprobs or ()]
    prompt = speaker.tokenizer.encode("Hello")
    scores = asyncio.run(speaker.engine.score([*prompt, *ids]))
    assert told == pytest.approx(scores[len(prompt) - 1 :], abs=1e-8)


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_forced_tokens_are_those_that_would_be_drawn(speaker: Speaker, temperature: float) -> None:
    """Log-probabilities need every token's scores, so with them nothing is taken unseen."""
    sampling = Sampling(temperature=temperature, seed=5)
    quick = speaker.chunks(schema(PERSON), sampling=sampling)
    slow = speaker.chunks(schema(PERSON), sampling=sampling, top_logprobs=0)
    assert max(len(chunk.ids) for chunk in quick) > 1
    assert all(len(chunk.logprobs or ()) == len(chunk.ids) for chunk in slow)
    assert [i for c in quick for i in c.ids] == [i for c in slow for i in c.ids]
    assert quick[-1].completion_tokens == slow[-1].completion_tokens


def test_many_at_once_are_each_what_they_are_alone(speaker: Speaker) -> None:
    constraints = [schema(PERSON), None, Constraint("regex", "x[yz]{4}"), schema({"type": "null"})]

    async def crowd() -> list[tuple[str, str]]:
        asked = [asking(speaker.tokenizer, c, max_tokens=60) for c in constraints * 3]
        return await asyncio.gather(*(answer(speaker.engine, speaker.tokenizer, a) for a in asked))

    alone = [speaker.say(constraint, max_tokens=60) for constraint in constraints]
    assert asyncio.run(crowd()) == alone * 3


@pytest.mark.parametrize(
    ("constraint", "said"),
    [
        (schema({"type": "foo"}), "Invalid type: foo"),
        (schema([1]), "a JSON Schema is an object"),
        (schema({"not": {}}), r'Unimplemented keys: \["not"\]'),
        (schema({"type": "string", "format": "blah"}), "Unknown format: blah"),
        (schema({"type": "integer", "minimum": 5, "maximum": 3}), "greater than maximum"),
        (schema({"uniqueItems": True, "x-guidance": {"lenient": True}}), "uniqueItems"),
        (Constraint("json_schema", "{"), "JSON Schema cannot be held to"),
        (Constraint("json_schema", '{"a":' * 9000 + "1" + "}" * 9000), "cannot be held to"),
        (Constraint("json_schema", '{"type": "string", "pattern": "(?=a)b"}'), "look-around"),
        (Constraint("json_schema", " " * MAX_CONSTRAINT_CHARS + "{}"), "the limit is 262,144"),
        (Constraint("regex", "("), "unclosed group"),
        (Constraint("regex", "\ud800"), "surrogates not allowed"),
        (Constraint("lark", "start: foo"), 'unknown name: "foo"'),
        (Constraint("lark", "start: " + "(" * 50_000), "too deeply nested"),
        (Constraint("choice", "[]"), "list of choices cannot be held to"),
    ],
)
def test_what_cannot_be_held_to_is_refused_by_name(
    speaker: Speaker, constraint: Constraint, said: str
) -> None:
    named = Constraint(constraint.kind, constraint.text, "response_format")
    with pytest.raises(InvalidInput, match=said) as found:
        speaker.say(named)
    assert found.value.param == "response_format"
    assert len(found.value.message) < 500
    assert speaker.say(Constraint("choice", '["still here"]'))[0] == "still here"


def test_references_that_follow_each_other_for_long_end_in_an_answer(speaker: Speaker) -> None:
    """By recursion in a thread of usual size this would end the process."""
    count = 7_000
    chain = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(count)}
    text, _ = speaker.say(
        schema({"$defs": {**chain, f"d{count}": {"type": "null"}}, "$ref": "#/$defs/d0"})
    )
    assert text == "null"
    rules = "".join(f'A{i}: A{i + 1} "x"\n' for i in range(3_000))
    text, _ = speaker.say(Constraint("lark", f"start: A0\n{rules}A3000: /b?/\n"), max_tokens=9)
    assert text.removeprefix("b") == "x" * len(text.removeprefix("b"))


def test_numbers_that_would_end_the_process_are_refused(speaker: Speaker) -> None:
    for number in (-(2**63), -(2**53), 2**63, 10**400):
        for wanted in ({"enum": ["a", number]}, {"anyOf": [{"const": number}]}):
            with pytest.raises(InvalidInput, match="beyond the exact integers"):
                speaker.say(schema(wanted))
    grammar = 'start: %json {"enum": [-9223372036854775808]}'
    with pytest.raises(InvalidInput, match="too long a number"):
        speaker.say(Constraint("lark", grammar))
    assert speaker.say(schema({"enum": [-(2**53) + 1]}))[0] == "-9007199254740991"


def test_an_explosive_expression_costs_no_more_than_its_limits(speaker: Speaker) -> None:
    for pattern in (r"(.*a.{400})*", r"((a{1,200}){1,200}){1,200}b"):
        assert speaker.say(Constraint("regex", pattern), max_tokens=40)[0]
    with pytest.raises(InvalidInput, match="cannot go on under its constraint") as found:
        speaker.say(Constraint("regex", "(a|aa)+" * 200, "structured_outputs"))
    assert found.value.param == "structured_outputs"
    assert speaker.say(Constraint("regex", "still (here)"))[0] == "still here"


def test_an_engine_without_text_refuses(speaker: Speaker) -> None:
    async def ask() -> None:
        engine = NativeLiveEngine(load_decoder(speaker.folder))
        request = asking(speaker.tokenizer, Constraint("json_object", "", "response_format"))
        with pytest.raises(InvalidInput, match="knows no text") as found:
            await anext(engine.generate(request))
        assert found.value.param == "response_format"

    asyncio.run(ask())


# -- any small schema ---------------------------------------------------------------------

exact_integers = st.integers(-(2**53) + 1, 2**53 - 1)
leaves: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({"type": "null"}),
    st.just({"type": "boolean"}),
    st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 9)),
    st.builds(
        lambda low, span: {"type": "integer", "minimum": low, "maximum": low + span},
        st.integers(-1000, 1000),
        st.integers(0, 500),
    ),
    st.builds(
        lambda low, span: {"type": "number", "exclusiveMinimum": low, "maximum": low + span},
        st.integers(-50, 50),
        st.integers(1, 500),
    ),
    st.sampled_from(["date", "time", "date-time", "uuid", "ipv4", "email"]).map(
        lambda name: {"type": "string", "format": name}
    ),
    st.just({"type": "string", "pattern": "^[a-c]{1,3}(-[0-9]+)?$", "maxLength": 9}),
    st.lists(st.text(max_size=5) | exact_integers | st.none(), min_size=1, max_size=3).map(
        lambda values: {"enum": values}
    ),
)
names = st.text(min_size=1, max_size=4) | st.sampled_from(["name", 'a"b', "a\\b", "\n", "é"])


def _objects(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    def build(found: dict[str, Any], required: list[bool], extra: bool) -> dict[str, Any]:
        wanted = [name for name, yes in zip(found, required, strict=False) if yes]
        made = {"type": "object", "properties": found, "required": wanted}
        return made if extra else {**made, "additionalProperties": False}

    flags = st.lists(st.booleans(), min_size=3, max_size=3)
    return st.builds(build, st.dictionaries(names, inner, max_size=3), flags, st.booleans())


schemas = st.recursive(
    leaves,
    lambda inner: st.one_of(
        _objects(inner),
        st.builds(
            lambda items, low: {"type": "array", "items": items, "minItems": low, "maxItems": 3},
            inner,
            st.integers(0, 2),
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options}),
    ),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(wanted=schemas, seed=st.integers(0, 99))
def test_any_schema_s_answer_parses_and_validates(
    speaker: Speaker, wanted: dict[str, Any], seed: int
) -> None:
    sampling = Sampling(temperature=1.5, seed=seed, logit_bias=closing(speaker.tokenizer, 12.0))
    text, reason = speaker.say(schema(wanted), sampling=sampling)
    if reason == "length":  # an optional property after the other, without end
        return
    jsonschema.validate(
        json.loads(text), wanted, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
