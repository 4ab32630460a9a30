"""A run that was killed says with how much memory, and what to change when that was the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bessemer.app.epitaph import epitaph
from bessemer.core.errors import OutOfMemory
from bessemer.core.memory import Memory
from bessemer.core.runs import RunFolder, write_atomically

GB = 10**9
RECIPE = """
objective = "sft"
minutes = 1
model.name = "m"
data.name = "d"
batch.rows = 8
"""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder.create(tmp_path / "run_x", RECIPE, {"kind": "train"})
    write_atomically(run.path / "process.json", b'{"pid": 4711, "started": 1.0}')
    return run


def beat(
    run: RunFolder, available: int, group: Path | None = None, kills: int | None = None
) -> None:
    told = Memory(7 * GB, available, 8 * GB, group and str(group), kills)
    (run.path / "heartbeat").write_text(json.dumps(told._asdict()))


def kernel_counts(group: Path, kills: int) -> Path:
    (group / "memory.events").write_text(f"oom {kills}\noom_kill {kills}\n")
    return group


def test_a_kill_that_the_kernel_counted_is_out_of_memory_with_the_numbers(
    run: RunFolder, tmp_path: Path
) -> None:
    beat(run, 5 * GB, kernel_counts(tmp_path, 1), kills=1)  # it grew fast after its last beat
    kernel_counts(tmp_path, 2)
    fault = epitaph(run)
    assert isinstance(fault, OutOfMemory)
    assert fault.message == (
        "out of memory: the kernel killed its process (pid 4711);"
        " it last had 7.00 GB of 8.00 GB, with 5.00 GB free"
    )
    assert "batch.rows_at_once=4" in str(fault.next_step)
    assert "bessemer train --resume run_x" in str(fault.next_step)


@pytest.mark.parametrize("group", [True, False])
def test_a_kill_with_memory_nearly_used_up_is_probably_that(
    run: RunFolder, tmp_path: Path, group: bool
) -> None:
    beat(run, GB // 10, kernel_counts(tmp_path, 1) if group else None, kills=1 if group else None)
    fault = epitaph(run)
    assert isinstance(fault, OutOfMemory)
    assert "probably for want of memory" in fault.message and "0.10 GB free" in fault.message
    assert "recompute=layers" in str(fault.next_step)


def test_the_advice_is_about_what_the_run_had_resolved(run: RunFolder) -> None:
    beat(run, 0)
    (run.path / "resolved.toml").write_text(RECIPE + "batch.rows_at_once = 2\n")
    assert "batch.rows_at_once=1 " in str(epitaph(run).next_step)
    (run.path / "resolved.toml").write_text("of another version = ")
    assert epitaph(run).next_step == "bessemer train --resume run_x"


def test_a_kill_with_memory_to_spare_is_a_kill(run: RunFolder, tmp_path: Path) -> None:
    beat(run, 5 * GB, kernel_counts(tmp_path, 1), kills=1)
    fault = epitaph(run)
    assert not isinstance(fault, OutOfMemory)
    assert "(pid 4711) was killed" in fault.message and "5.00 GB free" in fault.message
    assert fault.next_step == "bessemer train --resume run_x"


def test_a_run_that_never_beat_has_no_figures(run: RunFolder) -> None:
    (run.path / "heartbeat").touch()
    assert epitaph(run).message == "its process (pid 4711) ended without a last word"
