"""What Alembic runs for every migration. The connection, with its transaction, comes from `app`."""

from __future__ import annotations

from alembic import context

import bessemer.access.tables  # noqa: F401 - its tables join the metadata
from bessemer.core.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
