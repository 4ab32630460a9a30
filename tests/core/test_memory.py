"""Memory of the machine or of the control group, whichever is less, and who was killed for it."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from bessemer.core import memory
from bessemer.core.memory import Memory, groups_of, measure, oom_kills

GB = 10**9


def make_group(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def version_2(folder: Path, limit: str, used: int, kills: int = 0) -> Path:
    stat = f"anon 1\ninactive_file {GB // 4}\nactive_file {GB // 4}\n"
    events = f"low 0\noom 3\noom_kill {kills}\n"
    files = {"memory.max": f"{limit}\n", "memory.current": f"{used}\n"}
    return make_group(folder, {**files, "memory.stat": stat, "memory.events": events})


def version_1(folder: Path, limit: str, used: int, kills: int = 0) -> Path:
    stat = f"inactive_file 1\nactive_file 1\ntotal_inactive_file {GB}\ntotal_active_file 0\n"
    files = {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": str(used)}
    control = f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n"
    return make_group(folder, {**files, "memory.stat": stat, "memory.oom_control": control})


def measured(root: Path, own: str, monkeypatch: pytest.MonkeyPatch) -> Memory:
    (root / "own").write_text(own)
    monkeypatch.setattr(memory, "ROOT", root)
    monkeypatch.setattr(memory, "OWN", root / "own")
    return measure()


def test_without_a_group_it_is_the_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = measured(tmp_path, "0::/\n", monkeypatch)
    assert told.total == psutil.virtual_memory().total
    assert 0 < told.resident < told.total and 0 < told.available <= told.total
    assert (told.group, told.oom_kills) == (None, None)
    assert groups_of(tmp_path, tmp_path / "absent") == []


def test_the_tightest_group_of_version_2_counts_and_cached_files_are_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version_2(tmp_path / "job", "2000000000", 1 * GB)
    own = version_2(tmp_path / "job" / "step", "max", 1 * GB, kills=2)
    told = measured(tmp_path, "0::/job/step\n", monkeypatch)
    assert (told.total, told.available) == (2 * GB, 1.5 * GB)
    assert (told.group, told.oom_kills) == (str(own), 2)
    assert not told.nearly_full
    version_2(tmp_path / "job", "2000000000", 2 * GB + GB // 3)
    assert measured(tmp_path, "0::/job/step\n", monkeypatch).nearly_full
    assert oom_kills(own) == 2


def test_a_container_of_version_1_knows_its_group_by_the_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = version_1(tmp_path / "memory", "3000000000", 2 * GB, kills=1)
    lines = "5:cpu,cpuacct:/docker/f00\n4:memory:/docker/f00\n0::/\n"
    told = measured(tmp_path, lines, monkeypatch)
    assert (told.total, told.available) == (3 * GB, 2 * GB)
    assert (told.group, told.oom_kills) == (str(mount), 1)


def test_a_group_that_is_gone_says_nothing(tmp_path: Path) -> None:
    assert oom_kills(tmp_path / "gone") is None
