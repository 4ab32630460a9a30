"""A database is named as people name it, and a wrong name says what a right one looks like."""

from __future__ import annotations

import importlib.util

import pytest

from bessemer.core.database_url import read_url
from bessemer.core.errors import InvalidInput, Missing


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_postgresql_is_written_as_everybody_writes_it(scheme: str) -> None:
    url = read_url(f"{scheme}://ann:s%40cret@db.lab:6543/bessemer?sslmode=require")
    assert url.drivername == "postgresql+psycopg"
    assert (url.username, url.password, url.host, url.port) == ("ann", "s@cret", "db.lab", 6543)
    assert (url.database, url.query["sslmode"]) == ("bessemer", "require")


def test_what_the_url_says_goes_before_our_defaults() -> None:
    assert read_url("postgresql://db/x").query["connect_timeout"] == "10"
    assert read_url("postgresql://db/x?connect_timeout=3").query["connect_timeout"] == "3"


def test_sqlite_is_a_path() -> None:
    assert read_url("sqlite:////home/db.sqlite").database == "/home/db.sqlite"


@pytest.mark.parametrize(
    "text",
    [
        "mysql://ann:hunter2@db/x",
        "postgresql+psycopg2://ann:hunter2@db/x",
        "postgresql://ann:hunter2@db:port/x",
        "host=db password=hunter2",
        "",
    ],
)
def test_another_url_is_refused_and_its_password_not_repeated(text: str) -> None:
    with pytest.raises(InvalidInput, match="it takes postgresql:// and sqlite:///") as refused:
        read_url(text)
    assert "hunter2" not in str(refused.value)


def test_a_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "psycopg" else there(name)
    )
    with pytest.raises(Missing) as refused:
        read_url("postgresql://db/x")
    assert refused.value.next_step == 'pip install "bessemer[postgres]"'
