"""Checkpoints survive what happens to disks: torn files, changed bytes, no space."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from bessemer.core.errors import OutOfSpace
from bessemer.train.checkpoint import Checkpoint, load_newest, save
from bessemer.train.space import refuse_if_full


def made(step: int, size: int = 1000) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    tensors = {
        "master.w": torch.randn(size, 3, generator=generator),
        "rng": generator.get_state(),
        "empty": torch.zeros(0),
        "scalar": torch.tensor(float(step)),
    }
    return Checkpoint(step, tensors, {"step": step, "rows": 2 * step})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def newest_step(folder: Path) -> int | None:
    found = load_newest(folder).checkpoint
    return found.step if found else None


def test_what_is_loaded_is_what_was_saved_to_the_bit(tmp_path: Path) -> None:
    original = made(7)
    save(tmp_path, original)
    loaded = load_newest(tmp_path).checkpoint
    assert loaded is not None
    assert (loaded.step, loaded.facts) == (7, original.facts)
    assert loaded.tensors.keys() == original.tensors.keys()
    for name, tensor in original.tensors.items():
        assert torch.equal(loaded.tensors[name], tensor)
        assert loaded.tensors[name].dtype == tensor.dtype


def test_the_two_newest_are_kept(tmp_path: Path) -> None:
    for step in (9, 10, 11):
        save(tmp_path, made(step))
    assert names(tmp_path) == ["step-00000010", "step-00000011"]


def test_a_run_without_checkpoints_starts_from_nothing(tmp_path: Path) -> None:
    assert load_newest(tmp_path) == (None, [])


@pytest.mark.parametrize("file", ["state.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_checkpoint_is_passed_over_and_named(
    tmp_path: Path, file: str, damage: str
) -> None:
    save(tmp_path, made(1))
    path = save(tmp_path, made(2)) / file
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes(data[:middle] if damage == "cut" else flipped)
    found = load_newest(tmp_path)
    assert found.checkpoint is not None
    assert found.checkpoint.step == 1
    assert [skipped.name for skipped in found.skipped] == ["step-00000002"]
    assert found.skipped[0].reason


def test_a_half_written_folder_is_no_checkpoint_and_is_cleared(tmp_path: Path) -> None:
    save(tmp_path, made(1))
    (tmp_path / ".step-00000002.tmp").mkdir()
    (tmp_path / ".step-00000002.tmp" / "state.safetensors").write_bytes(b"half")
    assert newest_step(tmp_path) == 1
    save(tmp_path, made(3))
    assert names(tmp_path) == ["step-00000001", "step-00000003"]


def test_saving_a_step_again_replaces_a_torn_one(tmp_path: Path) -> None:
    torn = save(tmp_path, made(5)) / "state.safetensors"
    torn.write_bytes(b"")
    save(tmp_path, made(5))
    assert newest_step(tmp_path) == 5


class FillingDisk(io.FileIO):
    """Takes `room` bytes, then says what a full disk says."""

    def __init__(self, path: Path, room: int, error: int) -> None:
        super().__init__(path, "wb")
        self.room, self.error = room, error

    def write(self, data: object) -> int:
        size = memoryview(data).nbytes  # type: ignore[arg-type]
        if size > self.room:
            raise OSError(self.error, os.strerror(self.error))
        self.room -= size
        return super().write(data)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("room", [0, 400, 12_000])
def test_a_full_disk_leaves_the_last_checkpoint_whole(
    tmp_path: Path, room: int, error: int
) -> None:
    save(tmp_path, made(1))

    def open_file(path: Path) -> BinaryIO:
        return FillingDisk(path, room, error)  # type: ignore[return-value]

    with pytest.raises(OutOfSpace) as caught:
        save(tmp_path, made(2), open_file=open_file)
    size = sum(tensor.nbytes for tensor in made(2).tensors.values())
    assert caught.value.facts["needed_bytes"] == size
    assert f"{size:,}" in str(caught.value)
    assert names(tmp_path) == ["step-00000001"]
    assert newest_step(tmp_path) == 1


def test_another_fault_of_the_disk_is_not_called_a_full_one(tmp_path: Path) -> None:
    def open_file(path: Path) -> BinaryIO:
        return FillingDisk(path, 0, errno.EIO)  # type: ignore[return-value]

    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        save(tmp_path, made(2), open_file=open_file)
    assert names(tmp_path) == []


def test_too_little_space_is_noticed_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(OutOfSpace, match="a checkpoint needs 9,000,000,000,000,000 bytes"):
        refuse_if_full(tmp_path, 9 * 10**15, "a checkpoint")


LIMITED = """
import resource, sys
from pathlib import Path
from bessemer.core.errors import OutOfSpace
from bessemer.train.checkpoint import save
from tests.train.test_checkpoint import made
folder = Path(sys.argv[1])
save(folder, made(1, size=1000))
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    save(folder, made(2, size=100_000))
except OutOfSpace as fault:
    print(fault.code)
"""


def test_a_limit_of_the_operating_system_is_met_the_same_way(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], cwd=root, capture_output=True, text=True
    )
    assert done.stdout.strip() == "out_of_space", done.stderr
    assert newest_step(tmp_path) == 1
    assert names(tmp_path) == ["step-00000001"]
