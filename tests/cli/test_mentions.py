"""What the source tells a person to type can be typed."""

from __future__ import annotations

from pathlib import Path

import pytest

import bessemer
from tests.cli.mentions import Mention, fault_of, mentions

SOURCE = Path(bessemer.__file__).parent


def test_every_command_that_is_named_exists() -> None:
    found = list(mentions(SOURCE))
    assert len(found) > 60, "the scan has lost sight of the source"
    assert sum(mention.alone for mention in found) > 10
    faults = [
        f"{m.place}: bessemer {' '.join(m.words)}: {why}" for m in found if (why := fault_of(m))
    ]
    assert faults == []


@pytest.mark.parametrize(
    ("words", "is_fault"),
    [
        ("runs {x} --follow", False),
        ("runs show {x}", True),
        ("runs {x} --stop", True),
        ("up serves both models again", False),
        ("pull PATH takes a Hugging Face folder", False),
        ("data build python-docs", False),
        ("data make python-docs", True),
        ("data import FILE.jsonl makes one", False),
        ("train --resume {x}", False),
        ("serve", True),
        ("explain", False),
    ],
)
def test_the_check_tells_commands_from_mistakes(words: str, is_fault: bool) -> None:
    assert (fault_of(Mention("", tuple(words.split()), alone=False)) is not None) == is_fault


def test_a_whole_next_step_needs_all_its_arguments() -> None:
    assert fault_of(Mention("", ("explain",), alone=True)) is not None
