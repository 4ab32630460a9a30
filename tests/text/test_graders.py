"""Graders: what each kind gives, what it refuses, and what no text can do to it."""

from __future__ import annotations

import time
from typing import Any

import pydantic
import pytest

from bessemer.core import sandbox
from bessemer.core.errors import DataError, InvalidInput, SandboxUnavailable
from bessemer.core.reward_sections import CodePart, ExactPart, FormatPart, LengthPart, RewardPart
from bessemer.text.bpe import train_bpe
from bessemer.text.graders import Answer, Grader, open_grader
from bessemer.text.tokenizer import Tokenizer

ASKED = [{"role": "user", "content": "What is 6 * 7?"}]


def answer(text: str, **item: Any) -> Answer:
    return Answer(ASKED, text, item, finished=True)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_bpe(["It is red."], 280, tmp_path_factory.mktemp("tokenizer"))


def opened(tokenizer: Tokenizer, **table: Any) -> Grader:
    part = pydantic.TypeAdapter[RewardPart](RewardPart).validate_python(table)
    assert isinstance(part, ExactPart | FormatPart | CodePart | LengthPart)
    return open_grader(part, tokenizer)


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
def test_an_exact_answer(tokenizer: Tokenizer, table: Any, text: str, reward: float) -> None:
    judge = opened(tokenizer, kind="exact", **table)
    assert judge([answer(text, answer="42")]) == [reward]


def test_an_exact_answer_may_be_deep_in_the_item_and_folded(tokenizer: Tokenizer) -> None:
    judge = opened(tokenizer, kind="exact", field="reference.value", text="folded")
    item = {"value": ["The Thames", "Thames"]}
    texts = ("thames", "the  thames", "Seine")
    assert judge([answer(text, reference=item) for text in texts]) == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("item", [{}, {"answers": "42"}])
def test_an_item_without_the_field_stops_the_run(
    tokenizer: Tokenizer, item: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match=rf"no field 'answer'.*{sorted(item)}".replace("[", r"\[")):
        opened(tokenizer, kind="exact")([answer("42", **item)])


def test_a_format_is_of_the_whole_text_and_crosses_lines(tokenizer: Tokenizer) -> None:
    judge = opened(tokenizer, kind="format", pattern=r"<think>.*</think>\s*<answer>.*</answer>")
    good = "<think>\n6 * 7\n</think>\n<answer>42</answer>"
    texts = [good, good + "!", "Well: " + good, "", "\ud800"]
    assert judge([answer(text) for text in texts]) == [1.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("pattern", ["(", r"(?=a)", r"(a)\1", "a{2,1}"])
def test_a_pattern_that_re2_cannot_read_is_refused_at_once(
    tokenizer: Tokenizer, pattern: str
) -> None:
    with pytest.raises(InvalidInput, match="cannot be used") as caught:
        opened(tokenizer, kind="format", pattern=pattern)
    assert "no look-around" in str(caught.value.next_step)


def test_a_pattern_without_its_group_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidInput, match="cannot be used") as caught:
        opened(tokenizer, kind="exact", extract="pattern", pattern="is ([0-9]+)")
    assert "(?P<answer>...)" in str(caught.value.next_step)


def test_no_text_makes_a_pattern_slow(tokenizer: Tokenizer) -> None:
    judge = opened(tokenizer, kind="format", pattern="(a+)+b")  # 2^n steps for one that goes back
    begin = time.perf_counter()
    assert judge([answer("a" * 100_000)]) == [0.0]
    assert time.perf_counter() - begin < 1


def needs_sandbox() -> None:
    if reason := sandbox.available():
        pytest.skip(reason)


def test_code_earns_the_share_of_its_tests(tokenizer: Tokenizer) -> None:
    needs_sandbox()
    judge = opened(tokenizer, kind="code")
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
def test_tests_that_are_none_stop_the_run(tokenizer: Tokenizer, tests: Any, says: str) -> None:
    needs_sandbox()
    with pytest.raises(DataError, match=says):
        opened(tokenizer, kind="code")([answer("x = 1", tests=tests)])


def test_without_a_sandbox_code_is_refused_when_the_run_starts(
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    sandbox.available.cache_clear()
    try:
        with pytest.raises(SandboxUnavailable, match="bubblewrap is not installed"):
            opened(tokenizer, kind="code")
    finally:
        sandbox.available.cache_clear()


def test_length_costs_nothing_and_then_falls(tokenizer: Tokenizer) -> None:
    judge = opened(tokenizer, kind="length", unit="characters", free=10, most=20)
    texts = ["", "x" * 10, "x" * 15, "x" * 20, "x" * 500]
    assert judge([answer(text) for text in texts]) == [1.0, 1.0, 0.5, 0.0, 0.0]
    tokens = len(tokenizer.encode_continuation("It is red.", parse_special=False))
    judge = opened(tokenizer, kind="length", free=tokens - 1, most=tokens + 1)
    assert judge([answer("It is red.")]) == [0.5]
