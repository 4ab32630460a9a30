"""Responses, conversations and their items, and stored chat completions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    _create(
        "chat_completions",
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("messages", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
    )
    _index("chat_completions", "project_id", "model")
    _create(
        "labels",
        sa.Column("holder_id", sa.String(64), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("value", sa.String(512), nullable=False),
    )
    _index("labels", "project_id", "key", "value")
    _index("labels", "holder_id")
    _create(
        "responses",
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("background", sa.Integer(), nullable=False),
        sa.Column("previous_id", sa.String(64)),
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("pieces", sa.LargeBinary()),
    )
    _index("responses", "project_id", "model")
    _index("responses", "status")
    _create("conversations", sa.Column("labels", sa.Text(), nullable=False))
    _create(
        "items",
        sa.Column("holder_id", sa.String(64), nullable=False),
        sa.Column("item_id", sa.String(64), nullable=False),
        sa.Column("side", sa.String(8), nullable=False),
        sa.Column("item", sa.Text(), nullable=False),
    )
    _index("items", "holder_id", "item_id", unique=True)
    _index("items", "project_id", "item_id")


def downgrade() -> None:
    for table in ("items", "conversations", "responses", "labels", "chat_completions"):
        op.drop_table(table)


def _create(name: str, *columns: sa.Column[object]) -> None:
    op.create_table(
        name,
        *(
            sa.Column(part, sa.String(64), nullable=False)
            for part in ("id", "org_id", "project_id", "owner_id")
        ),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        *columns,
        sa.PrimaryKeyConstraint("id", name=f"pk_{name}"),
    )


def _index(table: str, *columns: str, unique: bool = False) -> None:
    op.create_index(f"ix_{table}_{'_'.join(columns)}", table, list(columns), unique=unique)
