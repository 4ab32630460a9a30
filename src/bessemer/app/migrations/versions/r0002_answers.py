"""Answers of a deterministic server, kept so that they can be computed again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "answers",
        *(sa.Column(name, sa.String(64), nullable=False) for name in _IDS),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_answers"),
    )
    op.create_index("ix_answers_project_id_request_id", "answers", ["project_id", "request_id"])
    op.create_index("ix_answers_created_ms", "answers", ["created_ms"])


def downgrade() -> None:
    op.drop_table("answers")


_IDS = ("id", "org_id", "project_id", "owner_id")
