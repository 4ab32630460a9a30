"""A run's process says what happened, whatever happens to it."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bessemer.app.run_process import KINDS, main
from bessemer.core.errors import RunFailed
from bessemer.core.runs import RunFolder
from tests.app import run_kinds
from tests.polling import until


def new_run(tmp_path: Path, kind: str, **plan: Any) -> RunFolder:
    return RunFolder.create(tmp_path / "run_x", "", {"kind": kind, "threads": 1, **plan})


def start(run: RunFolder) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*run_kinds.COMMAND, str(run.path)], stdout=-1, stderr=-1)


def states(run: RunFolder) -> list[str]:
    return [event["state"] for event in run.read() if event["kind"] == "state"]


def test_a_run_that_succeeds_says_so(tmp_path: Path) -> None:
    run = new_run(tmp_path, "make", text="{}")
    process = start(run)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert states(run) == ["running", "succeeded"]
    assert run.state() == "succeeded"
    assert run.last_beat_s() is not None


def test_a_run_that_fails_says_why_and_what_to_do(tmp_path: Path) -> None:
    run = new_run(tmp_path, "fail")
    process = start(run)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    last = run.last("state")
    assert last is not None
    assert last["error"] == {
        "code": "run_failed",
        "message": "the loss is NaN at step 7",
        "next_step": "lower the rate",
    }
    assert b"Traceback" not in err and b"lower the rate" in err


def test_a_run_that_crashes_leaves_its_traceback_in_the_log(tmp_path: Path) -> None:
    run = new_run(tmp_path, "crash")
    process = start(run)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    last = run.last("state")
    assert last is not None and last["error"]["message"] == "ZeroDivisionError: in run_x"
    assert str(run.log) in last["error"]["next_step"]
    assert b"Traceback" in err and b"run_kinds.py" in err


def test_sigterm_cancels_after_a_checkpoint(tmp_path: Path) -> None:
    run = new_run(tmp_path, "linger")
    process = start(run)
    until((run.path / "began").exists, "the work began")
    assert not (run.checkpoints / "saved").exists()
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert (run.checkpoints / "saved").read_text() == "all of it"
    assert states(run) == ["running", "cancelled"]


def test_a_killed_run_is_dead(tmp_path: Path) -> None:
    run = new_run(tmp_path, "die")
    process = start(run)
    process.communicate(timeout=60)
    assert process.returncode == -9
    assert states(run) == ["running"]
    assert run.state() == "dead"


def test_a_second_process_for_the_same_run_is_refused_and_says_nothing(tmp_path: Path) -> None:
    run = new_run(tmp_path, "linger")
    first = start(run)
    until(lambda: run.state() == "running", "the run says that it runs")
    second = start(run)
    _, err = second.communicate(timeout=60)
    assert second.returncode == 1 and b"another process runs run_x already" in err
    assert run.process() is not None and run.process().pid == first.pid
    assert states(run) == ["running"]
    (run.path / "go").touch()
    first.communicate(timeout=60)
    assert states(run) == ["running", "succeeded"]


def test_a_kind_nobody_knows_fails_with_the_known_ones(tmp_path: Path) -> None:
    run = new_run(tmp_path, "bake")
    assert main(run.path) == 1
    last = run.last("state")
    assert last is not None
    assert last["error"]["message"] == "cannot run a plan of kind 'bake'; known: train, plan, eval"


def test_signals_are_as_before_when_main_returns(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    run = new_run(tmp_path, "nothing")

    def refuse(run: RunFolder) -> None:
        raise RunFailed("no")

    assert main(run.path, {"nothing": refuse}) == 1
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.parametrize("kind", ["train", "eval"])
def test_the_kinds_of_the_house_are_known(kind: str) -> None:
    assert kind in KINDS
