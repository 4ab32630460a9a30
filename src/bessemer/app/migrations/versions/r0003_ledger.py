"""The ledger: reservations, usage, balances, budgets, rate cards."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    _create_owned(
        "reservations",
        *_work(),
        sa.Column("month", sa.String(7), nullable=False),
        _number("reserved_micro"),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("closed_ms", sa.BigInteger()),
        sa.Column("closed_by", sa.String(64)),
        sa.Column("reason", sa.Text()),
    )
    op.create_index("ix_reservations_state_created_ms", "reservations", ["state", "created_ms"])
    counts = ("prompt", "cached", "completion", "reasoning", "device_ms")
    _create_owned("usage", *_work(), *map(_number, (*counts, "cost_micro", "settled_ms")))
    for scope in ("project_id", "org_id"):
        op.create_index(f"ix_usage_{scope}_created_ms", "usage", [scope, "created_ms"])
    op.create_table(
        "balances",
        sa.Column("account", sa.String(80), nullable=False),
        sa.Column("month", sa.String(7), nullable=False),
        _number("settled_micro"),
        _number("held_micro"),
        sa.PrimaryKeyConstraint("account", "month", name="pk_balances"),
    )
    _create_owned(
        "budgets",
        sa.Column("account", sa.String(80), nullable=False),
        sa.Column("period", sa.String(8), nullable=False),
        sa.Column("limit_micro", sa.BigInteger()),
    )
    op.create_index("ix_budgets_account_period", "budgets", ["account", "period"])
    _create_owned(
        "rate_cards",
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
    )
    op.create_index("ix_rate_cards_digest", "rate_cards", ["digest"])


def downgrade() -> None:
    for name in ("rate_cards", "budgets", "balances", "usage", "reservations"):
        op.drop_table(name)


def _work() -> list[sa.Column[str]]:
    return [
        sa.Column("key_id", sa.String(64)),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("card", sa.String(80), nullable=False),
    ]


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _create_owned(name: str, *columns: sa.Column[str] | sa.Column[int]) -> None:
    ids = [
        sa.Column(part, sa.String(64), nullable=False)
        for part in ("id", "org_id", "project_id", "owner_id")
    ]
    key = sa.PrimaryKeyConstraint("id", name=f"pk_{name}")
    op.create_table(name, *ids, _number("created_ms"), *columns, key)
