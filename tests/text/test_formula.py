"""Formulas of `multi` graders: arithmetic over names, and nothing else of Python."""

from __future__ import annotations

import pytest

from bessemer.core.errors import DataError, InvalidInput
from bessemer.text.formula import Formula


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a + 2 * b", 2.0),
        ("-a ^ 2", -1.0),
        ("2 ^ 3 ^ 2", 512.0),
        ("(a - b) / 4", 0.125),
        ("max(a, b, 3) - min(a, b)", 2.5),
        ("floor(1.7) + ceil(b) + abs(-2)", 4.0),
        ("sqrt(4) + exp(0) + log(1)", 3.0),
        ("min(b)", 0.5),
    ],
)
def test_a_formula_has_its_value(text: str, value: float) -> None:
    assert Formula(text).value({"a": 1.0, "b": 0.5}) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a +",
        "a.b",
        "a[0]",
        "__import__('os')",
        "open(a)",
        "'text'",
        "True",
        "a if b else a",
        "a // b",
        "lambda: a",
        "min()",
        "sqrt(a, b)",
        "max(*a)",
        "(" * 5000,
        "a" * 20_000,
    ],
)
def test_what_is_no_arithmetic_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="formula"):
        Formula(text)


@pytest.mark.parametrize(
    "text", ["a / (b - b)", "log(0 * a)", "sqrt(-a)", "9 ^ 999999", "exp(9999)"]
)
def test_a_formula_without_a_value_says_so(text: str) -> None:
    with pytest.raises(DataError, match="has no value"):
        Formula(text).value({"a": 1.0, "b": 0.5})


def test_a_formula_knows_its_names() -> None:
    assert Formula("a + min(b, 2) * a").names == {"a", "b"}
