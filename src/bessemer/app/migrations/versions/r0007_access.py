"""People, roles, service accounts, invites, what models a project may use, and the audit trail."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("organizations", _number("version", server_default="0"))
    op.add_column("projects", sa.Column("archived_ms", sa.BigInteger()))
    op.add_column(
        "people",
        sa.Column("email", sa.String(320), nullable=False, server_default=sa.text("''")),
    )
    op.create_index("ix_people_org_id_email", "people", ["org_id", "email"], unique=True)
    op.add_column(
        "api_keys", sa.Column("kind", sa.String(16), nullable=False, server_default="project")
    )
    for name in ("expires_ms", "used_ms"):
        op.add_column("api_keys", sa.Column(name, sa.BigInteger()))
    _create_owned("service_accounts", _text("name", 200))
    op.create_index("ix_service_accounts_project_id", "service_accounts", ["project_id"])
    _create_owned("grants", _text("holder_id", 64), _text("role", 64))
    _create_index("grants", "holder_id", "project_id", "role", unique=True)
    _create_index("grants", "project_id")
    _create_owned(
        "custom_roles",
        _text("name", 200),
        sa.Column("description", sa.Text()),
        sa.Column("scopes", sa.Text(), nullable=False),
        _number("updated_ms"),
    )
    _create_index("custom_roles", "project_id", "name", unique=True)
    _create_owned("groups", _text("name", 255))
    _create_owned("group_members", _text("group_id", 64), _text("person_id", 64))
    _create_index("group_members", "group_id", "person_id", unique=True)
    _create_owned(
        "invites",
        _text("email", 320),
        _text("role", 16),
        sa.Column("projects", sa.Text(), nullable=False),
        _number("expires_ms"),
        sa.Column("accepted_ms", sa.BigInteger()),
    )
    _create_owned(
        "model_permissions", _text("mode", 16), sa.Column("models", sa.Text(), nullable=False)
    )
    _create_index("model_permissions", "project_id", unique=True)
    _create_owned(
        "audit",
        sa.Column("key_id", sa.String(64)),
        sa.Column("email", sa.String(320)),
        _text("action", 64),
        _text("target", 200),
        sa.Column("before", sa.Text()),
        sa.Column("after", sa.Text()),
    )
    _create_index("audit", "org_id", "action")
    _create_index("audit", "target")
    for statement in _APPEND_ONLY[op.get_bind().dialect.name]:
        op.execute(statement)
    _make_everybody_an_owner()


def downgrade() -> None:
    for name in _NEW_TABLES:
        op.drop_table(name)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_append_only")
    for name in ("used_ms", "expires_ms", "kind"):
        op.drop_column("api_keys", name)
    op.drop_index("ix_people_org_id_email", "people")
    op.drop_column("people", "email")
    op.drop_column("projects", "archived_ms")
    op.drop_column("organizations", "version")


_NEW_TABLES = (
    "audit", "model_permissions", "invites", "group_members", "groups",
    "custom_roles", "grants", "service_accounts",
)  # fmt: skip

_APPEND_ONLY = {
    "sqlite": [
        f"CREATE TRIGGER audit_no_{verb} BEFORE {verb} ON audit"
        " BEGIN SELECT RAISE(ABORT, 'the audit trail is append only'); END"
        for verb in ("update", "delete")
    ],
    "postgresql": [
        "CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'the audit trail is append only'; END $$",
        "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit"
        " FOR EACH ROW EXECUTE FUNCTION audit_append_only()",
        "CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit"
        " FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only()",
    ],
}


def _make_everybody_an_owner() -> None:
    """Who was here before there were roles could do everything: the one seeded owner."""
    op.execute("UPDATE people SET email = 'owner@localhost' WHERE id = 'person_default'")
    op.execute("UPDATE people SET email = id WHERE email = ''")
    op.execute(
        "INSERT INTO grants (id, org_id, project_id, owner_id, created_ms, holder_id, role)"
        " SELECT 'grant_' || id, org_id, '', id, created_ms, id, 'owner' FROM people"
    )


def _create_owned(name: str, *columns: sa.Column[str] | sa.Column[int]) -> None:
    ids = [
        sa.Column(part, sa.String(64), nullable=False)
        for part in ("id", "org_id", "project_id", "owner_id")
    ]
    key = sa.PrimaryKeyConstraint("id", name=f"pk_{name}")
    op.create_table(name, *ids, _number("created_ms"), *columns, key)


def _create_index(table: str, *columns: str, unique: bool = False) -> None:
    op.create_index(f"ix_{table}_{'_'.join(columns)}", table, list(columns), unique=unique)


def _text(name: str, length: int) -> sa.Column[str]:
    return sa.Column(name, sa.String(length), nullable=False)


def _number(name: str, server_default: str | None = None) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False, server_default=server_default)
