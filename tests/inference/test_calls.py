"""Grammars of calls: free text until one opens, and then only valid calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest
import tokenizers
import torch

from bessemer.core.errors import InvalidInput
from bessemer.core.protocols import Constraint
from bessemer.inference.constraint import Compiler
from bessemer.text.tokenizer import Tokenizer
from bessemer.text.tool_calls import CallParser
from bessemer.text.tool_formats import ToolFormat, call_constraint
from tests.inference.speaking import closing
from tests.text.model_folder import CHATML, write_model_folder

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"$ref": "#/$defs/city"},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"city": {"enum": ["Paris", "Zürich"]}},
}
NOTE = {"properties": {"text": {"type": "string", "maxLength": 9}}, "required": ["text"]}
SCHEMAS: dict[str, Any] = {"weather": WEATHER, "note": NOTE, "stop": {"maxProperties": 0}}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "note", "description": "d", "parameters": NOTE}},
    {"type": "function", "function": {"name": "stop"}},
]
WAYS: tuple[ToolFormat, ...] = ("hermes", "list", "llama")


class Speech(NamedTuple):
    compiler: Compiler
    tokenizer: Tokenizer

    def walk(self, constraint: Constraint, prefix: str, seed: int) -> tuple[str, bool]:
        """A text that begins with `prefix` and goes on at random; and whether it came to an end."""
        matcher, eos = self.compiler.matcher(constraint), self.tokenizer.eos_ids
        size, noise = self.tokenizer.vocab_size, torch.Generator().manual_seed(seed)
        bias_V = torch.zeros(size)
        for id_, value in closing(self.tokenizer, 6.0).items():
            bias_V[id_] = value
        ids: list[int] = []
        todo = self.tokenizer.encode(prefix)
        while not matcher.done and len(ids) < 3_000:
            scores_V = matcher.masked(bias_V + torch.randn(size, generator=noise), eos)
            token = todo[0] if todo else int(scores_V.argmax())
            assert scores_V[token] > -torch.inf, self.tokenizer.decode([*ids, token])
            if token in eos:
                return self.tokenizer.decode(ids, skip_special=False), True
            taken = matcher.take(token, 1000, eos)
            ids += taken
            todo = todo[len(taken) :]
        return self.tokenizer.decode(ids, skip_special=False), matcher.done


@pytest.fixture(scope="module", params=[(), ("<tool_call>", "</tool_call>")], ids=["text", "token"])
def speech(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Speech:
    """A vocabulary whose marks are text, and one that has tokens for them."""
    folder = tmp_path_factory.mktemp("speech")
    with_control(folder, request.param)
    return Speech(Compiler(folder), Tokenizer.load(folder))


def with_control(folder: Path, control: tuple[str, ...]) -> None:
    write_model_folder(folder, CHATML)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.add_special_tokens(list(control))
    backend.save(str(folder / "tokenizer.json"))


def calls_in(way: ToolFormat, text: str) -> tuple[str, list[tuple[str, Any]]]:
    """Words and calls, each checked against its schema."""
    parser = CallParser(way)
    content, pieces = parser.push(text)
    calls = [
        (
            head.name,
            json.loads("".join(p.arguments for p in pieces if p.index == head.index)),
        )
        for head in pieces
        if head.id is not None
    ]
    for name, arguments in calls:
        assert name is not None and isinstance(arguments, dict)
        jsonschema.validate(arguments, SCHEMAS[name])
    return content + parser.flush(), [(name or "", arguments) for name, arguments in calls]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(3))
def test_required_calls_are_calls_and_nothing_else(
    speech: Speech, way: ToolFormat, seed: int
) -> None:
    constraint = call_constraint(way, speech.tokenizer, TOOLS, required=True, parallel=False)
    text, ended = speech.walk(constraint, "", seed)
    content, calls = calls_in(way, text)
    assert (content, len(calls), ended) == ("", 1, True)


@pytest.mark.parametrize("way", WAYS)
def test_several_calls_where_they_are_allowed(speech: Speech, way: ToolFormat) -> None:
    first, second = '"name": "stop", "%s": {}}', '"name": "note", "%s": {"text": "a"}}'
    key = "parameters" if way == "llama" else "arguments"
    joins = {
        "hermes": ("<tool_call>\n{", "\n</tool_call>\n<tool_call>\n{"),
        "list": ("<tool_call>[{", ", {"),
        "llama": ("{", "; {"),
    }
    head, between = joins[way]
    prefix = head + first % key + between + second % key
    constraint = call_constraint(way, speech.tokenizer, TOOLS, required=True, parallel=True)
    text, ended = speech.walk(constraint, prefix, 0)
    assert ended
    assert calls_in(way, text)[1][:2] == [("stop", {}), ("note", {"text": "a"})]
    alone = call_constraint(way, speech.tokenizer, TOOLS, required=True, parallel=False)
    if way == "list":
        with pytest.raises(AssertionError):
            speech.walk(alone, prefix, 0)
    else:  # it ends where the second would begin
        assert calls_in(way, speech.walk(alone, prefix, 0)[0])[1] == [("stop", {})]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(3))
def test_text_goes_on_until_a_call_opens(speech: Speech, way: ToolFormat, seed: int) -> None:
    constraint = call_constraint(way, speech.tokenizer, TOOLS, required=False, parallel=True)
    text, ended = speech.walk(constraint, "It is <b>3</b> {or} so.", seed)
    assert text.startswith("It is <b>3</b> {or} so.")
    opening = "{" if way == "llama" else "<tool_call>"
    words = "" if way == "llama" else "Let me see.\n"
    text, ended = speech.walk(constraint, words + opening, seed)
    content, calls = calls_in(way, text)
    assert ended
    assert content == words.rstrip("\n")
    assert calls or (way, text.removeprefix(words + opening).strip("[]\n")) == (
        "list",
        "]</tool_call>".strip("[]\n"),
    )


@pytest.mark.parametrize("way", ["hermes", "list"])
def test_an_answer_that_does_not_call_may_have_a_form(speech: Speech, way: ToolFormat) -> None:
    content = Constraint("json_schema", '{"type": "object", "required": ["k"]}', "response_format")
    constraint = _with_content(speech, way, content)
    text, _ = speech.walk(constraint, '{"k": ', 1)
    assert "k" in json.loads(text)
    assert calls_in(way, speech.walk(constraint, "<tool_call>", 1)[0])[0] == ""


def test_a_form_that_calls_cannot_be_told_from_is_refused(speech: Speech) -> None:
    with pytest.raises(InvalidInput, match="JSON Schema only"):
        _with_content(speech, "list", Constraint("regex", "a", "structured_outputs"))
    with pytest.raises(InvalidInput, match="writes calls as a JSON object"):
        _with_content(speech, "llama", Constraint("json_object"))


def _with_content(speech: Speech, way: ToolFormat, content: Constraint) -> Constraint:
    return call_constraint(
        way, speech.tokenizer, TOOLS, required=False, parallel=True, content=content
    )


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"type": "string"}, "note are not a JSON Schema of type object"),
        ({"properties": {"a": {"not": {}}}}, "Unimplemented keys"),
    ],
)
def test_parameters_that_cannot_be_held_to_are_refused(
    speech: Speech, parameters: dict[str, Any], said: str
) -> None:
    tool = {"type": "function", "function": {"name": "note", "parameters": parameters}}
    with pytest.raises(InvalidInput, match=said) as found:
        made = call_constraint("list", speech.tokenizer, [tool], required=True, parallel=True)
        speech.compiler.matcher(made)
    assert found.value.param == "tools"
