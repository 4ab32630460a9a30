"""One installation, opened: its home, its database, its artifacts. Every use case takes one.

    with Platform.open() as platform:
        models.list_models(platform, platform.local_principal())

Opening migrates the database when it is behind; when it is not, that costs one SELECT.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from bessemer.access import tables as access_tables
from bessemer.app.migrations import HEAD
from bessemer.core.artifacts import ArtifactStore
from bessemer.core.database import Database, now_ms
from bessemer.core.errors import Conflict
from bessemer.core.home import Home
from bessemer.core.principal import Principal

ORG_ID = "org_default"
PROJECT_ID = "project_default"
OWNER_ID = "person_default"

# Nobody said who they are when this home was made; the address is this machine's own.
_OWNER = {"name": "Owner", "email": "owner@localhost"}
_OWNERSHIP = {
    "org_id": ORG_ID,
    "project_id": access_tables.ORGANIZATION,
    "owner_id": OWNER_ID,
    "holder_id": OWNER_ID,
    "role": "owner",
}


@dataclass(frozen=True)
class Platform:
    """What the rooms below share. It holds no state of its own and is safe to use from threads."""

    home: Home
    db: Database
    artifacts: ArtifactStore

    @classmethod
    def open(cls, home: Home | None = None) -> Platform:
        """Open (and on the first time make) a home: `home`, or the one `Home.find()` finds.

        Any number of processes may open the same home at once.

        Raises:
            Conflict: the database was written by a newer version.
        """
        home = (home or Home.find()).ensure()
        db = Database.of(home)
        try:
            _bring_up_to_date(db)
        except BaseException:
            db.close()
            raise
        return cls(home, db, ArtifactStore(home.artifacts))

    def close(self) -> None:
        self.db.close()

    def __enter__(self) -> Platform:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def local_principal(self) -> Principal:
        """The person at this machine, who may do everything: whoever can read the home owns it."""
        return Principal(ORG_ID, PROJECT_ID, OWNER_ID, frozenset({"*"}))


def stored_revision(connection: sa.Connection) -> str | None:
    """The schema's revision in the database, or None in an empty one."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(
        sa.text("SELECT version_num FROM alembic_version")
    ).scalar()
    return revision


def _bring_up_to_date(db: Database) -> None:
    with db.read() as connection:
        if stored_revision(connection) == HEAD:
            return
    # The write lock makes a second process wait here, and then find the work done.
    with db.write() as connection:
        if stored_revision(connection) != HEAD:
            _migrate(connection)
            _seed(connection)


def _migrate(connection: sa.Connection) -> None:
    # Alembic costs about 0.1 s to import and is needed once in a home's life.
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    folder = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as fault:
        raise Conflict(
            f"the database has schema {stored_revision(connection)}; this version knows {HEAD}",
            next_step="use the newer version of Bessemer that wrote this home, or another home",
        ) from fault


def _seed(connection: sa.Connection) -> None:
    """One organization, one project, one owner, and prices of zero."""
    from bessemer.ledger.cards import adopt_first  # its pydantic costs every verb 0.1 s

    adopt_first(connection, Principal(ORG_ID, PROJECT_ID, OWNER_ID, frozenset()))
    rows = (
        (access_tables.organizations, {"id": ORG_ID, "name": "Default organization"}),
        (access_tables.projects, {"id": PROJECT_ID, "org_id": ORG_ID, "name": "Default project"}),
        (access_tables.people, {"id": OWNER_ID, "org_id": ORG_ID, **_OWNER}),
        (access_tables.grants, {"id": f"grant_{OWNER_ID}", **_OWNERSHIP}),
    )
    # Only into an empty home: who was taken out of one stays out when it is migrated.
    if connection.execute(sa.select(access_tables.organizations.c.id)).first() is not None:
        return
    for table, row in rows:
        connection.execute(table.insert().values(**row, created_ms=now_ms()))
