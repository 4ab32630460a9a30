"""Rewards: what each kind gives, what stops a run, and what no text can do to them."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pydantic
import pytest
import torch

from bessemer.core import sandbox
from bessemer.core.errors import DataError, InvalidInput, SandboxUnavailable
from bessemer.text.chat_encoding import encode_chat
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer
from bessemer.train.objectives.reward_model import reward_of
from bessemer.train.rewards import Answer, Reward, open_rewards
from bessemer.train.sections import RewardPart
from bessemer.train.task import Setting
from tests.train.test_reward_model import make_scorer, setting_of

ASKED = [{"role": "user", "content": "What is 6 * 7?"}]


def parts(*tables: dict[str, Any]) -> list[RewardPart]:
    adapter: pydantic.TypeAdapter[list[RewardPart]] = pydantic.TypeAdapter(list[RewardPart])
    return adapter.validate_python(list(tables))


def answer(text: str, messages: Any = ASKED, **item: Any) -> Answer:
    return Answer(messages, text, item, finished=True)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return setting_of(tmp_path / "run")


def opened(setting: Setting, **table: Any) -> Reward:
    ((reward, _),) = open_rewards(parts(table), setting)
    return reward


@pytest.mark.parametrize(
    ("table", "text", "reward"),
    [
        ({}, " 42\n", 1.0),
        ({}, "It is 42.", 0.0),
        ({"extract": "last-number"}, "6 * 7 = 42.0, I think.", 1.0),
        ({"extract": "last-number"}, "No idea.", 0.0),
        ({"extract": "tag"}, "<think>41?</think><answer>42</answer>", 1.0),
        ({"extract": "tag", "tag": "result"}, "<answer>42</answer>", 0.0),
        ({"extract": "boxed"}, r"\(\boxed{42}\)", 1.0),
        ({"extract": "pattern", "pattern": r"is (?P<answer>\S+) *;"}, "it is 42;", 1.0),
        ({"extract": "pattern", "pattern": r"is (?P<answer>\S+) *;"}, "it is 42", 0.0),
    ],
)
def test_an_exact_answer(setting: Setting, table: Any, text: str, reward: float) -> None:
    judge = opened(setting, kind="exact", **table)
    assert judge([answer(text, answer="42")]) == [reward]


def test_an_exact_answer_may_be_deep_in_the_item_and_folded(setting: Setting) -> None:
    judge = opened(setting, kind="exact", field="reference.value", text="folded")
    item = {"value": ["The Thames", "Thames"]}
    texts = ("thames", "the  thames", "Seine")
    assert judge([answer(text, reference=item) for text in texts]) == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("item", [{}, {"answers": "42"}])
def test_an_item_without_the_field_stops_the_run(setting: Setting, item: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=rf"no field 'answer'.*{sorted(item)}".replace("[", r"\[")):
        opened(setting, kind="exact")([answer("42", **item)])


def test_a_format_is_of_the_whole_text_and_crosses_lines(setting: Setting) -> None:
    judge = opened(setting, kind="format", pattern=r"<think>.*</think>\s*<answer>.*</answer>")
    good = "<think>\n6 * 7\n</think>\n<answer>42</answer>"
    texts = [good, good + "!", "Well: " + good, "", "\ud800"]
    assert judge([answer(text) for text in texts]) == [1.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("pattern", ["(", r"(?=a)", r"(a)\1", "a{2,1}"])
def test_a_pattern_that_re2_cannot_read_is_refused_at_once(setting: Setting, pattern: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be used") as caught:
        opened(setting, kind="format", pattern=pattern)
    assert "no look-around" in str(caught.value.next_step)


def test_a_pattern_without_its_group_is_refused(setting: Setting) -> None:
    with pytest.raises(InvalidInput, match="cannot be used") as caught:
        opened(setting, kind="exact", extract="pattern", pattern="is ([0-9]+)")
    assert "(?P<answer>...)" in str(caught.value.next_step)


def test_no_text_makes_a_pattern_slow(setting: Setting) -> None:
    judge = opened(setting, kind="format", pattern="(a+)+b")  # 2^n steps for one that goes back
    begin = time.perf_counter()
    assert judge([answer("a" * 100_000)]) == [0.0]
    assert time.perf_counter() - begin < 1


def needs_sandbox() -> None:
    if reason := sandbox.available():
        pytest.skip(reason)


def test_code_earns_the_share_of_its_tests(setting: Setting) -> None:
    needs_sandbox()
    judge = opened(setting, kind="code")
    tests = ["assert double(2) == 4", "assert double(3) == 6", "assert double('a') == 'aa'"]
    texts = [
        "```python\ndef double(x):\n    return x + x\n```",
        "```python\ndef double(x):\n    return 4\n```",
        "def double(x): return 2 * x",
        "import sys; sys.exit(0)",
        "I cannot.",
    ]
    assert judge([answer(text, tests=tests) for text in texts]) == [1.0, 1 / 3, 1.0, 0.0, 0.0]
    assert judge([answer(texts[1], tests="\n".join(tests))]) == [0.0]


@pytest.mark.parametrize(
    ("tests", "says"),
    [([], "neither"), (7, "neither"), ([7], "neither"), (["f(", "x"], r"tests\[0\] is no Python")],
)
def test_tests_that_are_none_stop_the_run(setting: Setting, tests: Any, says: str) -> None:
    needs_sandbox()
    with pytest.raises(DataError, match=says):
        opened(setting, kind="code")([answer("x = 1", tests=tests)])


def test_without_a_sandbox_code_is_refused_when_the_run_starts(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    sandbox.available.cache_clear()
    try:
        with pytest.raises(SandboxUnavailable, match="bubblewrap is not installed"):
            opened(setting, kind="code")
    finally:
        sandbox.available.cache_clear()


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


def test_length_costs_nothing_and_then_falls(setting: Setting) -> None:
    judge = opened(setting, kind="length", unit="characters", free=10, most=20)
    texts = ["", "x" * 10, "x" * 15, "x" * 20, "x" * 500]
    assert judge([answer(text) for text in texts]) == [1.0, 1.0, 0.5, 0.0, 0.0]
    tokens = len(setting.tokenizer.encode_continuation("It is red.", parse_special=False))
    judge = opened(setting, kind="length", free=tokens - 1, most=tokens + 1)
    assert judge([answer("It is red.")]) == [0.5]


def test_rewards_of_one_kind_have_names_of_their_own(setting: Setting) -> None:
    tables = [{"kind": "exact"}, {"kind": "format", "pattern": "x", "weight": 0.2}, {"kind": "exact", "extract": "tag"}]  # fmt: skip  # noqa: E501
    found = open_rewards(parts(*tables), setting)
    assert [(reward.name, weight) for reward, weight in found] == [
        ("exact", 1.0),
        ("format", 0.2),
        ("exact-2", 1.0),
    ]


@pytest.mark.parametrize(
    "table",
    [
        {"kind": "exact", "pattern": "(?P<answer>x)"},
        {"kind": "exact", "extract": "pattern"},
        {"kind": "exact", "tests": "t"},
        {"kind": "format"},
        {"kind": "length", "free": 9, "most": 9},
        {"kind": "praise"},
        {"pattern": "x"},
    ],
)
def test_a_section_that_contradicts_itself_is_refused(table: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        parts(table)


def test_every_field_says_what_it_is() -> None:
    for part in parts({"kind": "exact"}, {"kind": "format", "pattern": "x"}, {"kind": "code"},
                      {"kind": "model", "model": "m"}, {"kind": "length", "free": 1, "most": 2}):  # fmt: skip  # noqa: E501
        assert [name for name, f in type(part).model_fields.items() if not f.description] == []
