"""One server a home; the kernel forgets the lock with the process."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bessemer.core.errors import HomeLocked
from bessemer.core.home import Home

HOLDER = """
import sys
from pathlib import Path
from bessemer.core.home import Home

home = Home(Path(sys.argv[1]))
with home.lock():
    home.note_holder(pid=1234567, url="http://127.0.0.1:1")
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").ensure()


@pytest.fixture
def holder(home: Home) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the home."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(home.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_a_second_process_is_refused_and_told_who_holds_it(
    home: Home, holder: subprocess.Popen[bytes]
) -> None:
    assert home.is_locked()
    with pytest.raises(HomeLocked, match=r"pid 1234567 at http://127.0.0.1:1"), home.lock():
        pass
    # Being refused changed nothing.
    assert home.lock_holder() == {"pid": 1234567, "url": "http://127.0.0.1:1"}
    assert home.is_locked()


def test_the_lock_falls_with_kill_9(home: Home, holder: subprocess.Popen[bytes]) -> None:
    holder.kill()
    holder.wait()
    assert not home.is_locked()
    with home.lock():
        assert home.is_locked()


def test_the_lock_is_given_back(home: Home) -> None:
    with home.lock():
        pass
    assert not home.is_locked()
    with home.lock():
        pass


def test_a_home_that_was_never_locked_is_not_locked(home: Home) -> None:
    assert not home.is_locked()
    assert home.lock_holder() == {}


def test_only_the_owner_may_look_inside(home: Home) -> None:
    for folder in (home.root, home.artifacts, home.runs, home.keys, home.cache):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(home.socket_dir().stat().st_mode) == 0o700


def test_a_home_is_found_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("BESSEMER_HOME", raising=False)
    assert Home.find().root == tmp_path / "xdg" / "bessemer"
    monkeypatch.setenv("BESSEMER_HOME", str(tmp_path / "mine"))
    assert Home.find().root == tmp_path / "mine"


def test_socket_paths_are_short_and_differ_by_home(tmp_path: Path) -> None:
    deep = Home(tmp_path / ("d" * 90))
    other = Home(tmp_path / "other")
    assert deep.socket_dir() == Home(deep.root).socket_dir() != other.socket_dir()
    assert len(str(deep.socket_dir() / "engine-1234567-99.sock")) < 100
    deep.socket_dir().rmdir()
    other.socket_dir().rmdir()


def test_a_runtime_folder_that_is_not_there_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "gone"))
    folder = Home(tmp_path / "home").socket_dir()
    assert folder.is_dir() and tmp_path / "gone" not in folder.parents
    folder.rmdir()
