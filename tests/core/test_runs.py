"""A run's state is what it said last, unless its process is gone without a last word."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bessemer.core.processes import ProcessId
from bessemer.core.runs import RunFolder, StopRequested, write_atomically
from tests.polling import until


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run_x", "steps = 1\n", {"kind": "train", "threads": 1})


def say(run: RunFolder, *states: str) -> None:
    log = run.open_log()
    for state in states:
        log.write("state", state=state)
    log.close()


def claim_as(run: RunFolder, process: ProcessId) -> None:
    (run.path / "process.json").write_text(json.dumps(process._asdict()))


def test_a_new_run_is_queued_and_keeps_what_it_was_told(run: RunFolder) -> None:
    assert run.state() == "queued"
    assert run.run_id == "run_x"
    assert run.plan() == {"kind": "train", "threads": 1}
    assert run.recipe.read_text() == "steps = 1\n"
    assert run.last("state") is None
    assert run.process() is None
    assert run.last_beat_s() is None


@pytest.mark.parametrize("word", ["succeeded", "failed", "cancelled"])
def test_the_last_word_counts(run: RunFolder, word: str) -> None:
    say(run, "running", word)
    assert run.state() == word


def test_a_run_whose_process_lives_is_running(run: RunFolder) -> None:
    run.claim()
    say(run, "running")
    assert run.process() == ProcessId.current()
    assert run.state() == "running"


def test_a_run_that_nobody_claimed_is_dead(run: RunFolder) -> None:
    say(run, "running")
    assert run.state() == "dead"


def test_a_run_whose_pid_was_reused_is_dead(run: RunFolder) -> None:
    mine = ProcessId.current()
    claim_as(run, ProcessId(mine.pid, mine.started - 5.0))
    say(run, "running")
    assert run.state() == "dead"


def test_a_killed_run_is_dead_even_before_it_is_reaped(run: RunFolder) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=-1)
    itself = ProcessId.of(process.pid)
    claim_as(run, itself)
    say(run, "running")
    assert run.state() == "running"
    assert itself.send(signal.SIGKILL)
    until(lambda: run.state() == "dead", "the zombie counts as dead")
    process.communicate()
    assert run.state() == "dead"
    assert not itself.send(signal.SIGTERM)


def test_a_dead_run_that_was_queued_again_is_queued(run: RunFolder) -> None:
    say(run, "running", "queued")
    assert run.state() == "queued"


class SpeaksWhileLookedAt(RunFolder):
    """A run that says its last word and is gone between a reader's two looks."""

    def process(self) -> ProcessId | None:
        say(self, "succeeded")
        return None


def test_a_run_that_ends_while_one_looks_is_not_dead(run: RunFolder) -> None:
    say(run, "running")
    assert SpeaksWhileLookedAt(run.path).state() == "succeeded"


def test_a_broken_process_file_is_no_process(run: RunFolder) -> None:
    (run.path / "process.json").write_text('{"pid": "x"')
    assert run.process() is None


def test_a_beat_is_seen(run: RunFolder) -> None:
    run.beat()
    beat_s = run.last_beat_s()
    assert beat_s is not None and abs(beat_s) < 5
    os.utime(run.path / "heartbeat", (0, 0))
    late_s = run.last_beat_s()
    assert late_s is not None and late_s > 1e9


def test_a_beat_tells_the_memory(run: RunFolder) -> None:
    assert run.last_memory() is None
    run.beat()
    told = run.last_memory()
    assert told is not None and told.resident > 1e6 and told.total > told.resident
    (run.path / "heartbeat").write_text("{")
    assert run.last_memory() is None


def test_stopping_is_not_mistaken_for_a_fault() -> None:
    assert not issubclass(StopRequested, Exception)


# The reader must meet the old or the new bytes, whole, however often they are replaced.
REPLACER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from bessemer.core.runs import write_atomically

for n in range(200):
    write_atomically(Path(sys.argv[1]), bytes([65 + n % 26]) * 10_000)
"""


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomically(path, b"A" * 10_000)
    process = subprocess.Popen([sys.executable, "-c", REPLACER, str(path)])
    looks = 0
    while process.poll() is None:
        data = path.read_bytes()
        assert len(data) == 10_000 and len(set(data)) == 1
        looks += 1
    assert process.returncode == 0 and looks > 1
    assert [found.name for found in tmp_path.iterdir()] == ["f"]


def test_threads_may_replace_the_same_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: write_atomically(path, bytes([n]) * 1000), range(64)))
    assert len(set(path.read_bytes())) == 1
    assert [found.name for found in tmp_path.iterdir()] == ["f"]
