"""The database: SQLite in the home folder, or PostgreSQL by `BESSEMER_DATABASE_URL`.

Two verbs that promise the same on both:

    read    one snapshot throughout; nothing is kept
    write   one writer at a time: between its first statement and its commit nobody else writes, so
            what it has read is still so when it writes. Look, then insert: no ON CONFLICT.

SQLite runs in WAL with `synchronous=FULL`: what was committed survives a power cut (`Writer` tells
of an exception). Its writers take `BEGIN IMMEDIATE`. PostgreSQL's take an advisory lock, once a
transaction; readers wait for nobody. On both a writer queues for up to `BUSY_TIMEOUT_MS`, and then
fails before it began.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from bessemer.core.database_faults import explained
from bessemer.core.database_url import read_url
from bessemer.core.errors import Conflict
from bessemer.core.home import Home

BUSY_TIMEOUT_MS = 10_000

# Any constant; PostgreSQL's advisory locks are numbers, and each database has its own.
_WRITERS_LOCK = 0x6265_7373

# A writer that vanished with its machine holds the lock until the server knows: a minute.
_POSTGRESQL_SESSION = f"""
    SET lock_timeout = {BUSY_TIMEOUT_MS};
    SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3
"""


class Database:
    """A connection pool with two verbs: `read()` and `write()`.

    Args:
        url: `sqlite:///PATH`, or `postgresql://...` as `psql` takes it.

    Raises:
        InvalidInput: a URL of another kind, or none.
        Missing: PostgreSQL's driver is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        address = read_url(url)
        self._begin_reading: str | None
        # A statement's parameters are somebody's texts: no log needs them.
        if address.get_backend_name() == "sqlite":
            self.engine = sa.create_engine(address, hide_parameters=True)
            self._reader = self.engine
            self._begin_reading, self._begin_writing = "BEGIN", "BEGIN IMMEDIATE"
            sa.event.listen(self.engine, "connect", _configure_sqlite)
        else:
            # A server may restart between two uses of a connection; asked first, nobody notices.
            self.engine = sa.create_engine(
                address, hide_parameters=True, pool_pre_ping=True, use_native_hstore=False
            )
            self._reader = self.engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            # Under READ COMMITTED what comes after the lock sees all that was committed before.
            self._begin_reading = None
            self._begin_writing = f"SELECT pg_advisory_xact_lock({_WRITERS_LOCK})"
            # First of all: SQLAlchemy's own first look stumbles over another encoding.
            sa.event.listen(self.engine, "connect", _configure_postgresql, insert=True)

    @classmethod
    def of(cls, home: Home) -> Database:
        return cls(os.environ.get("BESSEMER_DATABASE_URL") or f"sqlite:///{home.database}")

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection for looking: one snapshot throughout; what it changes is rolled back, or
        refused by PostgreSQL.
        """
        with explained(), self._reader.connect() as connection:
            if self._begin_reading:
                # Without it every statement would be a transaction of its own, and be kept.
                connection.exec_driver_sql(self._begin_reading)
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction: committed at the end, rolled back on an exception.

        Never within another `write()` of the same thread: the inner one waits for the outer.
        """
        with explained(), self.engine.connect() as connection:
            connection.exec_driver_sql(self._begin_writing)
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    def writer(self) -> Writer:
        """For who writes often and alone; close it before the database."""
        return Writer(self)

    def close(self) -> None:
        self.engine.dispose()


class Writer:
    """Knows whether anybody else wrote since its last transaction, so what it read or wrote before
    may be kept in memory. Of one thread at a time.

    SQLite tells it by a connection that stays. PostgreSQL has no such number, and several servers
    share it: there everybody always may have written, and a transaction is `Database.write`'s.

    SQLite does not wait for the disk here: a commit survives every end of the process, and a power
    cut once `sync` was called. Who writes for each request calls it for many (decision 0013).
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._connection: sa.Connection | None = None
        self._version: int | None = None
        self.others_wrote = True

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """As `Database.write`; `others_wrote` is right within it and until the next one."""
        if self._db.engine.dialect.name != "sqlite":
            with self._db.write() as connection:
                yield connection
            return
        if self._connection is None:
            self._connection = self._db.engine.connect()
            self._connection.exec_driver_sql("PRAGMA synchronous=NORMAL")
        connection = self._connection
        with explained():
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

    def sync(self) -> None:
        """Wait until what was committed survives a power cut. On PostgreSQL it does already."""
        if self._connection is None:
            return
        # SQLite has no word for it. Only the file of the database and `-shm` are locked, which
        # closing a second descriptor would undo.
        with contextlib.suppress(FileNotFoundError):  # moved into the database, which synced it
            log = os.open(f"{self._db.engine.url.database}-wal", os.O_RDONLY)
            try:
                os.fsync(log)
            finally:
                os.close(log)

    def close(self) -> None:
        if self._connection is not None:
            self.sync()
            # Others get it back from the pool, and wait for the disk.
            self._connection.exec_driver_sql("PRAGMA synchronous=FULL")
            self._connection.close()
            self._connection = None


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def _configure_postgresql(connection: Any, _record: Any) -> None:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise Conflict(
            f"the database has the encoding {encoding}; only UTF8 holds every text",
            next_step="createdb --encoding UTF8 --template template0 NAME, and name that one in"
            " BESSEMER_DATABASE_URL",
        )
    connection.execute(_POSTGRESQL_SESSION)
    connection.commit()


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
