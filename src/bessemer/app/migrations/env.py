"""What Alembic runs for every migration. The connection, with its transaction, comes from `app`."""

from __future__ import annotations

from alembic import context

# Each room's tables join the metadata.
import bessemer.access.tables
import bessemer.app.tables
import bessemer.ledger.tables  # noqa: F401
from bessemer.core.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
