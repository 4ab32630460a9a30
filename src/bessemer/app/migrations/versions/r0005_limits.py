"""Rate limits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "rate_limits",
        *(
            sa.Column(part, sa.String(64), nullable=False)
            for part in ("id", "org_id", "project_id", "owner_id")
        ),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("account", sa.String(80), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("requests_per_minute", sa.BigInteger()),
        sa.Column("tokens_per_minute", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_rate_limits"),
    )
    op.create_index("ix_rate_limits_account_model", "rate_limits", ["account", "model"])


def downgrade() -> None:
    op.drop_table("rate_limits")
