"""What pytest does when `BESSEMER_TEST_DATABASE=postgres`: a server for the session, a database for
each home, dropped with the test it belonged to. Without the variable nothing here does anything.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import traceback
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.leaks import LEAKS
from tests.postgres import homes, server

CHOICE = "BESSEMER_TEST_DATABASE"
CHILD = str(Path(__file__).parent / "child")

_session = contextlib.ExitStack()
_kept = False  # a server that was here before keeps the databases, to look into them
_missing: str | None = None


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "sqlite(reason): about SQLite itself; skipped on PostgreSQL, with the reason"
    )
    chosen = os.environ.get(CHOICE, "sqlite")
    if chosen not in ("sqlite", "postgres"):
        raise pytest.UsageError(f"{CHOICE} is sqlite or postgres, not {chosen!r}")
    if chosen == "sqlite":
        os.environ.pop(homes.SERVER, None)
        return
    global _kept, _missing
    _kept = homes.on_postgres()
    os.environ.pop("BESSEMER_DATABASE_URL", None)
    try:
        if not _kept:
            os.environ[homes.SERVER] = _session.enter_context(server.running(_look))
    except server.NotHere as reason:
        _missing = str(reason)
        return
    _make_template()
    homes.install()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (CHILD, os.environ.get("PYTHONPATH"))))


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish() -> Generator[None, None, None]:
    """Before the run is judged: no secret may be in the server's log either."""
    _session.close()
    yield


def pytest_unconfigure() -> None:
    _session.close()


def _look(log: str) -> None:
    LEAKS.look("the log of PostgreSQL", log)


def pytest_report_header() -> str | None:
    if _missing is not None:
        return f"PostgreSQL: everything is skipped: {_missing}"
    return "PostgreSQL: each home in a database of its own" if homes.on_postgres() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _missing is not None:
            item.add_marker(pytest.mark.skip(reason=_missing))
        elif homes.on_postgres() and (mark := item.get_closest_marker("sqlite")):
            item.add_marker(pytest.mark.skip(reason=f"about SQLite itself: {mark.args[0]}"))


@pytest.fixture(autouse=True)
def _databases_of_a_test(request: pytest.FixtureRequest) -> Iterator[None]:
    if not homes.on_postgres() or _kept:
        yield
        return
    folder = request.getfixturevalue("tmp_path")  # first made, last gone
    yield
    homes.drop([folder])


def _make_template() -> None:
    """Migrated once, by the product itself; whatever goes wrong ends the session here."""
    from bessemer.app.platform import Platform
    from bessemer.core.home import Home

    with homes.connect() as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {homes.TEMPLATE} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {homes.TEMPLATE} TEMPLATE template0")
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("BESSEMER_DATABASE_URL", homes.database_url(homes.TEMPLATE))
        try:
            Platform.open(Home(Path(folder))).close()
        except Exception:
            _session.close()
            pytest.exit(f"the migrations fail on PostgreSQL:\n{traceback.format_exc()}", 1)
