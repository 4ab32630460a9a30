"""Evals, their runs, and what became of each item."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "evals",
        *_owned(),
        sa.Column("name", sa.String(500), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        *_texts("config", "criteria", "metadata"),
        sa.PrimaryKeyConstraint("id", name="pk_evals"),
    )
    op.create_index("ix_evals_project_id_updated_ms", "evals", ["project_id", "updated_ms"])
    op.create_table(
        "eval_runs",
        *_owned(),
        sa.Column("eval_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(500), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        *_texts("principal", "data_source", "plan", "metadata"),
        sa.Column("total", sa.Integer(), nullable=False),
        *_texts("tally"),
        sa.Column("error", sa.Text()),
        sa.Column("ended_ms", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_eval_runs"),
    )
    op.create_index("ix_eval_runs_eval_id_state", "eval_runs", ["eval_id", "state"])
    op.create_index("ix_eval_runs_state", "eval_runs", ["state"])
    op.create_table(
        "eval_outputs",
        *_owned(),
        sa.Column("eval_id", sa.String(64), nullable=False),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("item_sha256", sa.String(64), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        *_texts("verdicts", "output"),
        sa.PrimaryKeyConstraint("id", name="pk_eval_outputs"),
    )
    op.create_index(
        "ix_eval_outputs_run_id_number", "eval_outputs", ["run_id", "number"], unique=True
    )
    op.create_index("ix_eval_outputs_run_id_state", "eval_outputs", ["run_id", "state"])


def downgrade() -> None:
    for table in ("eval_outputs", "eval_runs", "evals"):
        op.drop_table(table)


def _owned() -> list[sa.Column[Any]]:
    texts: list[sa.Column[Any]] = [
        sa.Column(part, sa.String(64), nullable=False)
        for part in ("id", "org_id", "project_id", "owner_id")
    ]
    return [*texts, sa.Column("created_ms", sa.BigInteger(), nullable=False)]


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text(), nullable=False) for name in names]
