"""Graders of the fine-tuning API: what they give, and what cannot be one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bessemer.core.errors import DataError, InvalidInput
from bessemer.core.reward_sections import GraderPart
from bessemer.text.criterion_checks import sample_of
from bessemer.text.grader_objects import read_grader
from bessemer.text.graders import Answer, ObjectGrader

RIGHT: dict[str, Any] = {
    "type": "string_check",
    "name": "right",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}
LIKE: dict[str, Any] = {
    "type": "text_similarity",
    "name": "like",
    "evaluation_metric": "rouge_1",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}
BOTH: dict[str, Any] = {
    "type": "multi",
    "name": "both",
    "graders": {"right": RIGHT, "like": LIKE},
    "calculate_output": "0.5 * right + 0.5 * like",
}
JUDGE: dict[str, Any] = {
    "type": "score_model",
    "name": "judge",
    "model": "m",
    "input": [{"role": "user", "content": "Grade {{sample.output_text}}"}],
}


def test_a_single_grader_gives_its_own_score() -> None:
    spaces = {"item": {"answer": "a red box"}, "sample": sample_of("a box")}
    assert read_grader(RIGHT).grade(spaces) == (0.0, {})
    assert read_grader(LIKE).grade(spaces).reward == pytest.approx(0.8)


def test_a_multi_grader_gives_what_its_formula_says() -> None:
    spaces = {"item": {"answer": "a red box"}, "sample": sample_of("a box")}
    found = read_grader(BOTH).grade(spaces)
    assert found.parts == {"right": 0.0, "like": pytest.approx(0.8)}
    assert found.reward == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("spelled", "param"),
    [
        ({}, "g.type"),
        ({"type": "label_model"}, "g.type"),
        ({**RIGHT, "operation": "equals"}, "g.operation"),
        ({**RIGHT, "colour": "red"}, "g"),
        ({**LIKE, "pass_threshold": 0.5}, "g.pass_threshold"),
        ({**RIGHT, "input": "{{other.field}}"}, "g.input"),
        ({"type": "python", "name": "p", "source": "def grade("}, "g.source"),
        ({**BOTH, "calculate_output": "right + wrong"}, "g.calculate_output"),
        ({**BOTH, "calculate_output": "right +"}, "g.calculate_output"),
        ({**BOTH, "graders": {}}, "g.graders"),
        ({**BOTH, "graders": {"a": BOTH}}, "g.graders.a.type"),
        ({**JUDGE, "range": [1, 0]}, "g.range"),
    ],
)
def test_what_cannot_be_a_grader_names_its_field(spelled: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as fault:
        read_grader(spelled, "g")
    assert fault.value.param == param


def test_a_grader_that_asks_a_model_cannot_judge_in_a_run() -> None:
    cosine = {**LIKE, "evaluation_metric": "cosine"}
    for spelled in (JUDGE, cosine, {**BOTH, "graders": {"right": RIGHT, "like": JUDGE}}):
        with pytest.raises(InvalidInput, match="no model can be asked in a run"):
            read_grader(spelled).require_alone("in a run")
    read_grader(BOTH).require_alone("in a run")


def test_as_a_reward_an_answer_that_cannot_be_judged_earns_nothing() -> None:
    spelled = {**RIGHT, "input": "{{sample.output_json.color}}"}
    reward = ObjectGrader(GraderPart(kind="grader", grader=json.dumps(spelled)))
    answers = [
        Answer([], text, {"answer": "red"}, finished=True)
        for text in ('{"color": "red"}', "red", '{"colour": "red"}')
    ]
    assert reward(answers) == [1.0, 0.0, 0.0]


def test_as_a_reward_a_line_without_a_field_is_an_error() -> None:
    reward = ObjectGrader(GraderPart(kind="grader", grader=json.dumps(RIGHT)))
    with pytest.raises(DataError, match=r"item\.answer"):
        reward([Answer([], "red", {"color": "red"}, finished=True)])
