"""The process of one run: `python -m bessemer.app.run_process RUN_FOLDER`.

It says `running`, beats while it works, and ends with one last word: `succeeded`, `failed` with
the reason, or `cancelled` after SIGTERM. It writes only its own folder and never the database.
Standard output and error are `process.log` in the folder; whoever starts it sees to that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bessemer.core import compiled_products
from bessemer.core.errors import BessemerError, Conflict, InvalidInput
from bessemer.core.events import EventLog
from bessemer.core.runs import EXIT_STOPPED, HEARTBEAT_S, RunFolder, StopRequested

Work = Callable[[RunFolder], None]


def train(run: RunFolder) -> None:
    compiled_products.keep_few()
    from bessemer.inference.live import NativeLiveEngine
    from bessemer.train.loop import train as train_loop

    train_loop(run, engine_of=NativeLiveEngine)


def plan(run: RunFolder) -> None:
    compiled_products.keep_few()
    from bessemer.inference.live import NativeLiveEngine
    from bessemer.train.planning import measure

    measure(run, engine_of=NativeLiveEngine)


def evaluate(run: RunFolder) -> None:
    from bessemer.app.evaluations import evaluate as run_evaluation

    run_evaluation(run)


KINDS: Mapping[str, Work] = {"train": train, "plan": plan, "eval": evaluate}


def main(folder: Path, kinds: Mapping[str, Work] = KINDS) -> int:
    """Run the run in `folder` to its end and return the exit status (0, 1 or 75)."""
    run = RunFolder(folder)
    try:
        with _alone(run), contextlib.closing(run.open_log()) as log, _stoppable():
            return _say_and_do(run, log, kinds)
    except Conflict as fault:
        print(fault, file=sys.stderr)
        return 1


def _say_and_do(run: RunFolder, log: EventLog, kinds: Mapping[str, Work]) -> int:
    try:
        run.claim()
        log.write("state", state="running")
        with _beating(run):
            _work_for(run, kinds)(run)
    except StopRequested:
        return _last_word(log, EXIT_STOPPED, state="cancelled")
    except BessemerError as fault:
        print(fault, file=sys.stderr)
        error = {"code": fault.code, "message": fault.message, "next_step": fault.next_step}
        return _last_word(log, 1, state="failed", error=error)
    except Exception as fault:
        traceback.print_exc()
        message = f"{type(fault).__name__}: {fault}"
        next_step = f"the traceback is in {run.log}"
        error = {"message": message, "next_step": next_step}
        return _last_word(log, 1, state="failed", error=error)
    return _last_word(log, 0, state="succeeded")


def _work_for(run: RunFolder, kinds: Mapping[str, Work]) -> Work:
    kind = str(run.plan().get("kind"))
    if kind not in kinds:
        raise InvalidInput(f"cannot run a plan of kind {kind!r}; known: {', '.join(kinds)}")
    return kinds[kind]


def _last_word(log: EventLog, status: int, **word: Any) -> int:
    _ignore_signals()  # a request to stop that comes now is too late to change what is said
    log.write("state", **word)
    log.sync()
    return status


@contextlib.contextmanager
def _alone(run: RunFolder) -> Iterator[None]:
    """Hold the folder against a second process; the kernel lets go when this one dies."""
    handle = os.open(run.path / "run.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Conflict(f"another process runs {run.run_id} already") from None
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM and Ctrl-C raise StopRequested in the main thread, once."""

    def stop(_signum: int, _frame: object) -> None:
        _ignore_signals()
        raise StopRequested

    before = {signum: signal.signal(signum, stop) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _ignore_signals() -> None:
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)


@contextlib.contextmanager
def _beating(run: RunFolder) -> Iterator[None]:
    """Beat in a thread, so that a long step does not look like silence."""
    done = threading.Event()
    beater = threading.Thread(target=_beat_until, args=(run, done), name="heartbeat", daemon=True)
    beater.start()
    try:
        yield
    finally:
        done.set()
        beater.join()


def _beat_until(run: RunFolder, done: threading.Event) -> None:
    while True:
        try:
            run.beat()
        except OSError as fault:
            # A missed beat only makes the run look stuck; it must not end the work.
            print(f"could not beat: {fault}", file=sys.stderr)
        if done.wait(HEARTBEAT_S):
            return


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m bessemer.app.run_process RUN_FOLDER")
    sys.exit(main(Path(sys.argv[1])))
