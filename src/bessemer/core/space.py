"""Is there room on the disk? Asked before writing, so that nothing whole is lost by trying."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from bessemer.core.errors import OutOfSpace, RunFailed

RESUME = "free some space, then resume: bessemer train --resume RUN"


def refuse_if_full(folder: Path, needed_bytes: int, what: str, next_step: str = RESUME) -> None:
    """Raise OutOfSpace when the file system of `folder` has fewer than `needed_bytes` free."""
    if shutil.disk_usage(folder).free < needed_bytes:
        raise out_of_space(folder, needed_bytes, what, next_step)


def refuse_if_read_only(folder: Path) -> None:
    """Raise RunFailed when nothing can be written into `folder`."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as fault:
        raise RunFailed(
            f"cannot write into {folder}: {fault.strerror}",
            next_step="give this user the right to write there, or set BESSEMER_HOME elsewhere",
        ) from fault


def out_of_space(folder: Path, needed_bytes: int, what: str, next_step: str = RESUME) -> OutOfSpace:
    """The error, with both numbers."""
    free_bytes = shutil.disk_usage(folder).free
    return OutOfSpace(
        f"{what} needs {needed_bytes:,} bytes; {folder} has {free_bytes:,} free"
        " (or a quota allows no more)",
        next_step=next_step,
        needed_bytes=needed_bytes,
        free_bytes=free_bytes,
    )
