"""A file of JSON lines to look at: its lines in pages, and its faults by the checks of a job.

A file never changes, so it is read through once (`Surveys.of`), in a thread; what that found so far
can be asked meanwhile. Its lines are then read where a page of them begins.

    survey = surveys.of(files.get(platform, principal, file_id))
    survey.faults            # the first of them, by line
    survey.page(1)           # its lines, each whole or with what is wrong in it
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from bessemer.app.files import File
from bessemer.core.errors import BessemerError, NotFound
from bessemer.data.checking import Examiner, Fault
from bessemer.data.jsonl import Line, Place, read_lines

LINES_OF_A_PAGE = 25
MOST_PAGES = 40_000  # a million lines; those after them are checked and not shown
MOST_FAULTS = 200
RAW_BYTES = 4_000
KEPT = 16
PATIENCE_S = 0.5

LINED = ("fine-tune", "evals", "batch", "batch_output")
"""The purposes of files of JSON lines; those for `fine-tune` have the shapes of examples."""


class ExaminedLine(NamedTuple):
    """A line as it is: `value` where it is JSON, else its first bytes as `raw`."""

    number: int
    value: Any
    faults: list[str]
    raw: str
    size_bytes: int

    @property
    def left_out_bytes(self) -> int:
        return max(0, self.size_bytes - RAW_BYTES)


class _Mark(NamedTuple):
    """Where a page begins, and what was known of the file's shape before it."""

    place: Place
    examiner: Examiner


class Survey:
    """What was found in a file so far; `done` when that is everything.

    Attributes:
        fault: why it cannot be read at all.
        faults: the first `MOST_FAULTS`; `fault_lines` counts the lines that have any.
    """

    def __init__(self, file: File) -> None:
        self.file = file
        self.lines = 0
        self.fault_lines = 0
        self.faults: list[Fault] = []
        self.fault: str | None = None
        self.done = False
        self._examiner = Examiner()
        self._checked = file.purpose == "fine-tune"
        self._marks: list[_Mark] = []
        self._read_bytes = 0
        self._began_s = time.monotonic()

    @property
    def shape(self) -> str | None:
        """What a line of it is called, once one has told."""
        known = self._checked and self._examiner.first is not None
        return self._examiner.shape.one if known else None

    @property
    def pages(self) -> int:
        return len(self._marks)

    @property
    def share(self) -> float:
        """Of the bytes that were read."""
        return 1.0 if self.done else min(1.0, self._read_bytes / max(1, self.file.bytes))

    @property
    def eta_s(self) -> float | None:
        """Seconds until it is done, at the speed so far."""
        if self.done or not self._read_bytes:
            return None
        spent_s = time.monotonic() - self._began_s
        return spent_s * (self.file.bytes - self._read_bytes) / self._read_bytes

    def page_of_line(self, number: int) -> int:
        """The page that holds line `number`, counted from 1."""
        begins = (mark.place.number for mark in self._marks)
        return max(1, sum(1 for _ in itertools.takewhile(lambda first: first <= number, begins)))

    def page(self, number: int) -> list[ExaminedLine]:
        """The lines of page `number`, counted from 1.

        Raises:
            NotFound: the file has no such page, or is gone.
        """
        if not self._marks and number == 1:
            return []
        if not 1 <= number <= len(self._marks):
            raise NotFound(f"{self.file.filename} has no page {number}; it has {self.pages}")
        place, before = self._marks[number - 1]
        examiner = dataclasses.replace(before)
        lines = read_lines(self.file.path, place)
        return [self._shown(line, examiner) for line in itertools.islice(lines, LINES_OF_A_PAGE)]

    def read(self) -> None:
        """Go through the file."""
        try:
            for line in read_lines(self.file.path):
                self._take(line)
        except BessemerError as fault:
            self.fault = fault.message
        self.done = True

    def _take(self, line: Line) -> None:
        self._read_bytes = line.offset
        if self.lines % LINES_OF_A_PAGE == 0 and len(self._marks) < MOST_PAGES:
            place = Place(line.number, line.offset)
            self._marks.append(_Mark(place, dataclasses.replace(self._examiner)))
        self.lines += 1
        if found := self._faults_of(line, self._examiner):
            self.fault_lines += 1
            room = MOST_FAULTS - len(self.faults)
            self.faults += [Fault(line.number, message) for message in found[:room]]

    def _shown(self, line: Line, examiner: Examiner) -> ExaminedLine:
        faults = self._faults_of(line, examiner)
        raw, size_bytes = self._raw(line) if faults else ("", 0)
        return ExaminedLine(line.number, line.value, faults, raw, size_bytes)

    def _faults_of(self, line: Line, examiner: Examiner) -> list[str]:
        if self._checked:
            return examiner.faults(line)
        return [] if line.fault is None else [line.fault]

    def _raw(self, line: Line) -> tuple[str, int]:
        """The first bytes of a line, and how many it has. What is not UTF-8 is marked."""
        size_bytes, kept = 0, b""
        with self.file.path.open("rb") as file:
            file.seek(line.offset)
            while data := file.readline(1 << 20):
                kept = kept or data[:RAW_BYTES]
                size_bytes += len(data.rstrip(b"\r\n"))
                if data.endswith(b"\n"):
                    break
        return kept.rstrip(b"\r\n").decode(errors="replace"), size_bytes


class Surveys:
    """The surveys of the files that were looked at last.

    Args:
        start: how to begin the reading; a test's own runs it at once.
    """

    def __init__(self, start: Callable[[Callable[[], None]], None] | None = None) -> None:
        self._start = start or _in_a_thread
        self._known: dict[str, Survey] = {}
        self._lock = threading.Lock()

    def of(self, file: File) -> Survey:
        """The file's survey; a moment is given to a new one, which is enough for most."""
        with self._lock:
            found = self._known.pop(file.id, None)
            fresh = found is None
            survey = Survey(file) if found is None else found
            self._known[file.id] = survey
            while len(self._known) > KEPT:
                del self._known[next(iter(self._known))]
        if fresh:
            self._start(survey.read)
        return survey


def _in_a_thread(work: Callable[[], None]) -> None:
    # A daemon: nobody waits for the rest of a file when the server ends.
    thread = threading.Thread(target=work, name="file-survey", daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
