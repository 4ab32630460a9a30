"""What a judge said, read: with its object, without it, and cut."""

from __future__ import annotations

import pytest

from bessemer.app.judging import label_said, score_said
from bessemer.core.errors import DataError
from bessemer.text.criteria import EvalMessage, LabelModel, ScoreModel

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
