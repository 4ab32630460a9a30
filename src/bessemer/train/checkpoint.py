"""Checkpoints: whole or not there, checked when read, written while training goes on.

A checkpoint is the state after a step. `Checkpoints.save` copies it into buffers that are the same
each time (one more copy of masters and moments, held from the first checkpoint on) and returns;
a thread then writes the copy to the disk and renames it (`storage`). One is written at a time:
when the next falls due before that, the loop waits. The newest ones are kept, so a full disk or a
power cut costs the time since the last one and no more.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
import time
import warnings
from collections.abc import Mapping
from concurrent import futures
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.staging import AsyncStager
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from bessemer.core.digests import check_file
from bessemer.core.errors import BessemerError, IntegrityError
from bessemer.core.events import EventLog
from bessemer.core.space import out_of_space, refuse_if_full
from bessemer.core.train_sections import CheckpointSection
from bessemer.train.storage import FACTS, MANIFEST, Opener, Writer

NAME = re.compile(r"step-(\d{8})")
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
LONG_WAIT_S = 1.0
# Said at each save and load of a process that trains alone, which is what it means to do.
warnings.filterwarnings("ignore", message="torch.distributed is disabled")


class Checkpoint(NamedTuple):
    """One whose bytes are those of its manifest. `facts`: what is not a tensor."""

    step: int
    path: Path
    facts: dict[str, Any]


class Skipped(NamedTuple):
    """A checkpoint that is not what its manifest says, and why."""

    name: str
    reason: str


class Found(NamedTuple):
    """The newest whole checkpoint, if there is one, and the newer ones passed over."""

    checkpoint: Checkpoint | None
    skipped: list[Skipped]


class Snapshot(AsyncStager):
    """Copies a state into buffers in main memory, the same ones each time."""

    _synchronize_after_execute = False

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    @torch.no_grad()
    def stage(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        for name, tensor in state_dict.items():
            if name not in self._buffers:
                self._buffers[name] = torch.empty_like(
                    tensor, device="cpu", memory_format=torch.contiguous_format
                )
            self._buffers[name].copy_(tensor)
        return dict(self._buffers)

    def synchronize_staging(self) -> None:
        """The copy is made when `stage` returns."""

    def close(self) -> None:
        self._buffers.clear()


class Checkpoints:
    """The checkpoints of a run while it trains; leaving the `with` waits for the last of them.

    Writes the event `checkpoint` when one is committed: it can be resumed from, whatever happens.

    Args:
        group: processes that each hold a part of the state. It is used in a thread, so no other
            collective may go through it.
        open_file: see `storage.Writer`.
    """

    def __init__(
        self,
        folder: Path,
        log: EventLog,
        policy: CheckpointSection,
        *,
        group: ProcessGroup | None = None,
        open_file: Opener | None = None,
    ) -> None:
        self._folder, self._log, self._policy = folder, log, policy
        self._group, self._open_file = group, open_file
        self._snapshot = Snapshot()
        self._writing: _Writing | None = None

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Take the state as it is now, and have it written.

        Raises:
            OutOfSpace: this one does not fit, with the bytes needed and free, or the one before
                it did not. Committed ones are as they were.
        """
        self.wait()
        begin_s = time.monotonic()
        size_bytes = sum(tensor.nbytes for tensor in tensors.values())
        refuse_if_full(self._folder, size_bytes, "a checkpoint")

        def committed() -> None:
            taken_s = round(time.monotonic() - begin_s, 3)
            self._log.write("checkpoint", step=step, size_bytes=size_bytes, seconds=taken_s)
            self._drop_old()

        final = self._folder / f"step-{step:08d}"
        writer = Writer(final, facts, committed, self._open_file)
        result = async_save(
            dict(tensors),
            storage_writer=writer,
            async_stager=self._snapshot,
            process_group=self._group,
        )
        assert isinstance(result, futures.Future)
        self._writing = _Writing(step, size_bytes, writer, result)

    @property
    def busy(self) -> bool:
        """Whether one is being written now."""
        return self._writing is not None and not self._writing.result.done()

    def check(self) -> None:
        """Raise what went wrong with the last one, if it is over; does not wait."""
        if not self.busy:
            self.wait()

    def wait(self) -> None:
        """Return when nothing is being written any more.

        Raises:
            OutOfSpace: it did not fit, with the bytes needed and free.
            OSError: another fault of the disk.
        """
        if self._writing is None:
            return
        begin_s = time.monotonic()
        futures.wait([self._writing.result])
        waited_s = time.monotonic() - begin_s
        step, size_bytes, writer, result = self._writing
        self._writing = None
        if waited_s > LONG_WAIT_S:
            message = f"training waited {waited_s:.1f} s for the checkpoint of step {step}"
            self._log.write("note", message=message, waited_s=round(waited_s, 1))
        try:
            result.result()
        except CheckpointException as failed:
            fault = _cause(failed)
            shutil.rmtree(writer.temporary, ignore_errors=True)
            if isinstance(fault, OSError) and fault.errno in FULL:
                raise out_of_space(self._folder, size_bytes, "a checkpoint") from fault
            raise fault from None

    def _drop_old(self) -> None:
        every = self._policy.keep_every
        for step, old in _by_step(self._folder)[self._policy.keep_last :]:
            if not every or step % every:
                shutil.rmtree(old)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _fault: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:  # fmt: skip
        try:
            self.wait()
        except Exception as fault:
            if kind is None:
                raise
            self._log.write("note", message=f"the last checkpoint was not written either: {fault}")


class _Writing(NamedTuple):
    step: int
    size_bytes: int
    writer: Writer
    result: futures.Future[Any]


def load_newest(folder: Path) -> Found:
    """The newest checkpoint whose bytes are those of its manifest."""
    skipped: list[Skipped] = []
    for step, path in _by_step(folder):
        try:
            return Found(Checkpoint(step, path, _checked(path)), skipped)
        except (OSError, ValueError, KeyError, BessemerError) as fault:
            skipped.append(Skipped(path.name, str(fault)))
    return Found(None, skipped)


def read_into(tensors: dict[str, Tensor], checkpoint: Checkpoint) -> None:
    """Fill these tensors, of the shapes that were saved, in place.

    However many processes wrote it, and whichever part of each tensor this one holds.
    """
    reader = HuggingFaceStorageReader(str(checkpoint.path))
    try:
        load(tensors, storage_reader=reader)
    except CheckpointException as failed:
        raise _cause(failed) from None


def _checked(path: Path) -> dict[str, Any]:
    hashes = json.loads((path / MANIFEST).read_text())
    there = {file.name for file in path.iterdir()} - {MANIFEST}
    if there != hashes.keys() or FACTS not in there:
        raise IntegrityError(f"it has {sorted(there)}, its manifest names {sorted(hashes)}")
    for name, sha256 in hashes.items():
        check_file(path / name, sha256)
    facts: dict[str, Any] = json.loads((path / FACTS).read_text())
    return facts


def _by_step(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of every renamed checkpoint, the newest first."""
    matches = [(NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    return sorted(((int(m[1]), path) for m, path in matches if m), reverse=True)


def _cause(failed: CheckpointException) -> BaseException:
    """torch wraps what the first process that failed met."""
    return next(iter(failed.failures.values()))[0]
