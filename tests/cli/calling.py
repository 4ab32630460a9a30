"""Calling the command line in this process: the real door, with its output caught.

Not here: processes. What must be seen from outside (`--help`'s cost, a broken pipe) starts one.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from bessemer.cli.main import main
from tests.leaks import LEAKS

PROGRAM = (sys.executable, "-m", "bessemer")
REPOSITORY = Path(__file__).parents[2]


class Said(NamedTuple):
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def say(*words: str) -> Said:
    """Run `bessemer WORDS...` here. Which home it meets is the environment's business."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    status: int | str | None = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as end:
            status = end.code
    assert isinstance(status, int)
    said = Said(status, *(_text(stream) for stream in (out, err)))
    LEAKS.look(f"the standard error of bessemer {' '.join(words)}", said.err)
    return said


def program(*words: str, home: Path, wait_s: float = 120.0) -> Said:
    """Run `bessemer WORDS...` as a process of its own."""
    done = subprocess.run(
        [*PROGRAM, *words],
        env={**os.environ, "BESSEMER_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=wait_s,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def _text(stream: io.TextIOWrapper) -> str:
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()
