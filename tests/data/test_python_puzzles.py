"""Puzzles: every solution passes its tests in the sandbox, and an empty one passes none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bessemer.core.sandbox import available
from bessemer.core.unit_tests import passed
from bessemer.data.corpus import SPLITS
from bessemer.data.dataset import Dataset
from bessemer.data.python_puzzles import PUZZLES, Puzzle, build


def test_every_solution_passes_and_no_empty_function_does() -> None:
    if reason := available():
        pytest.skip(reason)

    def judge(puzzle: Puzzle) -> tuple[bool, bool]:
        empty = f"def {puzzle.signature}:\n    return None\n"
        tests = puzzle.asserts
        return all(passed(puzzle.code, tests)), any(passed(empty, tests))

    with ThreadPoolExecutor(2) as pool:
        found = dict(zip((p.name for p in PUZZLES), pool.map(judge, PUZZLES), strict=True))
    assert {name: verdict for name, verdict in found.items() if verdict != (True, False)} == {}


def test_the_dataset_asks_and_does_not_tell(tmp_path: Path) -> None:
    build(tmp_path / "puzzles")
    dataset = Dataset.open(tmp_path / "puzzles")
    prompts = [prompt for split in SPLITS for prompt in dataset.prompts(split)]
    assert sorted(str(prompt.symbol) for prompt in prompts) == sorted({p.name for p in PUZZLES})
    assert 30 <= len(prompts) <= 60
    assert all(dataset.info["counts"].values())
    by_name = {puzzle.name: puzzle for puzzle in PUZZLES}
    for prompt in prompts:
        puzzle = by_name[str(prompt.symbol)]
        (message,) = prompt.messages
        assert f"`{puzzle.signature}`" in message["content"]
        assert prompt.item == {"tests": puzzle.asserts}
