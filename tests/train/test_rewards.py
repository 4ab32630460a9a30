"""Rewards: what a reward model gives, and what each reward of a recipe is called."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from bessemer.core.errors import InvalidInput
from bessemer.text.chat_encoding import encode_chat
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.graders import Answer, Grader
from bessemer.text.tokenizer import Tokenizer
from bessemer.train.objectives.reward_model import reward_of
from bessemer.train.rewards import open_rewards
from bessemer.train.task import Setting
from tests.core.test_reward_sections import parts
from tests.train.test_reward_model import make_scorer, setting_of

ASKED = [{"role": "user", "content": "What is 6 * 7?"}]


def answer(text: str, messages: Any = ASKED, **item: Any) -> Answer:
    return Answer(messages, text, item, finished=True)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return setting_of(tmp_path / "run")


def opened(setting: Setting, **table: Any) -> Grader:
    ((reward, _),) = open_rewards(parts(table), setting)
    return reward


def test_a_reward_model_scores_as_it_was_trained(setting: Setting, tmp_path: Path) -> None:
    folder = tmp_path / "judge"
    model = make_scorer(tmp_path / "run", dtype=torch.float32)
    model.save(folder, like=tmp_path / "model")
    setting.plan["models"]["judge"] = {"path": str(folder)}  # type: ignore[index]
    earlier = [*ASKED, {"role": "assistant", "content": "It is red."}, ASKED[0]]
    answers = [answer("It is green."), answer("It is blue.", messages=earlier)]
    raw = opened(setting, kind="model", model="judge", score="raw")(answers)
    tokenizer, template = Tokenizer.load(folder), ChatTemplate.load(folder)
    chats = [
        encode_chat([*a.messages, {"role": "assistant", "content": a.text}], tokenizer, template)
        for a in answers
    ]
    assert raw == pytest.approx(reward_of(model, [chat.ids for chat in chats]), abs=1e-5)
    assert raw[0] != raw[1]
    squeezed = opened(setting, kind="model", model="judge")(answers)
    assert squeezed == pytest.approx([1 / (1 + math.exp(-score)) for score in raw])


def test_an_answer_that_the_reward_model_cannot_read_whole_is_refused(
    setting: Setting, tmp_path: Path
) -> None:
    folder = tmp_path / "judge"
    make_scorer(tmp_path / "run", dtype=torch.float32).save(folder, like=tmp_path / "model")
    setting.plan["models"]["judge"] = {"path": str(folder)}  # type: ignore[index]
    with pytest.raises(InvalidInput, match="judge reads 128"):
        opened(setting, kind="model", model="judge")([answer("red " * 200)])


def test_rewards_of_one_kind_have_names_of_their_own(setting: Setting) -> None:
    tables = [{"kind": "exact"}, {"kind": "format", "pattern": "x", "weight": 0.2}, {"kind": "exact", "extract": "tag"}]  # fmt: skip  # noqa: E501
    found = open_rewards(parts(*tables), setting)
    assert [(reward.name, weight) for reward, weight in found] == [
        ("exact", 1.0),
        ("format", 0.2),
        ("exact-2", 1.0),
    ]
