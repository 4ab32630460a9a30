"""How verbs print: JSON for programs, aligned rows for people."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")

# Control characters, line ends, and what turns the direction of writing.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_rows(header: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
    """Columns as wide as their widest cell; the last one may be any length."""
    if not rows:
        click.echo(empty)
        return
    rows = [[_one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    widths[-1] = 0
    for number, row in enumerate((header, *rows)):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(click.style(line.rstrip(), dim=True) if number == 0 else line.rstrip())


def _one_line(cell: str) -> str:
    """Names may hold line ends and a terminal's commands: they are shown, and not obeyed."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), cell)


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """One `name  value` a line."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        click.echo(f"{click.style(name.ljust(width), dim=True)}  {value}")


def size(count: float) -> str:
    """541626146 -> `541.6 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """95 -> `1:35`, 4000 -> `1:06:40`."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def ago(created_ms: int, now: Callable[[], float] = time.time) -> str:
    """How long since then, in one unit."""
    seconds = now() - created_ms / 1000
    for unit, span in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= span:
            return f"{seconds // span:.0f} {unit} ago"
    return f"{max(0, seconds):.0f} s ago"


def short(digest: str) -> str:
    """`sha256:` and the first 12 digits, which is enough to name it."""
    return digest.removeprefix("sha256:")[:12]
