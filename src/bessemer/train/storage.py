"""Where `torch.distributed.checkpoint` writes to: safetensors, hashed on the way, then renamed.

    step-00000120/state-00001-of-00001.safetensors   one file for each process
                  state.json                         step, rows seen, what data it was
                  manifest.json                      SHA-256 of the others, written last

Its own writers pickle their metadata, or make each file in memory before they write it (decision
0005). This one writes the tensors from where they are. The files are in the layout of
`HuggingFaceStorageWriter`, offsets of shards included, so `HuggingFaceStorageReader` reads them.
Nothing here computes with tensors: a second thread that did would halve the speed of the first.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from bessemer.core.runs import sync_folder

FACTS, MANIFEST = "state.json", "manifest.json"
CHUNK_BYTES = 1 << 20  # hashed and written while it is in the cache
NICE = 10  # of the thread that writes; decision 0005 has the figures
DTYPE_NAMES = {
    torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64", torch.int32: "I32",
    torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip

Opener = Callable[[Path], BinaryIO]


class Piece(NamedTuple):
    """A tensor, or this process's shard of one, and where in the whole it begins."""

    tensor: Tensor
    offsets: Sequence[int]


class File(NamedTuple):
    """A file that was written, with its SHA-256."""

    name: str
    sha256: str


class Writer(StorageWriter):
    """One checkpoint, written beside `final` and renamed to it when every process has written.

    Args:
        facts: JSON for `state.json`.
        committed: called after the rename, in the thread that writes.
        open_file: opens each file for writing; a test's disk that fills up goes here.
    """

    def __init__(
        self,
        final: Path,
        facts: Mapping[str, Any],
        committed: Callable[[], None],
        open_file: Opener | None = None,
    ) -> None:
        self._final, self._facts, self._committed = final, facts, committed
        self._open_file = open_file or _open
        self.temporary = final.with_name(f".{final.name}.tmp")

    # What follows is called by torch in this order; the second and last in one process only.

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        # The threads of a matrix product wait for each other: taking time from one stops them all.
        if sys.platform == "linux" and threading.current_thread() is not threading.main_thread():
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        for left in self._final.parent.glob(".step-*.tmp"):
            shutil.rmtree(left)
        self.temporary.mkdir()
        return [
            dataclasses.replace(plan, storage_data=f"state-{i:05}-of-{len(plans):05}.safetensors")
            for i, plan in enumerate(plans, 1)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        pieces = {}
        for item in plan.items:
            tensor = planner.resolve_data(item)
            assert isinstance(tensor, Tensor) and item.tensor_data is not None, item
            assert item.index.fqn not in pieces, item
            pieces[item.index.fqn] = Piece(tensor, item.tensor_data.chunk.offsets)
        written = self._write(plan.storage_data, lambda file: write_tensors(file, pieces))
        done: Future[list[WriteResult]] = Future()
        done.set_result([WriteResult(item.index, 0, written) for item in plan.items])
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        files = {result.storage_data for per_process in results for result in per_process}
        files.add(self._write_json(FACTS, dict(self._facts)))
        self._write_json(MANIFEST, {file.name: file.sha256 for file in sorted(files)})
        sync_folder(self.temporary)
        if self._final.exists():  # a torn one of the same step, from before a crash
            shutil.rmtree(self._final)
        self.temporary.rename(self._final)
        sync_folder(self._final.parent)
        self._committed()

    def _write_json(self, name: str, value: dict[str, Any]) -> File:
        data = json.dumps(value, indent=1).encode()

        def write(file: BinaryIO) -> str:
            file.write(data)
            return hashlib.sha256(data).hexdigest()

        return self._write(name, write)

    def _write(self, name: str, write: Callable[[BinaryIO], str]) -> File:
        with self._open_file(self.temporary / name) as file:
            sha256 = write(file)
            file.flush()
            os.fsync(file.fileno())
        return File(name, sha256)

    # What torch's protocol asks for besides.

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        assert checkpoint_id is None, "the path is the writer's own"

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True


def write_tensors(file: BinaryIO, pieces: Mapping[str, Piece]) -> str:
    """Write the safetensors format to an open file; returns the SHA-256 of what was written.

    The library's own writer takes only paths, and hides a full disk in an error of its own.
    """
    sharding = {name: {"saved_offsets": list(piece.offsets)} for name, piece in pieces.items()}
    header: dict[str, Any] = {
        "__metadata__": {
            "DCP_SHARDING_INFO": json.dumps(sharding), "DCP_VERSION": "1.0", "format": "pt"
        }
    }  # fmt: skip
    offset = 0
    for name, (tensor, _) in pieces.items():
        span = [offset, offset + tensor.nbytes]
        shape, dtype = list(tensor.shape), DTYPE_NAMES[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": span}
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    head = memoryview(len(text).to_bytes(8, "little") + text)
    for part in (head, *map(_bytes_of, pieces.values())):
        for begin in range(0, len(part), CHUNK_BYTES):
            chunk = part[begin : begin + CHUNK_BYTES]
            file.write(chunk)
            digest.update(chunk)
    return digest.hexdigest()


def _bytes_of(piece: Piece) -> memoryview:
    # A view, not a copy: the state of a large model is written from where it is.
    return piece.tensor.view(-1).view(torch.uint8).numpy().data


def _open(path: Path) -> BinaryIO:
    return path.open("wb")
