"""A platform of its own for each test."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bessemer.app.platform import Platform
from bessemer.core.home import Home
from bessemer.core.principal import Principal
from bessemer.core.runs import RunFolder


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    """Whatever run a test left going is ended with it."""
    with Platform.open(Home(tmp_path / "home")) as platform:
        yield platform
        for folder in platform.home.runs.iterdir():
            if process := RunFolder(folder).process():
                process.send(signal.SIGKILL)
        shutil.rmtree(platform.home.socket_dir())


@pytest.fixture
def owner(platform: Platform) -> Principal:
    return platform.local_principal()


@pytest.fixture
def stranger(owner: Principal) -> Principal:
    """Someone with every right, in another project."""
    return Principal(owner.org_id, "project_other", "person_other", frozenset({"*"}))
