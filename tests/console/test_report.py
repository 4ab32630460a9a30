"""Reports of any shape become sentences and tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.console.report import Report, read_report
from tests.console.told_runs import found

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def read(folder: Path, value: Any) -> Report:
    path = folder / "report.json"
    path.write_text(json.dumps(value))
    report = read_report(path)
    assert report is not None
    return report


def test_no_file_is_no_report(tmp_path: Path) -> None:
    assert read_report(tmp_path / "report.json") is None


def test_sentences_are_shown_as_they_are(tmp_path: Path) -> None:
    assert read(tmp_path, found(["One.", "Two."])).sentences == ["One.", "Two."]


def test_differences_carry_their_intervals(tmp_path: Path) -> None:
    comparisons, values = read(tmp_path, found([])).grids
    row = dict(zip(comparisons.columns, comparisons.rows[0], strict=True))
    assert row["difference"] == "-1.438 [-1.581, -1.312]"
    assert row["verdict"] == "better"
    assert values.rows[0][:3] == ["nll", "base", "3.941"]


def test_a_difference_without_an_interval_is_a_gap(tmp_path: Path) -> None:
    report = found([])
    report["comparisons"][0]["difference"] = None
    report["comparisons"][1]["difference"] = {"value": 0.5, "low": None, "high": None}
    cells = [row[5] for row in read(tmp_path, report).grids[0].rows]
    assert cells == ["–", "+0.500 [–, –]"]


def test_long_tables_say_how_much_they_leave_out(tmp_path: Path) -> None:
    report = read(tmp_path, {"items": [{"n": number} for number in range(100)]})
    (grid,) = report.details
    assert len(grid.rows) + grid.left_out == 100
    assert grid.left_out > 0


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"x"'])
def test_a_broken_report_says_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    report = read_report(path)
    assert report is not None and report.fault


@given(st.dictionaries(st.text(max_size=8) | st.just("comparisons"), JSON, max_size=5))
def test_any_object_becomes_tables_without_ragged_rows(
    tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]
) -> None:
    report = read(tmp_path_factory.mktemp("report"), value)
    for grid in (*report.grids, *report.details):
        assert all(len(row) == len(grid.columns) for row in grid.rows)
        assert len(grid.numeric) == len(grid.columns)
