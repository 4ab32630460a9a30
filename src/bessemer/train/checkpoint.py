"""Checkpoints: whole or not there, checked when read, no pickle.

    checkpoints/step-00000120/state.safetensors   masters, optimizer state, random state
                              state.json          step, rows seen, what data it was
                              manifest.json       SHA-256 of both, written last

A checkpoint is written into a folder with another name, brought to the disk, and renamed. The
newest ones are kept, so a full disk or a power cut costs the time since the last one and no more.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from bessemer.core.digests import check_file
from bessemer.core.errors import BessemerError
from bessemer.core.runs import sync_folder
from bessemer.train.space import out_of_space, refuse_if_full

KEEP = 2
TENSORS, FACTS, MANIFEST = "state.safetensors", "state.json", "manifest.json"
NAME = re.compile(r"step-(\d{8})")
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
DTYPE_NAMES = {torch.float32: "F32", torch.int64: "I64", torch.uint8: "U8"}

Buffer = bytes | memoryview
Opener = Callable[[Path], BinaryIO]


class Checkpoint(NamedTuple):
    """What a run needs to continue exactly."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Skipped(NamedTuple):
    """A checkpoint that is not what its manifest says, and why."""

    name: str
    reason: str


class Found(NamedTuple):
    """The newest whole checkpoint, if there is one, and the newer ones passed over."""

    checkpoint: Checkpoint | None
    skipped: list[Skipped]


def save(
    folder: Path,
    checkpoint: Checkpoint,
    *,
    keep_last: int = KEEP,
    keep_every: int | None = None,
    open_file: Opener | None = None,
) -> Path:
    """Add a checkpoint to `folder` and drop those that the policy does not keep.

    Args:
        keep_last: how many of the newest are kept; `keep_every`: steps at whose multiples
            checkpoints are kept for good.
        open_file: opens each file for writing; a test's disk that fills up goes here.

    Raises:
        OutOfSpace: with the bytes needed and free. Earlier checkpoints are as they were.
    """
    final = folder / f"step-{checkpoint.step:08d}"
    temporary = folder / f".{final.name}.tmp"
    _discard_leftovers(folder)
    size_bytes = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    refuse_if_full(folder, size_bytes, "a checkpoint")
    try:
        temporary.mkdir()
        _write(temporary, checkpoint, open_file or _open)
        _replace(temporary, final)
    except OSError as fault:
        shutil.rmtree(temporary, ignore_errors=True)
        if fault.errno in FULL:
            raise out_of_space(folder, size_bytes, "a checkpoint") from fault
        raise
    for step, old in _whole_names(folder)[keep_last:]:
        if not keep_every or step % keep_every:
            shutil.rmtree(old)
    return final


def load_newest(folder: Path) -> Found:
    """The newest checkpoint whose bytes are those of its manifest."""
    skipped: list[Skipped] = []
    for step, path in _whole_names(folder):
        try:
            return Found(_read(step, path), skipped)
        except (OSError, ValueError, KeyError, BessemerError) as fault:
            skipped.append(Skipped(path.name, str(fault)))
    return Found(None, skipped)


def write_tensors(file: BinaryIO, tensors: Mapping[str, Tensor]) -> str:
    """Write the safetensors format to an open file; returns the SHA-256 of what was written.

    The library's own writer takes only paths, and hides a full disk in an error of its own.
    """
    header: dict[str, Any] = {}
    offset = 0
    for name, tensor in tensors.items():
        span = [offset, offset + tensor.nbytes]
        shape, dtype = list(tensor.shape), DTYPE_NAMES[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": span}
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    parts: list[Buffer] = [len(text).to_bytes(8, "little") + text]
    parts += map(_bytes_of, tensors.values())
    digest = hashlib.sha256()
    for part in parts:
        file.write(part)
        digest.update(part)
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> Buffer:
    # A view, not a copy: the state of a large model is written from where it is.
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _write(folder: Path, checkpoint: Checkpoint, open_file: Opener) -> None:
    hashes = {}
    with open_file(folder / TENSORS) as file:
        hashes[TENSORS] = write_tensors(file, checkpoint.tensors)
        _sync(file)
    facts = json.dumps(checkpoint.facts, indent=1).encode()
    hashes[FACTS] = hashlib.sha256(facts).hexdigest()
    for name, data in ((FACTS, facts), (MANIFEST, json.dumps(hashes, indent=1).encode())):
        with open_file(folder / name) as file:
            file.write(data)
            _sync(file)
    sync_folder(folder)


def _read(step: int, path: Path) -> Checkpoint:
    hashes = json.loads((path / MANIFEST).read_text())
    for name in (TENSORS, FACTS):
        check_file(path / name, hashes[name])
    return Checkpoint(step, load_file(path / TENSORS), json.loads((path / FACTS).read_text()))


def _replace(temporary: Path, final: Path) -> None:
    if final.exists():  # a torn one of the same step, from before a crash
        shutil.rmtree(final)
    temporary.rename(final)
    sync_folder(final.parent)


def _whole_names(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of every renamed checkpoint, the newest first."""
    matches = [(NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    return sorted(((int(m[1]), path) for m, path in matches if m), reverse=True)


def _discard_leftovers(folder: Path) -> None:
    for path in folder.glob(".step-*.tmp"):
        shutil.rmtree(path)


def _open(path: Path) -> BinaryIO:
    return path.open("wb")


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
