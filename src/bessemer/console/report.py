"""An evaluation's report as sentences and tables. It words nothing itself: `evals` does.

`output/report.json` may be of any version: its `sentences` are shown as they are, and the rest as
tables, whatever its shape.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from bessemer.console.wording import figure

MAX_ROWS = 60

_NUMBER_STARTS = frozenset("+-–[0123456789")

# What a reader wants of these first; columns that are not there are passed over.
COLUMNS = {
    "comparisons": (
        "metric", "candidate", "baseline", "candidate_value", "baseline_value",
        "difference", "verdict", "items",
    ),
    "values": ("metric", "who", "value", "unit", "answered", "asked"),
}  # fmt: skip


class Grid(NamedTuple):
    """A table: `rows` are as long as `columns`; `left_out` rows were too many to show."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    left_out: int = 0

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold only numbers, intervals and gaps, to be set flush right."""
        cells = zip(*self.rows, strict=True)
        return [all(cell[:1] in _NUMBER_STARTS for cell in column) for column in cells]


class Report(NamedTuple):
    """What an evaluation found: `grids` to read, `details` to look things up in.

    `fault` says why it cannot be read, if it cannot.
    """

    sentences: list[str]
    grids: list[Grid]
    details: list[Grid]
    fault: str | None = None


def read_report(path: Path) -> Report | None:
    """The report at `path`; None if there is none."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as fault:
        return Report([], [], [], f"{path.name} cannot be read: {fault}")
    if not isinstance(found, dict):
        return Report([], [], [], f"{path.name} is not a JSON object")
    sentences = found.pop("sentences", None)
    if not isinstance(sentences, list):
        sentences = [] if sentences is None else [sentences]
    first = [_of_objects(name, found.pop(name)) for name in COLUMNS if _is_table(found.get(name))]
    return Report([_sentence(item) for item in sentences], first, _grids(found))


def _sentence(item: Any) -> str:
    if isinstance(item, dict):
        return str(item.get("text") or item.get("sentence") or json.dumps(item))
    return str(item)


def _grids(found: dict[str, Any]) -> list[Grid]:
    tables = [_of_objects(name, value) for name, value in found.items() if _is_table(value)]
    facts = [
        leaf
        for name, value in found.items()
        if not _is_table(value) and value not in ([], {}, None)
        for leaf in _leaves(name, value)
    ]
    if not facts:
        return tables
    rows = [[_title(key), value] for key, value in facts]
    return [*tables, Grid("Settings", ["", "value"], rows[:MAX_ROWS], len(rows[MAX_ROWS:]))]


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _of_objects(name: str, objects: list[dict[str, Any]]) -> Grid:
    flat = [
        dict(leaf for key, value in item.items() for leaf in _leaves(key, value))
        for item in objects[:MAX_ROWS]
    ]
    there = list(dict.fromkeys(key for row in flat for key in row))
    columns = [column for column in COLUMNS.get(name, ()) if column in there] or there
    rows = [[row.get(column, "–") for column in columns] for row in flat]
    titles = [_title(column) for column in columns]
    return Grid(_title(name).capitalize(), titles, rows, len(objects[MAX_ROWS:]))


def _leaves(name: str, value: Any) -> list[tuple[str, str]]:
    if not isinstance(value, dict) or _is_interval(value):
        return [(name, _cell(value))]
    return [
        leaf
        for key, item in value.items()
        for leaf in _leaves(f"{name}.{key}" if name else key, item)
    ]


def _is_interval(value: dict[str, Any]) -> bool:
    return {"low", "high"} <= value.keys()


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return _interval(value) if _is_interval(value) else json.dumps(value)
    if isinstance(value, list):
        shown = ", ".join(_cell(item) for item in value[:6]) + (", …" if len(value) > 6 else "")
        return f"[{shown}]"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return figure(value)


def _interval(found: dict[str, Any]) -> str:
    """
    >>> _interval({"value": -1.4382, "low": -1.581, "high": -1.312})
    '-1.438 [-1.581, -1.312]'
    """
    ends = f"[{_signed(found['low'])}, {_signed(found['high'])}]"
    middle = next((found[key] for key in ("value", "mean", "estimate") if key in found), None)
    return ends if middle is None else f"{_signed(middle)} {ends}"


def _signed(value: Any) -> str:
    """A difference: with its sign, and as many decimals as the other end of its interval."""
    return f"{value:+.3f}" if isinstance(value, (int, float)) else figure(value)


def _title(name: str) -> str:
    return name.replace("_", " ").replace(".", " · ")
