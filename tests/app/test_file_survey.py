"""What is known of a file while it is still being read, and of one that cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bessemer.app import files
from bessemer.app.file_survey import LINES_OF_A_PAGE, MOST_FAULTS, Surveys
from bessemer.app.files import File, Purpose
from bessemer.app.platform import Platform
from bessemer.core.errors import NotFound
from bessemer.core.home import Home

CHAT = json.dumps({"messages": [{"role": "user", "content": "a"},
                                {"role": "assistant", "content": "b"}]})  # fmt: skip


def keep(folder: Path, text: bytes, purpose: Purpose = "fine-tune") -> File:
    with Platform.open(Home(folder)) as platform:
        return files.add_bytes(platform, platform.local_principal(), "a.jsonl", purpose, text)


def test_a_survey_tells_how_far_it_is(tmp_path: Path) -> None:
    later: list[Callable[[], None]] = []
    surveys = Surveys(start=later.append)
    file = keep(tmp_path, f"{CHAT}\n".encode() * 3 * LINES_OF_A_PAGE)
    survey = surveys.of(file)
    assert (survey.done, survey.share, survey.eta_s, survey.page(1)) == (False, 0.0, None, [])
    later[0]()
    assert (survey.done, survey.share, survey.pages) == (True, 1.0, 3)
    assert (survey.lines, survey.shape, survey.fault_lines) == (3 * LINES_OF_A_PAGE, "chat", 0)
    assert surveys.of(file) is survey and len(later) == 1


def test_it_reads_a_file_once_and_every_page_knows_where_it_begins(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbf\n" + f"{CHAT}\r\n\n".encode() * 40
    survey = Surveys().of(keep(tmp_path, text))
    assert [line.number for line in survey.page(2)] == list(range(52, 82, 2))
    assert [survey.page_of_line(n) for n in (1, 50, 51, 52, 10**9)] == [1, 1, 1, 2, 2]
    with pytest.raises(NotFound, match="it has 2"):
        survey.page(3)


def test_faults_are_counted_beyond_those_that_are_kept(tmp_path: Path) -> None:
    survey = Surveys().of(keep(tmp_path, b"{\n" * (MOST_FAULTS + 7)))
    assert (survey.fault_lines, len(survey.faults)) == (MOST_FAULTS + 7, MOST_FAULTS)


def test_what_is_utf_16_cannot_be_read_and_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    survey = Surveys().of(keep(tmp_path, CHAT.encode("utf-16")))
    assert survey.done and survey.fault is not None and "UTF-16" in survey.fault
    empty = Surveys().of(keep(tmp_path, b""))
    assert (empty.done, empty.fault, empty.lines, empty.page(1)) == (True, None, 0, [])
