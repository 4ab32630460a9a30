"""A console in one process: a home of its own, fake models, a client that is logged in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from bessemer.app import members, people, projects
from bessemer.app.platform import PROJECT_ID, Platform
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


@pytest.fixture
def reader(platform: Platform, serving: FakeServing) -> Iterator[TestClient]:
    """A client that is logged in as one who may look at everything and change nothing."""
    yield from _logged_in(platform, serving, PROJECT_ID, "reader")


@pytest.fixture
def neighbor(platform: Platform, serving: FakeServing) -> Iterator[TestClient]:
    """A client that is logged in as one who may do everything, in another project."""
    other = projects.create(platform, platform.local_principal(), "other")
    yield from _logged_in(platform, serving, other.id, "owner")


def _logged_in(
    platform: Platform, serving: FakeServing, project_id: str, role: str
) -> Iterator[TestClient]:
    me = platform.local_principal()
    person = people.add(platform, me, f"{role}@example.org", "reader")
    members.add(platform, me, project_id, person.id, role)
    app = build(platform, serving, Sessions(token_folder(platform.home)))
    with TestClient(app, base_url=URL, follow_redirects=False) as client:
        token = offer_token(token_folder(platform.home), person.id)
        assert client.get(f"/login?token={token}").status_code == 200
        yield client
