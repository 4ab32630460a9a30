"""Texts with places in them: what is filled in, what is left, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.core.errors import DataError, InvalidInput
from bessemer.text.placeholders import Placeholders, place_of

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
PLAIN = st.text().filter(lambda text: "{{" not in text and "}}" not in text)
ITEM: dict[str, Any] = {
    "a": "x",
    "n": 5,
    "list": [{"b c": True}, {"name": "{{item.a}}"}],
    "deep": {"er": {"est": None}},
    "call": {"arguments": '{"city": ["Rome"]}'},
}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{{item.a}} and {{ item.a }}", "x and x"),
        ("{{item.n}}{{item.deep.er.est}}", "5null"),
        ("{{item.list[0]}}", '{"b c": true}'),
        ('{{item.list[0]["b c"]}}', "true"),
        ("{{item.list[1].name}}", "{{item.a}}"),
        ('Say {"a": {{1}}} or {{ "item" }}', 'Say {"a": {{1}}} or {{ "item" }}'),
        ("{{{item.a}}}", "{x}"),
        ("{{item.call.arguments}}", '{"city": ["Rome"]}'),
        ("{{item.call.arguments.city[0]}}", "Rome"),
        ("{item.a} {{}} {{ }}", "{item.a} {{}} {{ }}"),
    ],
)
def test_places_are_filled_and_other_braces_are_text(text: str, filled: str) -> None:
    assert Placeholders(text).fill({"item": ITEM}) == filled


@pytest.mark.parametrize(
    "text", ["{{row.a}}", "{{a}}", "{{item..a}}", "{{item.a + 1}}", "{{item[x]}}"]
)
def test_what_looks_like_a_place_and_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        Placeholders(text)


def test_a_namespace_that_will_not_be_there_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"sample\.output_text"):
        Placeholders("{{sample.output_text}}", allowed=("item",))
    with pytest.raises(InvalidInput, match="no path"):
        place_of("my trajectory")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{{item.b}}", r"\{\{item\.b\}\} is not there: item has a, call, deep, list, n"),
        ("{{item.list[2]}}", r"item\.list has 2 elements"),
        ("{{item.a.b}}", r"item\.a has no parts, it is str"),
        ("{{item.list.name}}", r"item\.list has 2 elements"),
        ("{{sample.output_text}}", "nothing has item"),
    ],
)
def test_a_value_that_is_not_there_is_told_with_what_is(text: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        Placeholders(text).fill({"item": ITEM})


@given(PLAIN)
def test_a_text_without_places_stays_as_it_is(text: str) -> None:
    assert Placeholders(text).fill({}) == text


@given(PLAIN, PLAIN, NAMES, VALUES)
def test_a_value_comes_out_verbatim_and_is_not_read_again(
    before: str, after: str, name: str, value: object
) -> None:
    written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # A brace right before or after would be part of the place's own.
    text = f"{before} {{{{ item.{name} }}}} {after}"
    assert Placeholders(text).fill({"item": {name: value}}) == f"{before} {written} {after}"


@given(st.text(alphabet="{}item.sample[]0\"' x", max_size=40))
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    try:
        found = Placeholders(text)
    except InvalidInput:
        return
    try:
        found.fill({"item": ITEM, "sample": {}})
    except DataError:
        assert found.places
