"""What answers are judged by: sections that contradict themselves are refused."""

from __future__ import annotations

from typing import Any

import pydantic
import pytest

from bessemer.core.reward_sections import RewardPart


def parts(*tables: dict[str, Any]) -> list[RewardPart]:
    adapter: pydantic.TypeAdapter[list[RewardPart]] = pydantic.TypeAdapter(list[RewardPart])
    return adapter.validate_python(list(tables))


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
                      {"kind": "model", "model": "m"}, {"kind": "length", "free": 1, "most": 2},
                      {"kind": "grader", "grader": "{}"}):  # fmt: skip
        assert [name for name, f in type(part).model_fields.items() if not f.description] == []
