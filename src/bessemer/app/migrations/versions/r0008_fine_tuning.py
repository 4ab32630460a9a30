"""Fine-tuning jobs and their checkpoints."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "fine_tuning_jobs",
        *_owned(),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("training_file", sa.String(64), nullable=False),
        sa.Column("validation_file", sa.String(64)),
        sa.Column("metadata", sa.Text()),
        sa.Column("fine_tuned_model", sa.String(200), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("wanted", sa.String(8), nullable=False),
        sa.Column("run_id", sa.String(64)),
        sa.Column("result_file", sa.String(64)),
        sa.Column("trained_tokens", sa.BigInteger()),
        sa.Column("error", sa.Text()),
        sa.Column("finished_ms", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_fine_tuning_jobs"),
    )
    op.create_index("ix_fine_tuning_jobs_project_id", "fine_tuning_jobs", ["project_id"])
    op.create_index("ix_fine_tuning_jobs_state", "fine_tuning_jobs", ["state"])
    op.create_table(
        "fine_tuning_checkpoints",
        *_owned(),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("metrics", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_fine_tuning_checkpoints"),
    )
    op.create_index(
        "ix_fine_tuning_checkpoints_job_id_step",
        "fine_tuning_checkpoints",
        ["job_id", "step"],
        unique=True,
    )


def downgrade() -> None:
    op.drop_table("fine_tuning_checkpoints")
    op.drop_table("fine_tuning_jobs")


def _owned() -> list[sa.Column[Any]]:
    return [
        *(
            sa.Column(part, sa.String(64), nullable=False)
            for part in ("id", "org_id", "project_id", "owner_id")
        ),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
    ]
