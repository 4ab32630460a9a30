"""Criteria that need no model: what they read, what they say, what ends them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bessemer.core.errors import DataError, InvalidInput
from bessemer.core.sandbox import available
from bessemer.text.criteria import Criterion, PythonCheck, StringCheck, TextSimilarity, checked
from bessemer.text.criterion_checks import Grade, completed, grade, sample_of

needs_sandbox = pytest.mark.skipif(available() is not None, reason=str(available()))
CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"a": 1}'}}


def spaces(text: str = "", **item: Any) -> dict[str, Any]:
    return {"item": item, "sample": sample_of(text)}


@pytest.mark.parametrize(
    ("operation", "text", "reference", "passed"),
    [
        ("eq", "Paris", "Paris", True),
        ("eq", "paris", "Paris", False),
        ("ne", "paris", "Paris", True),
        ("like", "It is Paris.", "Paris", True),
        ("like", "It is paris.", "Paris", False),
        ("ilike", "It is PARIS.", "Paris", True),
        ("ilike", "STRASSE", "straße", True),
        ("like", "Paris", "It is Paris.", False),
    ],
)
def test_a_string_check_compares(operation: Any, text: str, reference: str, passed: bool) -> None:
    check = StringCheck(
        "c", input="{{sample.output_text}}", reference="{{item.want}}", operation=operation
    )
    assert grade(check, spaces(text, want=reference)) == Grade(float(passed), passed)


def test_similarity_passes_from_its_threshold_on() -> None:
    check = TextSimilarity(
        "c", input="{{sample.output_text}}", reference="a b", evaluation_metric="rouge_1",
        pass_threshold=0.5,
    )  # fmt: skip
    assert grade(check, spaces("a c")) == Grade(0.5, True)
    assert not grade(check, spaces("c d")).passed
    with pytest.raises(DataError, match="too long for rouge_1"):
        grade(check, spaces("a" * 100_001))


def test_the_sample_has_its_json_and_its_calls() -> None:
    sample = sample_of('{"a": [1]}', [CALL], "tool_calls")
    check = StringCheck(
        "c",
        input="{{sample.output_json.a[0]}} {{sample.output_tools[0].function.name}}"
        " {{sample.choices[0].finish_reason}}",
        reference="1 find tool_calls",
        operation="eq",
    )
    assert grade(check, {"item": {}, "sample": sample}).passed
    assert "output_json" not in sample_of("no JSON")
    assert "output_json" not in sample_of("[NaN]")
    assert completed({"output_text": "1", "output_json": 2})["output_json"] == 2


def test_a_sample_of_choices_alone_has_their_text_and_calls() -> None:
    message = {"role": "assistant", "content": "[1]", "tool_calls": [CALL]}
    found = completed({"model": "m", "choices": [{"index": 0, "message": message}]})
    assert (found["output_text"], found["output_json"]) == ("[1]", [1])
    assert found["output_tools"] == [CALL]
    message = {"role": "assistant", "content": None}
    assert "output_text" not in completed({"choices": [{"message": message}]})
    assert (
        completed({"output_text": "a", "choices": [{"message": {"content": "b"}}]})["output_text"]
        == "a"
    )
    assert completed({"choices": "none"}) == {"choices": "none"}


def python(source: str, threshold: float | None = None) -> PythonCheck:
    return PythonCheck("mine", source=source, pass_threshold=threshold)


@needs_sandbox
def test_python_gives_a_score() -> None:
    source = """
import json
print("what it prints is no score")
def grade(sample, item):
    return len(sample["output_text"]) / item["most"]
"""
    assert grade(python(source), spaces("abc", most=4)) == Grade(0.75, True)
    assert grade(python(source, 0.8), spaces("abc", most=4)) == Grade(0.75, False)
    assert grade(python("grade = lambda sample, item: item is None"), spaces()).score == 0


@needs_sandbox
@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("def grade(sample, item): return item['none']", "KeyError: 'none'"),
        ("def grade(sample, item): return 'good'", "which is no number"),
        ("def grade(sample, item): return float('nan')", "which is no score"),
        ("def score(sample, item): return 1", "no function grade"),
        ("import msgspec\ndef grade(sample, item): return 1", "No module named 'msgspec'"),
        ("import os\ndef grade(sample, item): os._exit(0)", "failed"),
        ("def grade(sample, item): return [0] * 10**10", "failed|memory"),
    ],
)
def test_python_that_gives_no_score_says_why(source: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        grade(python(source), spaces())


def test_messages_become_one_text_part_and_keep_what_they_say() -> None:
    sent = {
        "type": "label_model", "name": "l", "model": "m", "labels": ["a", "b"],
        "passing_labels": ["a"],
        "input": [
            {"role": "developer", "content": "Judge."},
            {"role": "user", "content": [{"type": "input_text", "text": "It: "}, "{{item.x}}"]},
        ],
    }  # fmt: skip
    found = msgspec.to_builtins(checked(msgspec.convert(sent, Criterion)))
    assert [message["content"] for message in found["input"]] == [
        {"type": "input_text", "text": "Judge."},
        {"type": "input_text", "text": "It: {{item.x}}"},
    ]
    assert {key: found[key] for key in sent if key != "input"} == {
        key: value for key, value in sent.items() if key != "input"
    }


def test_a_threshold_outside_of_the_range_is_refused() -> None:
    sent = {
        "type": "score_model", "name": "s", "model": "m", "pass_threshold": 11,
        "range": [0, 10], "input": [{"role": "user", "content": "?"}],
    }  # fmt: skip
    with pytest.raises(InvalidInput) as caught:
        checked(msgspec.convert(sent, Criterion), "testing_criteria[3]")
    assert caught.value.param == "testing_criteria[3].pass_threshold"
