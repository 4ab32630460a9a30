"""The trail of changes stays as it was written, whoever asks the database to change it."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from bessemer.access.tables import audit as rows
from bessemer.app import audit
from bessemer.app.platform import Platform
from bessemer.core.principal import Principal
from tests.postgres import homes

CHANGES = [sa.update(rows).values(action="file.created"), sa.delete(rows)]
if homes.on_postgres():
    CHANGES.append(sa.text("TRUNCATE audit"))  # type: ignore[arg-type]


@pytest.mark.parametrize("change", CHANGES, ids=["update", "delete", "truncate"][: len(CHANGES)])
def test_the_database_itself_refuses_to_change_what_is_written(
    platform: Platform, owner: Principal, change: sa.Executable
) -> None:
    with platform.db.write() as connection:
        audit.record(connection, owner, "file.deleted", "file-1", before={"name": "a"})
    with (
        pytest.raises(sa.exc.DBAPIError, match="the audit trail is append only"),
        platform.db.write() as connection,
    ):
        connection.execute(change)
    with platform.db.read() as connection:
        assert connection.execute(sa.select(rows.c.action)).scalars().all() == ["file.deleted"]
