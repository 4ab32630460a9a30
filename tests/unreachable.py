"""A database that nobody reaches: who still gets an answer did not ask it.

And one whose server does not answer for a while, as every caller of it meets it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import sqlalchemy as sa

from bessemer.core.database import Database


class Reached(Exception):
    """Somebody asked the database after all."""


@contextlib.contextmanager
def unreachable(db: Database) -> Iterator[None]:
    """Within the block every new connection is `Reached`, and there are no old ones."""
    with _connecting_by(db, _refuse):
        yield


@contextlib.contextmanager
def away(db: Database) -> Iterator[None]:
    """Within the block `read` and `write` raise DatabaseUnavailable, as when the server is away."""
    with _connecting_by(db, _fail):
        yield


@contextlib.contextmanager
def _connecting_by(db: Database, way: Callable[..., None]) -> Iterator[None]:
    db.close()
    sa.event.listen(db.engine, "do_connect", way)
    try:
        yield
    finally:
        sa.event.remove(db.engine, "do_connect", way)


def _refuse(*_: object) -> None:
    raise Reached


def _fail(dialect: sa.Dialect, *_: object) -> None:
    raise dialect.loaded_dbapi.OperationalError("connection refused")
