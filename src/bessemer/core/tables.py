"""The tables of core, and the columns every table of the house begins with.

SQLAlchemy Core only, and only types that SQLite and PostgreSQL share. Times are Unix
milliseconds, money is integer micro-units, JSON is canonical text.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, Text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    }
)


def owned(name: str, *columns: Column[object] | Index) -> Table:
    """A table whose rows each have an id, an organization, a project, an owner and a time."""
    return Table(
        name,
        metadata,
        Column("id", String(64), primary_key=True),
        Column("org_id", String(64), nullable=False),
        Column("project_id", String(64), nullable=False),
        Column("owner_id", String(64), nullable=False),
        Column("created_ms", BigInteger, nullable=False),
        *columns,
    )


# A name a person gave to an artifact: `smollm2-135m-instruct` -> digest. The newest row wins.
names = owned(
    "names",
    Column("kind", String(32), nullable=False),
    Column("name", String(200), nullable=False),
    Column("digest", String(80), nullable=False),
    Column("run_id", String(64)),
    Index(None, "project_id", "kind", "name"),
)

# Answers of a deterministic server, to be computed again: `record` is `app.recording.Record`.
answers = owned(
    "answers",
    Column("request_id", String(64), nullable=False),
    Column("digest", String(80), nullable=False),
    Column("record", Text, nullable=False),
    Index(None, "project_id", "request_id"),
    Index(None, "created_ms"),
)

# What a project asked to be run. What happened to it is in the run's folder.
runs = owned(
    "runs",
    Column("kind", String(32), nullable=False),
    Column("name", String(200), nullable=False),
    Column("state", String(16), nullable=False),
    Column("launcher", String(16), nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("harvested", Integer, nullable=False, server_default="0"),
    Column("note", Text),
    Index(None, "project_id", "state"),
)
