"""Tokens that a batch's model wrote and did not show."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    reasoning = sa.Column("reasoning_tokens", sa.BigInteger(), nullable=False, server_default="0")
    op.add_column("batches", reasoning)


def downgrade() -> None:
    op.drop_column("batches", "reasoning_tokens")
