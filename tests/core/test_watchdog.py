"""A hung run says where it hangs and ends; a step that outlives its grace is ended."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from bessemer.core.events import EventLog, read_events
from bessemer.core.runs import EXIT_STOPPED
from bessemer.core.watchdog import EXIT_HUNG, LEAST_S, Watchdog

ROOT = Path(__file__).parent.parent.parent
HANG = """
import sys, threading
from pathlib import Path
from bessemer.core.events import EventLog
from bessemer.core.watchdog import Watchdog

def waits_for_something_that_never_comes():
    threading.Event().wait()

with Watchdog(EventLog(Path(sys.argv[1])), "run_1", 0.3) as watchdog:
    for _ in range(3):
        watchdog.beat()
    waits_for_something_that_never_comes()
"""
LONG_STEP = """
import sys, time
from pathlib import Path
from bessemer.core.events import EventLog
from bessemer.core.stopping import StopFlag

with StopFlag(EventLog(Path(sys.argv[1])), grace_s=0.5) as stop:
    print("in a step", flush=True)
    end = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end:
        time.sleep(0.01)
    print("requested" if stop.requested else "never asked", flush=True)
"""


def test_a_hang_dumps_all_stacks_and_ends_with_a_status_of_its_own(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANG, str(tmp_path / "events.jsonl")],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == EXIT_HUNG
    assert "in waits_for_something_that_never_comes" in done.stderr
    (event,) = read_events(tmp_path / "events.jsonl").events
    assert (event["kind"], event["state"]) == ("state", "failed")
    assert "nothing was done for" in event["error"]["message"]
    assert event["error"]["next_step"].endswith("bessemer train --resume run_1")


def test_patience_grows_with_the_slowest_step(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    with Watchdog(log, "run_1", None) as watchdog:
        assert watchdog.patience_s == LEAST_S
        watchdog._last_s = time.monotonic() - 100  # a step of 100 s
        watchdog.beat()
        assert 2000 <= watchdog.patience_s < 2100
    assert Watchdog(log, "run_1", 5.0).patience_s == 5.0
    log.close()


def start_long_step(events: Path, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", LONG_STEP, str(events), str(seconds)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "in a step\n"
    return process


def test_a_step_that_outlives_its_grace_is_ended_with_the_requeue_status(tmp_path: Path) -> None:
    process = start_long_step(tmp_path / "events.jsonl", 60)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == EXIT_STOPPED
    note, state = read_events(tmp_path / "events.jsonl").events
    assert "did not end within" in note["message"]
    assert state["state"] == "cancelled"


def test_a_step_that_ends_in_time_goes_on_to_its_checkpoint(tmp_path: Path) -> None:
    process = start_long_step(tmp_path / "events.jsonl", 0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "requested\n"), err
