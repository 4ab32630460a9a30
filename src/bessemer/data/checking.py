"""Reads files of examples that nobody has vouched for.

`check_file` is for people: it goes through the whole file, recognizes its shape, and lists the
faults; an `Examiner` does that line by line. `checked_lines` is for programs: it knows what to
expect and stops at the first fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bessemer.core.errors import DataError
from bessemer.data.jsonl import Line, read_lines
from bessemer.data.shapes import CHATS, PROMPTS, Example, Shape, shape_of

MOST_FAULTS = 20


class Fault(NamedTuple):
    """What is wrong in a line; lines count from 1."""

    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}"


@dataclass
class Report:
    """What `check_file` found. `faults` holds the first 20, `more_faults` counts the rest.

    `examples` are the good lines, `answers` the assistant messages that would be learned from.
    """

    path: Path
    shape: Shape[Example] = CHATS
    examples: int = 0
    messages: int = 0
    answers: int = 0
    faults: list[Fault] = field(default_factory=list)
    more_faults: int = 0

    def raise_faults(self) -> None:
        """Raises DataError with every listed fault; nothing when the file is good."""
        if not self.faults:
            return
        listed = "\n".join(f"  {fault}" for fault in self.faults)
        more = f"\n  and {self.more_faults:,} more" if self.more_faults else ""
        raise DataError(
            f"{self.path.name} has {len(self.faults) + self.more_faults:,} faults:\n{listed}{more}",
            next_step="repair the lines named and import again; nothing was imported",
            faults=[fault._asdict() for fault in self.faults],
        )


@dataclass
class Examiner:
    """Looks at the lines of a file in their order.

    The first line whose keys tell its shape tells the file's; a line of another is a fault. `first`
    is that line's number.
    """

    shape: Shape[Example] = CHATS
    first: int | None = None

    def faults(self, line: Line) -> list[str]:
        if self.first is None and (shape := shape_of(line.value)):
            self.shape, self.first = shape, line.number
        return _faults(line, self.shape, self.first)


def check_file(path: Path) -> Report:
    """Go through a whole file and count what is good and what is not.

    Raises:
        DataError: the file cannot be read at all, or holds no line.
    """
    report, examiner, line = Report(path), Examiner(), None
    for line in read_lines(path):
        found = [Fault(line.number, message) for message in examiner.faults(line)]
        report.shape = examiner.shape
        room = MOST_FAULTS - len(report.faults)
        report.faults += found[:room]
        report.more_faults += len(found[room:])
        if not found:
            counts = report.shape.parse(line.value, None, None).counts()
            report.examples += 1
            report.messages += counts.messages
            report.answers += counts.answers
    if line is None:
        raise _empty(path)
    return report


def checked_lines(path: Path, shape: Shape[Example]) -> Iterator[dict[str, Any]]:
    """The lines of a file, one in memory at a time.

    Raises:
        DataError: at the first line that is not a good one of this shape, or at the end when
            there was no line.
    """
    line = None
    for line in read_lines(path):
        if faults := _faults(line, shape, None):
            raise DataError(
                faults[0],
                line=line.number,
                next_step=f"bessemer data check {path.name} lists all the faults",
            )
        yield line.value
    if line is None:
        raise _empty(path)


def _faults(line: Line, shape: Shape[Example], first: int | None) -> list[str]:
    if line.fault is not None:
        return [line.fault]
    faults = shape.faults_of(line.value)
    found = shape_of(line.value)
    # Among chats, a line that could be a prompt is rather a chat whose answer was forgotten.
    is_other = found not in (None, shape) and (shape, found) != (CHATS, PROMPTS)
    if faults and found and is_other and first is not None:
        return [
            f"is a {found.one}, but line {first} is a {shape.one}; a file holds one kind of lines"
        ]
    return faults


def _empty(path: Path) -> DataError:
    return DataError(
        f"{path.name} holds no chats",
        next_step='write one {"messages": [...]} object a line, with an assistant message in each,'
        " or one preference or prompt a line",
    )
