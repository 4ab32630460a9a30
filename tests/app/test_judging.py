"""What a judge is held to, here and at a partner, and what it said: as it is, in an object, cut."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from bessemer.app.chat import PARTNER, ServedModel
from bessemer.app.judging import judging, label_said, partners_of, score_said
from bessemer.core.errors import DataError
from bessemer.core.principal import Principal
from bessemer.text.criteria import EvalMessage, LabelModel, ScoreModel
from tests.fakes import FakeResponder, FakeServing

ASKED = [EvalMessage("user", "Well?")]
SCORE = ScoreModel(name="s", model="m", input=ASKED)
LABEL = LabelModel(name="l", model="m", input=ASKED, labels=["good", "1"], passing_labels=["1"])


@pytest.mark.parametrize(
    "text", ["0.25", ' {"score":0.25}\n', '{ "score" : 2.5e-1 }', '{"score": 0.25000']
)
def test_a_score_is_read(text: str) -> None:
    assert score_said(SCORE, text) == 0.25


@pytest.mark.parametrize(
    ("text", "label"), [("good\n", "good"), ('{"label": "good"}', "good"), ("1", "1")]
)
def test_a_label_is_read(text: str, label: str) -> None:
    assert label_said(LABEL, text) == label


def test_what_is_no_label_is_an_error() -> None:
    for text in ('{"label": "better"}', '{"label": 1}', '"good"', '{"label": "go'):
        with pytest.raises(DataError, match="none of the labels"):
            label_said(LABEL, text)


class WithPartner(FakeServing):
    def models(self, principal: Principal) -> list[ServedModel]:
        assert "models:read" in principal.scopes
        return [*super().models(principal), ServedModel("far", 0, PARTNER, "ready")]


@pytest.mark.parametrize(
    ("criterion", "name", "field"),
    [
        (LABEL, "label", {"type": "string", "enum": ["good", "1"]}),
        (SCORE, "score", {"type": "number", "minimum": 0, "maximum": 1}),
    ],
)
def test_a_partners_judge_gives_an_object_as_openais_strict_schemas_are(
    criterion: Any, name: str, field: dict[str, Any]
) -> None:
    serving = WithPartner({"m": FakeResponder()})
    partners = partners_of(serving, Principal("org", "p1", "u1", frozenset({"chat"})))
    assert partners == {"far"}
    here = judging(criterion, [], partners=partners)
    there = judging(msgspec.structs.replace(criterion, model="far"), [], partners=partners)
    assert here.constraint is not None and there.constraint is not None
    assert json.loads(here.constraint.text) == field.get("enum", field)
    assert there.constraint.kind == "json_schema"
    assert json.loads(there.constraint.text) == {
        "type": "object",
        "properties": {name: field},
        "required": [name],
        "additionalProperties": False,
    }
    assert there.max_tokens is not None and here.max_tokens is not None
    assert here.max_tokens <= 32 and there.max_tokens == here.max_tokens + 40
