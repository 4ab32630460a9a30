"""Each home a database of its own: what `Database.of` gives while the tests run on PostgreSQL.

A home's database is named after its path and made, from a template that is migrated already, when
the home is first opened, in this process or in one that a test started (`child/sitecustomize.py`).
A test that sets `BESSEMER_DATABASE_URL` gets that. Imports nothing of the tests, so that any
process can load it by its path.
"""

from __future__ import annotations

import hashlib
import os
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bessemer.core.home import Home

SERVER = "BESSEMER_TEST_POSTGRES"  # the URL of a superuser, while there is a server
TEMPLATE = "bessemer_template"
_PREFIX = "home_"
_LOCK = 1  # of the server's own database; one process at a time makes databases

_made: set[str] = set()


def on_postgres() -> bool:
    return SERVER in os.environ


def install() -> None:
    """From now on `Database.of(home)` is the home's database on the server."""
    from bessemer.core.database import Database

    original = Database.of.__func__  # type: ignore[attr-defined]

    def of(cls: type[Database], home: Home) -> Database:
        if os.environ.get("BESSEMER_DATABASE_URL"):
            chosen: Database = original(cls, home)
            return chosen
        return cls(url_of(home.root))

    Database.of = classmethod(of)  # type: ignore[assignment]


def url_of(root: Path) -> str:
    """The URL of the home's database, which is there when this returns."""
    make(root, TEMPLATE)
    return database_url(_name(root))


def make(root: Path, template: str) -> None:
    """Make the home's database, unless it is there."""
    name = _name(root)
    if name in _made:
        return
    with connect() as server:
        server.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        known = server.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
        if known is None:
            # Copying files takes 20 ms, writing them to the log 75.
            server.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
            path = str(root).replace("'", "''")
            server.execute(f"COMMENT ON DATABASE {name} IS '{path}'")
    _made.add(name)


def leave_empty(root: Path) -> None:
    """For a test of the migrations: a home not opened yet gets a database without any table."""
    if on_postgres():
        make(root, "template1")


def copy_database(source: Path, target: Path) -> None:
    """After the folder of a closed home was copied: its rows too."""
    if on_postgres():
        make(source, TEMPLATE)
        make(target, _name(source))


def drop(gone: list[Path]) -> None:
    """Forget the databases of homes at or below these folders, and of homes that are no more."""
    with connect() as server:
        found = server.execute(
            "SELECT datname, shobj_description(oid, 'pg_database') FROM pg_database"
            f" WHERE datname LIKE '{_PREFIX}%'"
        ).fetchall()
        for name, comment in found:
            path = Path(comment or "/nowhere")
            if not path.exists() or any(path.is_relative_to(folder) for folder in gone):
                server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
                _made.discard(name)


def connect() -> Any:
    """A connection to the server's own database, which makes and drops the others."""
    import psycopg

    return psycopg.connect(os.environ[SERVER], autocommit=True)


def database_url(name: str) -> str:
    return urllib.parse.urlsplit(os.environ[SERVER])._replace(path=f"/{name}").geturl()


def _name(root: Path) -> str:
    return _PREFIX + hashlib.sha256(str(root.absolute()).encode()).hexdigest()[:20]
