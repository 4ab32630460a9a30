"""Uploads, batches and feedback."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    _create(
        "uploads",
        sa.Column("filename", sa.String(500), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("mime_type", sa.String(200), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.Column("file_expires_s", sa.Integer()),
        sa.Column("file_id", sa.String(64)),
    )
    op.create_index("ix_uploads_status", "uploads", ["status"])
    _create(
        "upload_parts",
        sa.Column("upload_id", sa.String(64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
    )
    op.create_index("ix_upload_parts_upload_id", "upload_parts", ["upload_id"])
    _create(
        "batches",
        sa.Column("key_id", sa.String(64)),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("input_file_id", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("model", sa.String(500)),
        sa.Column("errors", sa.Text()),
        sa.Column("metadata", sa.Text()),
        sa.Column("output_expires_s", sa.Integer()),
        sa.Column("output_file_id", sa.String(64)),
        sa.Column("error_file_id", sa.String(64)),
        *(
            sa.Column(name, sa.Integer(), nullable=False, server_default="0")
            for name in ("total", "completed", "failed")
        ),
        *(
            sa.Column(f"{name}_tokens", sa.BigInteger(), nullable=False, server_default="0")
            for name in ("prompt", "cached", "completion")
        ),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        *(sa.Column(f"{name}_ms", sa.BigInteger()) for name in _MOMENTS),
    )
    op.create_index("ix_batches_project_id", "batches", ["project_id"])
    op.create_index("ix_batches_status", "batches", ["status"])
    _create(
        "feedback",
        sa.Column("completion_id", sa.String(64), nullable=False),
        sa.Column("rating", sa.String(8), nullable=False),
        sa.Column("comment", sa.Text()),
        sa.Column("correction", sa.Text()),
        sa.Column("stored", sa.Integer(), nullable=False),
    )
    op.create_index(
        "ix_feedback_project_id_completion_id", "feedback", ["project_id", "completion_id"]
    )


def downgrade() -> None:
    for name in ("feedback", "batches", "upload_parts", "uploads"):
        op.drop_table(name)


_MOMENTS = (
    "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled",
)  # fmt: skip


def _create(name: str, *columns: sa.Column[Any]) -> None:
    ids = ("id", "org_id", "project_id", "owner_id")
    op.create_table(
        name,
        *(sa.Column(part, sa.String(64), nullable=False) for part in ids),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        *columns,
        sa.PrimaryKeyConstraint("id", name=f"pk_{name}"),
    )
