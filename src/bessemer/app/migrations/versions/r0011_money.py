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
    _create_owned(
        "spend_alerts",
        sa.Column("account", sa.String(80), nullable=False),
        sa.Column("threshold_micro", sa.BigInteger(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
    )
    op.create_index("ix_spend_alerts_account", "spend_alerts", ["account"])
    _create_owned(
        "spend_firings",
        sa.Column("alert_id", sa.String(64), nullable=False),
        sa.Column("account", sa.String(80), nullable=False),
        sa.Column("month", sa.String(7), nullable=False),
        sa.Column("threshold_micro", sa.BigInteger(), nullable=False),
        sa.Column("settled_micro", sa.BigInteger(), nullable=False),
    )
    op.create_index(
        "ix_spend_firings_alert_id_month_threshold_micro",
        "spend_firings",
        ["alert_id", "month", "threshold_micro"],
        unique=True,
    )


def downgrade() -> None:
    for table in ("spend_firings", "spend_alerts", "usage_hours"):
        op.drop_table(table)
    op.drop_column("usage", "training")


def _create_owned(name: str, *columns: sa.Column[str] | sa.Column[int]) -> None:
    ids = [
        sa.Column(part, sa.String(64), nullable=False)
        for part in ("id", "org_id", "project_id", "owner_id")
    ]
    created = sa.Column("created_ms", sa.BigInteger(), nullable=False)
    key = sa.PrimaryKeyConstraint("id", name=f"pk_{name}")
    op.create_table(name, *ids, created, *columns, key)


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
