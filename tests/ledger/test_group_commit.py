"""Those who wait together are written together, and one's fault is one's own."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from bessemer.ledger.group_commit import GroupCommit


class Disk:
    """Notes each list it is given; the first waits until it is let go."""

    def __init__(self) -> None:
        self.lists: list[list[int]] = []
        self.begun, self.go = threading.Event(), threading.Event()

    def write(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.lists.append(list(numbers))
        if len(self.lists) == 1:
            self.begun.set()
            assert self.go.wait(10)
        if 13 in numbers:
            raise OSError("disk full")
        return [ValueError(str(n)) if n < 0 else n * 10 for n in numbers]


def test_what_gathers_during_a_write_is_one_write() -> None:
    disk = Disk()
    commit = GroupCommit(disk.write)
    first = commit.submit(0)
    assert disk.begun.wait(10)
    rest = [commit.submit(number) for number in (1, -2, 3)]
    assert not first.done()
    disk.go.set()
    assert [first.result(), rest[0].result(), rest[2].result()] == [0, 10, 30]
    with pytest.raises(ValueError, match="-2"):
        rest[1].result()
    commit.close()
    assert disk.lists == [[0], [1, -2, 3]]


def test_a_list_is_no_longer_than_allowed() -> None:
    disk = Disk()
    commit = GroupCommit(disk.write, at_once=2)
    futures = [commit.submit(0)]
    assert disk.begun.wait(10)
    futures += [commit.submit(number) for number in range(1, 6)]
    disk.go.set()
    commit.close()
    assert disk.lists == [[0], [1, 2], [3, 4], [5]]
    assert [future.result() for future in futures] == [0, 10, 20, 30, 40, 50]


def test_a_write_that_fails_fails_for_its_list_and_no_other() -> None:
    disk = Disk()
    commit = GroupCommit(disk.write)
    first = commit.submit(0)
    assert disk.begun.wait(10)
    lost = [commit.submit(12), commit.submit(13)]
    disk.go.set()
    for future in lost:
        with pytest.raises(OSError, match="disk full"):
            future.result()
    assert (first.result(), commit.submit(1).result()) == (0, 10)
    commit.close()


def test_closing_writes_what_is_queued_and_ends() -> None:
    disk = Disk()
    commit = GroupCommit(disk.write)
    futures = [commit.submit(0)]
    assert disk.begun.wait(10)
    futures += [commit.submit(number) for number in range(1, 4)]
    disk.go.set()
    commit.close()
    commit.close()
    assert [future.result(0) for future in futures] == [0, 10, 20, 30]
    with pytest.raises(RuntimeError, match="closed"):
        commit.submit(5)


def test_it_settles_down_soon_after_the_last_list_and_not_once_a_list() -> None:
    disk, rests = Disk(), list[int]()
    disk.go.set()
    rested = threading.Event()

    def settle_down() -> None:
        rests.append(len(disk.lists))
        rested.set()

    commit = GroupCommit(disk.write, settle_down=settle_down)
    for number in range(5):
        commit.submit(number).result(5)
    assert rested.wait(5)
    commit.close()
    assert len(rests) < 5
    assert sum(len(entries) for entries in disk.lists[: rests[-1]]) == 5


def test_what_settling_down_raises_the_next_list_gets_and_only_that_one() -> None:
    rested = threading.Event()

    def settle_down() -> None:
        if not rested.is_set():
            rested.set()
            raise OSError("the disk is gone")

    disk = Disk()
    disk.go.set()
    commit = GroupCommit(disk.write, settle_down=settle_down)
    commit.submit(1).result(5)
    assert rested.wait(5)
    with pytest.raises(OSError, match="the disk is gone"):
        commit.submit(2).result(5)
    commit.submit(3).result(5)
    commit.close()
