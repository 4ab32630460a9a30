"""Two verbs: a read keeps nothing and sees one moment; a write is whole or did not happen."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from bessemer.core.database import Database
from bessemer.core.home import Home

facts = sa.Table("facts", sa.MetaData(), sa.Column("n", sa.Integer))


@pytest.fixture
def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.delenv("BESSEMER_DATABASE_URL", raising=False)
    db = Database.of(Home(tmp_path).ensure())
    with db.write() as connection:
        facts.create(connection)
        connection.execute(facts.insert().values(n=0))
    yield db
    db.close()


def numbers(db: Database) -> list[int]:
    with db.read() as connection:
        return list(connection.scalars(sa.select(facts.c.n).order_by(facts.c.n)))


def test_a_write_is_kept(db: Database) -> None:
    with db.write() as connection:
        connection.execute(facts.insert().values(n=1))
    assert numbers(db) == [0, 1]


def test_a_write_that_fails_leaves_nothing(db: Database) -> None:
    with pytest.raises(KeyboardInterrupt), db.write() as connection:
        connection.execute(facts.insert().values(n=1))
        raise KeyboardInterrupt
    assert numbers(db) == [0]
    with db.write() as connection:
        connection.execute(facts.insert().values(n=2))
    assert numbers(db) == [0, 2]


def test_what_a_read_changes_is_rolled_back_or_refused(db: Database) -> None:
    with contextlib.suppress(sa.exc.InternalError), db.read() as connection:
        connection.execute(facts.insert().values(n=1))
    assert numbers(db) == [0]


def test_a_read_sees_one_moment_throughout(db: Database) -> None:
    count = sa.select(sa.func.count()).select_from(facts)
    with db.read() as connection:
        before = connection.scalar(count)
        with db.write() as writer:
            writer.execute(facts.insert().values(n=1))
        assert connection.scalar(count) == before
    assert numbers(db) == [0, 1]


def test_writers_wait_for_each_other_and_none_is_lost(db: Database) -> None:
    def count_up() -> None:
        for _ in range(20):
            with db.write() as connection:
                n = connection.scalar(sa.select(facts.c.n))
                connection.execute(facts.update().values(n=n + 1))

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers(db) == [80]


@pytest.mark.sqlite("its durability is set by this process; PostgreSQL's is its server's")
def test_sqlite_keeps_what_was_committed_through_a_power_cut(db: Database) -> None:
    with db.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_many_can_open_a_database_that_does_not_exist_yet(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.sqlite'}"
    start, faults = threading.Barrier(8), list[BaseException]()

    def open_and_look() -> None:
        db = Database(url)
        start.wait()
        try:
            with db.read() as connection:
                connection.exec_driver_sql("SELECT 1")
        except BaseException as fault:
            faults.append(fault)
        finally:
            db.close()

    threads = [threading.Thread(target=open_and_look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_the_environment_can_name_another_database(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BESSEMER_DATABASE_URL", f"sqlite:///{tmp_path / 'else.sqlite'}")
    db = Database.of(Home(tmp_path / "home"))
    with db.read() as connection:
        connection.exec_driver_sql("SELECT 1")
    db.close()
    assert (tmp_path / "else.sqlite").exists()
    assert not (tmp_path / "home").exists()


@pytest.mark.sqlite("PostgreSQL syncs by itself")
def test_a_writers_commits_are_synced_when_asked_and_at_the_end(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    writer = db.writer()
    with writer.write() as connection:
        connection.exec_driver_sql("CREATE TABLE kept (id INTEGER)")
    assert synced == []
    writer.sync()
    assert len(synced) == 1
    assert synced[0] > 0
    writer.close()
    assert len(synced) == 2
    with db.read() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
