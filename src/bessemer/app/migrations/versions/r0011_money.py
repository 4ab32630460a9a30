"""Sums of usage by the hour, tokens trained on, and spend alerts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

_KEY = ("org_id", "project_id", "owner_id", "key_id")
_SUMS = ("prompt", "cached", "completion", "reasoning", "device_ms", "training", "cost_micro")


def upgrade() -> None:
    training = sa.Column("training", sa.BigInteger(), nullable=False, server_default="0")
    op.add_column("usage", training)
    op.create_table(
        "usage_hours",
        *(sa.Column(name, sa.String(64), nullable=False) for name in _KEY),
        sa.Column("hour_ms", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("card", sa.String(80), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("requests", *_SUMS)),
        sa.PrimaryKeyConstraint(
            "org_id", "hour_ms", "project_id", "owner_id", "key_id", "model", "kind", "card",
            name="pk_usage_hours",
        ),
    )  # fmt: skip
    _add_up()


def downgrade() -> None:
    op.drop_table("usage_hours")
    op.drop_column("usage", "training")


def _add_up() -> None:
    """What was used before there were sums of it."""
    sums = ", ".join(f"SUM({name})" for name in _SUMS)
    op.execute(
        "INSERT INTO usage_hours (org_id, project_id, owner_id, key_id, hour_ms, model, kind, card,"
        f" requests, {', '.join(_SUMS)})"
        " SELECT org_id, project_id, owner_id, COALESCE(key_id, ''),"
        f" created_ms - created_ms % 3600000, model, kind, card, COUNT(*), {sums} FROM usage"
        " GROUP BY org_id, project_id, owner_id, COALESCE(key_id, ''),"
        " created_ms - created_ms % 3600000, model, kind, card"
    )
