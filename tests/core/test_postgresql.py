"""What only a server does: refuse values, keep a lock, restart, be away.

`make postgres` runs these.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

import bessemer.core.database as database
from bessemer.core.database import Database
from bessemer.core.errors import Conflict, DatabaseUnavailable, InvalidInput
from tests.postgres import homes

pytestmark = pytest.mark.skipif(not homes.on_postgres(), reason="on PostgreSQL: make postgres")

words = sa.Table(
    "words",
    sa.MetaData(),
    sa.Column("id", sa.String(8), primary_key=True),
    sa.Column("text", sa.Text),
    sa.Column("count", sa.BigInteger),
)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    db = Database(homes.url_of(tmp_path))
    with db.write() as connection:
        words.create(connection)
    yield db
    db.close()


def put(db: Database, **row: object) -> None:
    with db.write() as connection:
        connection.execute(words.insert().values(row))


def count(db: Database) -> int:
    with db.read() as connection:
        found: int | None = connection.scalar(sa.select(sa.func.count()).select_from(words))
    assert found is not None
    return found


def cut_connections(db: Database) -> int:
    """As a restart of the server does. Gives how many there were."""
    with homes.connect() as server:
        found = server.execute(
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
            " WHERE datname = %s AND pid <> pg_backend_pid()",
            (sa.make_url(db.url).database,),
        )
        ended: int = found.fetchone()[0]
    return ended


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": "a", "text": "one\0two"}, "NUL"),
        ({"id": "a" * 9}, "too long for type character varying.8."),
        ({"id": "a", "count": 2**63}, "out of range"),
    ],
)
def test_a_value_it_cannot_hold_is_the_callers_fault(
    db: Database, row: dict[str, object], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        put(db, **row)
    assert count(db) == 0


def test_looking_for_what_it_cannot_hold_is_the_callers_fault_too(db: Database) -> None:
    with pytest.raises(InvalidInput), db.read() as connection:
        connection.execute(sa.select(words).where(words.c.id == "a\0b"))
    assert count(db) == 0


def test_a_fault_of_ours_stays_one_and_shows_no_values(db: Database) -> None:
    put(db, id="a", text="secret")
    with pytest.raises(sa.exc.IntegrityError) as fault:
        put(db, id="a", text="secret again")
    assert "secret again" not in str(fault.value)
    assert count(db) == 1


def test_a_read_cannot_write(db: Database) -> None:
    with pytest.raises(sa.exc.InternalError, match="read-only"), db.read() as connection:
        connection.execute(words.insert().values(id="a"))


def test_a_connection_that_read_can_write_again(db: Database) -> None:
    for number in range(3):  # of one thread, so it is the same connection
        assert count(db) == number
        put(db, id=str(number))


def test_a_writer_keeps_every_other_out_and_takes_it_that_they_wrote(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a ledger keeps no balance in memory where another server may move it."""
    monkeypatch.setattr(database, "_POSTGRESQL_SESSION", "SET lock_timeout = 50")
    impatient, writer = Database(db.url), db.writer()
    with writer.write() as connection:
        assert writer.others_wrote
        connection.execute(words.insert().values(id="a"))
        with pytest.raises(DatabaseUnavailable, match="another writer"):
            put(impatient, id="c")
    impatient.close()
    with writer.write():
        assert writer.others_wrote
    assert cut_connections(db) == 1
    with writer.write() as connection:  # and a restart costs it nothing
        connection.execute(words.insert().values(id="b"))
    writer.close()
    assert count(db) == 2


def test_a_restarted_server_is_not_noticed(db: Database) -> None:
    put(db, id="a")
    assert cut_connections(db) == 1
    put(db, id="b")
    assert cut_connections(db) == 1
    assert count(db) == 2


def test_a_connection_cut_within_a_write_is_unavailable_and_keeps_nothing(db: Database) -> None:
    with pytest.raises(DatabaseUnavailable), db.write() as connection:
        connection.execute(words.insert().values(id="a"))
        assert cut_connections(db) == 1
        connection.execute(words.insert().values(id="b"))
    assert count(db) == 0


def test_a_writer_that_waits_too_long_says_so(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_POSTGRESQL_SESSION", "SET lock_timeout = 50")
    impatient = Database(db.url)
    with db.write(), pytest.raises(DatabaseUnavailable, match="another writer"):
        put(impatient, id="a")
    put(impatient, id="b")  # the next one is let in
    impatient.close()
    assert count(db) == 1


def test_readers_wait_for_no_writer(db: Database) -> None:
    with db.write() as connection:
        connection.execute(words.insert().values(id="a"))
        seen: list[int] = []
        reader = threading.Thread(target=lambda: seen.append(count(db)))
        reader.start()
        reader.join(10)
        assert seen == [0]
    assert count(db) == 1


def test_a_server_that_is_not_there_is_unavailable_and_its_password_stays_here(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        db = Database(f"postgresql://ann:hunter2@127.0.0.1:{taken.getsockname()[1]}/x")
        with pytest.raises(DatabaseUnavailable, match="does not answer") as fault, db.read():
            pass
    assert "127.0.0.1" not in str(fault.value)
    assert "127.0.0.1" in caplog.text and "hunter2" not in caplog.text


def test_a_database_that_cannot_hold_every_text_is_refused(tmp_path: Path) -> None:
    homes.make(tmp_path, "template0 ENCODING SQL_ASCII LOCALE 'C' LOCALE_PROVIDER libc")
    db = Database(homes.url_of(tmp_path))
    with pytest.raises(Conflict, match="has the encoding SQL_ASCII"), db.read():
        pass
    db.close()
