"""The first schema: organizations, projects, people, keys, names of artifacts, and runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    for name in ("organizations", "projects", "people"):
        belongs = [] if name == "organizations" else [_id("org_id")]
        op.create_table(
            name,
            _id("id"),
            *belongs,
            sa.Column("name", sa.String(200), nullable=False),
            sa.Column("created_ms", sa.BigInteger(), nullable=False),
            sa.PrimaryKeyConstraint("id", name=f"pk_{name}"),
        )
    _create_owned(
        "api_keys",
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("secret_hash", sa.String(64), nullable=False),
        sa.Column("hint", sa.String(32), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("revoked_ms", sa.BigInteger()),
    )
    op.create_index("ix_api_keys_secret_hash", "api_keys", ["secret_hash"], unique=True)
    _create_owned(
        "names",
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("run_id", sa.String(64)),
    )
    op.create_index("ix_names_project_id_kind_name", "names", ["project_id", "kind", "name"])
    _create_owned(
        "runs",
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("launcher", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("harvested", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("note", sa.Text()),
    )
    op.create_index("ix_runs_project_id_state", "runs", ["project_id", "state"])


def downgrade() -> None:
    for name in ("runs", "names", "api_keys", "people", "projects", "organizations"):
        op.drop_table(name)


def _create_owned(name: str, *columns: sa.Column[object]) -> None:
    owner_columns = [_id("id"), _id("org_id"), _id("project_id"), _id("owner_id")]
    created = sa.Column("created_ms", sa.BigInteger(), nullable=False)
    key = sa.PrimaryKeyConstraint("id", name=f"pk_{name}")
    op.create_table(name, *owner_columns, created, *columns, key)


def _id(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.String(64), nullable=False)
