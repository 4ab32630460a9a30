"""Every test of the command line has a home of its own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("BESSEMER_HOME", str(folder))
    monkeypatch.delenv("BESSEMER_DATABASE_URL", raising=False)
    return folder
