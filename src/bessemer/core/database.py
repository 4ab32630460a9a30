"""The database: SQLite in the home folder, or PostgreSQL by `BESSEMER_DATABASE_URL`.

SQLite runs in WAL with `synchronous=FULL`: what was committed survives a power cut. Writers take
`BEGIN IMMEDIATE`, so two of them queue for up to `BUSY_TIMEOUT_MS` instead of failing halfway.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from bessemer.core.home import Home

BUSY_TIMEOUT_MS = 10_000


class Database:
    """A connection pool with two verbs: `read()` and `write()`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = sa.create_engine(url)
        if self.engine.dialect.name == "sqlite":
            sa.event.listen(self.engine, "connect", _configure_sqlite)

    @classmethod
    def of(cls, home: Home) -> Database:
        return cls(os.environ.get("BESSEMER_DATABASE_URL") or f"sqlite:///{home.database}")

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection for looking: one snapshot throughout; what it changes is rolled back."""
        with self.engine.connect() as connection:
            if self.engine.dialect.name == "sqlite":
                # Without it every statement would be a transaction of its own, and be kept.
                connection.exec_driver_sql("BEGIN")
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction: committed at the end, rolled back on an exception."""
        with self.engine.connect() as connection:
            if self.engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    def writer(self) -> Writer:
        """For who writes often and alone; close it before the database."""
        return Writer(self.engine)

    def close(self) -> None:
        self.engine.dispose()


class Writer:
    """A connection of its own that knows whether anybody else wrote since its last transaction.

    So what it read or wrote before may be kept in memory. Of one thread at a time.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._connection: sa.Connection | None = None
        self._version: int | None = None
        self.others_wrote = True

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """As `Database.write`; `others_wrote` is right within it and until the next one."""
        if self._connection is None:
            self._connection = self._engine.connect()
        connection = self._connection
        if self._engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            version = connection.exec_driver_sql("PRAGMA data_version").scalar()
            # Only others' commits change it, and under the lock there are none to come.
            self.others_wrote, self._version = version != self._version, version
        try:
            yield connection
            connection.commit()
        except BaseException:
            self._version = None
            connection.rollback()
            raise

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def _configure_sqlite(connection: Any, _record: Any) -> None:
    # The driver must not open transactions by itself, or BEGIN IMMEDIATE would be too late.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    _enter_wal(cursor)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _enter_wal(cursor: sqlite3.Cursor) -> None:
    # Unlike a transaction, this change does not wait while another opener makes it.
    deadline_s = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.01)
