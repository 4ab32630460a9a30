"""A console in one process: a home of its own, fake models, a client that is logged in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from bessemer.app.platform import Platform
from bessemer.console.pages import build
from bessemer.console.sessions import Sessions, offer_token, token_folder
from bessemer.core.home import Home
from tests.console.fakes import FakeServing

URL = "http://127.0.0.1:8000"


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with Platform.open(Home(tmp_path / "home")) as platform:
        yield platform


@pytest.fixture
def serving() -> FakeServing:
    return FakeServing("base", "taught")


@pytest.fixture
def stranger(platform: Platform, serving: FakeServing) -> Iterator[TestClient]:
    """A client without a session."""
    app = build(platform, serving, Sessions(token_folder(platform.home)), hosts=["lab.example:80"])
    with TestClient(app, base_url=URL, follow_redirects=False) as client:
        yield client


@pytest.fixture
def client(stranger: TestClient, platform: Platform) -> TestClient:
    """A client that is logged in."""
    token = offer_token(token_folder(platform.home))
    assert stranger.get(f"/login?token={token}").status_code == 200
    return stranger
