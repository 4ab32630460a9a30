"""Answers are found where they are said to stand, and compared as what they mean."""

from __future__ import annotations

import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.text.answers import code_in, in_box, in_tag, is_same, last_number, number_of


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12 - 5 = 7", "7"),
        ("12-5", "5"),
        ("It is -5.", "-5"),
        ("(−5)", "-5"),
        ("about $1,234,567.80!", "$1,234,567.80"),
        ("1, 2, 3", "3"),
        ("1,2,3", "3"),
        ("a half, 1/2", "1/2"),
        ("2.5e-3 m", "2.5e-3"),
        ("version 1.2.3", "3"),
        ("so...42", "42"),
        ("it is .5", ".5"),
        ("the 2nd", "2"),
        ("none", None),
        ("", None),
    ],
)
def test_the_last_number(text: str, number: str | None) -> None:
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("<answer>42</answer>", "42"),
        ("<answer>1</answer> no, <answer>\n2\n</answer>", "\n2\n"),
        ("<answer>1</answer> <answer>2", "1"),
        ("<answer><answer>3</answer>", "3"),
        ("42</answer>", None),
        ("<answer>42", None),
    ],
)
def test_the_last_tag(text: str, inside: str | None) -> None:
    assert in_tag(text, "answer") == inside


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"\boxed{42}", "42"),
        (r"\boxed{1}, so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{1", None),
        ("}{", None),
    ],
)
def test_the_last_box(text: str, inside: str | None) -> None:
    assert in_box(text) == inside


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x = 1", "x = 1"),
        ("So:\n```python\nx = 1\n```\nDone.", "x = 1"),
        ("```py\nx = 1\n```\n```Python\nx = 2\n\ny = 3\n```", "x = 2\n\ny = 3"),
        ("```\nx = 1\n```\n```bash\nls\n```", "x = 1"),
        ("```bash\nls\n```", "```bash\nls\n```"),
        ("```python\nx = 1", "x = 1"),
        ("- so\n  ```python\n  if x:\n      y\n  ```", "if x:\n    y"),
        ("```python\ns = '''\n```not a fence\n'''\n```", "s = '''\n```not a fence\n'''"),
    ],
)
def test_the_last_block_of_python(text: str, code: str) -> None:
    assert code_in(text) == code


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("1,000", "1000"),
        ("1000.0", 1000),
        ("+7", "7"),
        (" 7. ", "7"),
        ("$5", 5),
        ("1/2", 0.5),
        (r"\frac{1}{2}", "0.5"),
        (r"-\dfrac{3}{6}", "-1/2"),
        ("1e3", "1,000"),
        ("−4", -4),
        ("7", ["six", 7]),
        ("true", True),
        ("Paris", "Paris "),
    ],
)
def test_equal_answers(said: str, wanted: Any) -> None:
    assert is_same(said, wanted, folded=False)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("1,0", "10"),
        ("50%", "50"),
        ("1/0", "1/1"),
        ("7 apples", "7"),
        ("0.333", "1/3"),
        ("paris", "Paris"),
        ("", "0"),
        ("7", []),
        ("9" * 100, "9" * 99),
    ],
)
def test_unequal_answers(said: str, wanted: Any) -> None:
    assert not is_same(said, wanted, folded=False)


def test_folded_texts_forget_case_and_spaces() -> None:
    assert is_same(" The  ANSWER\n", "the answer", folded=True)
    assert not is_same("theanswer", "the answer", folded=True)


@given(st.fractions(max_denominator=10**6).filter(lambda f: abs(f) < 10**12))
def test_a_fraction_is_read_as_it_is_written(number: Fraction) -> None:
    assert number_of(str(number)) == number
    if number.denominator == 1:
        assert number_of(f"{int(number):,}") == number


@given(st.text())
def test_no_text_is_too_strange(text: str) -> None:
    for found in (last_number(text), in_tag(text, "answer"), in_box(text), code_in(text)):
        assert found is None or isinstance(found, str)
    number_of(text)


@pytest.mark.parametrize("text", ["1," * 10**5, "9" * 10**5, "\\frac{1}" * 10**5, "```\n" * 10**5])
def test_long_answers_take_linear_time(text: str) -> None:
    begin = time.perf_counter()
    for find in (last_number, in_box, code_in, number_of):
        find(text)
    assert time.perf_counter() - begin < 2
    assert number_of("1e999") is not None
    assert number_of("1e9999") is None
