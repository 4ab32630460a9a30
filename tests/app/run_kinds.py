"""Small kinds of runs for the tests, in a real run process: `python run_kinds.py RUN_FOLDER`."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from bessemer.app.run_process import main
from bessemer.core.errors import RunFailed
from bessemer.core.events import EventLog
from bessemer.core.runs import RunFolder, StopRequested

COMMAND = (sys.executable, __file__)


def make(run: RunFolder) -> None:
    """Make a model whose bytes are the plan's `text`."""
    (run.output / "model").mkdir(parents=True)
    (run.output / "model" / "config.json").write_text(run.plan()["text"])


def nothing(run: RunFolder) -> None:
    """Succeed with no output, and say with how many threads."""
    log = run.open_log()
    log.write("result", omp=os.environ["OMP_NUM_THREADS"], planned=run.plan()["threads"])
    log.close()


def linger(run: RunFolder) -> None:
    """Work until the file `go` appears; write a checkpoint when asked to stop."""
    deadline = time.monotonic() + 120
    try:
        (run.path / "began").touch()
        while not (run.path / "go").exists():
            assert time.monotonic() < deadline, "nobody said go"
            time.sleep(0.01)
    except StopRequested:
        (run.checkpoints / "saved").write_text("all of it")
        raise


def fail(run: RunFolder) -> None:
    raise RunFailed("the loss is NaN at step 7", next_step="lower the rate")


def crash(run: RunFolder) -> None:
    raise ZeroDivisionError(f"in {run.run_id}")


def die(run: RunFolder) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def judge(log: EventLog, step: int) -> None:
    log.write("judged", tokens=3, prompt_tokens=10, cached_tokens=8)
    log.write("validation", step=step, reward=0.5)


def train(run: RunFolder) -> None:
    """Four steps of 100 tokens with a batch of answers before each, and answers that are judged
    before the first, behind the second and behind the last;
    where the plan says so, the first process waits after the second one, and the next begins there.
    """
    log = run.open_log()
    first = not (run.path / "began").exists()
    (run.path / "began").touch()
    if first:
        judge(log, 0)
    for step in range(1 if first else 2, 5):
        log.write("rollouts", batch=step - 1, tokens=30, prompt_tokens=20, cached_tokens=5)
        log.write("step", step=step, tokens=100)
        if step % 2 == 0:
            judge(log, step)
        if first and step == 2 and run.plan().get("waits"):
            linger(run)
    log.close()


KINDS = {work.__name__: work for work in (make, nothing, linger, fail, crash, die, train)}

if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), KINDS))
