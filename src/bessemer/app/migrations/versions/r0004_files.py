"""Files of the API."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "files",
        *(
            sa.Column(part, sa.String(64), nullable=False)
            for part in ("id", "org_id", "project_id", "owner_id")
        ),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("filename", sa.String(500), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("expires_ms", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_files"),
    )
    op.create_index("ix_files_project_id_purpose", "files", ["project_id", "purpose"])


def downgrade() -> None:
    op.drop_table("files")
