"""One-time tokens and sessions."""

from __future__ import annotations

from pathlib import Path

import pytest

from bessemer.console.sessions import (
    SESSION_LIFE_S,
    TOKEN_LIFE_S,
    Sessions,
    login_url,
    offer_token,
)


class Clock:
    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "login"


def test_a_token_opens_one_session_and_no_second(folder: Path) -> None:
    sessions = Sessions(folder)
    token = offer_token(folder)
    secret = sessions.redeem(token)
    assert sessions.is_open(secret)
    assert sessions.redeem(token) is None


def test_a_token_is_used_up_for_every_process_of_the_home(folder: Path) -> None:
    token = offer_token(folder)
    assert Sessions(folder).redeem(token) is not None
    assert Sessions(folder).redeem(token) is None


def test_a_token_ends_after_its_time(folder: Path) -> None:
    token = offer_token(folder)
    born_s = next(folder.iterdir()).stat().st_mtime
    assert Sessions(folder, Clock(born_s + TOKEN_LIFE_S + 1)).redeem(token) is None
    assert list(folder.iterdir()) == []


def test_an_unknown_token_opens_nothing(folder: Path) -> None:
    sessions = Sessions(folder)
    offer_token(folder)
    assert sessions.redeem("guess") is None
    assert sessions.redeem("") is None
    assert sessions.redeem("../../home.lock") is None


def test_the_disk_holds_no_secret(folder: Path) -> None:
    token = offer_token(folder)
    (path,) = folder.iterdir()
    assert path.read_bytes() == b""
    assert token not in path.name
    assert path.stat().st_mode & 0o077 == 0
    assert folder.stat().st_mode & 0o077 == 0


def test_a_session_ends_after_a_week_and_at_a_restart(folder: Path) -> None:
    clock = Clock(next_birth(folder))
    sessions = Sessions(folder, clock)
    secret = sessions.redeem(offer_token(folder))
    clock.now_s += SESSION_LIFE_S - 1
    assert sessions.is_open(secret)
    assert not Sessions(folder, clock).is_open(secret)
    clock.now_s += 2
    assert not sessions.is_open(secret)


def next_birth(folder: Path) -> float:
    """What the file system says is now."""
    offer_token(folder)
    (path,) = folder.iterdir()
    return path.stat().st_mtime


def test_closing_one_session_leaves_the_other(folder: Path) -> None:
    sessions = Sessions(folder)
    one, two = sessions.redeem(offer_token(folder)), sessions.redeem(offer_token(folder))
    sessions.close(one)
    assert not sessions.is_open(one)
    assert sessions.is_open(two)


def test_a_session_is_of_whom_its_token_was_for(folder: Path) -> None:
    sessions = Sessions(folder)
    secret = sessions.redeem(offer_token(folder, "user_ada"))
    found = sessions.find(secret)
    assert found is not None and (found.person_id, found.project_id) == ("user_ada", None)
    sessions.work_in(secret, "proj_1")
    found = sessions.find(secret)
    assert found is not None and found.project_id == "proj_1"
    sessions.work_in("nobody's", "proj_1")
    assert sessions.find("nobody's") is None


def test_nobody_without_a_secret_is_in(folder: Path) -> None:
    sessions = Sessions(folder)
    assert not sessions.is_open(None)
    assert not sessions.is_open("")


def test_the_url_ends_in_a_token_that_works(folder: Path) -> None:
    url = login_url("http://127.0.0.1:8000/", folder)
    base, _, token = url.partition("?token=")
    assert base == "http://127.0.0.1:8000/login"
    assert Sessions(folder).redeem(token) is not None
