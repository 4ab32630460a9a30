"""A database's URL, as people write it, for the driver that is used.

>>> str(read_url("sqlite:///db.sqlite"))
'sqlite:///db.sqlite'
"""

from __future__ import annotations

import importlib.util

import sqlalchemy as sa

from bessemer.core.errors import InvalidInput, Missing

# libpq's own settings; what the URL says goes first. Without them a server that vanished is waited
# for as long as the kernel likes: for a connection two minutes, for an answer hours.
_DEFAULTS = {
    "application_name": "bessemer",
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
}


def read_url(text: str) -> sa.URL:
    """SQLAlchemy's URL of `sqlite:///PATH` or `postgresql://...`. Its text is never repeated in an
    error: it may hold a password.

    Raises:
        InvalidInput: it is neither.
        Missing: PostgreSQL's driver is not installed.
    """
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError) as fault:
        raise _unreadable("is no URL") from fault
    if url.drivername == "sqlite":
        return url
    # "postgres" is what many providers still print; "+psycopg" is how SQLAlchemy spells the driver.
    if url.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise _unreadable(f"begins with {url.drivername}://")
    if importlib.util.find_spec("psycopg") is None:
        raise Missing(
            "BESSEMER_DATABASE_URL names PostgreSQL, whose driver, psycopg, is not installed here",
            next_step='pip install "bessemer[postgres]"',
        )
    defaults = {name: value for name, value in _DEFAULTS.items() if name not in url.query}
    return url.set(drivername="postgresql+psycopg").update_query_dict(defaults)


def _unreadable(why: str) -> InvalidInput:
    return InvalidInput(
        f"the database's URL {why}; it takes postgresql:// and sqlite:///",
        next_step="BESSEMER_DATABASE_URL=postgresql://USER:PASSWORD@HOST:5432/DATABASE, or unset it"
        " for SQLite in the home",
    )
