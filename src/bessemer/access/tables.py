"""The rows of access: who there is, what they may do, the hashes of their keys, and the trail.

No secret is a row. What belongs to the organization and to no one project has the project_id
`ORGANIZATION`.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Index, String, Table, Text, text

from bessemer.core.tables import metadata, owned

ORGANIZATION: Final = ""

# `version` grows with every change that a server has to learn of (`app.keys.KeyRing`).
organizations = Table(
    "organizations",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False, server_default="0"),
)

projects = Table(
    "projects",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("org_id", String(64), nullable=False),
    Column("name", String(200), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("archived_ms", BigInteger),
)

people = Table(
    "people",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("org_id", String(64), nullable=False),
    Column("name", String(200), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("email", String(320), nullable=False, server_default=text("''")),
    Index(None, "org_id", "email", unique=True),
)

service_accounts = owned(
    "service_accounts",
    Column("name", String(200), nullable=False),
    Index(None, "project_id"),
)

# `scopes` is a space-separated list of words; a key is revoked, never deleted, so that the trail
# can still say whose call it was. `kind` is project, admin or invite; `owner_id` a person, a
# service account, or the invite.
api_keys = owned(
    "api_keys",
    Column("name", String(200), nullable=False),
    Column("secret_hash", String(64), nullable=False),
    Column("hint", String(32), nullable=False),
    Column("scopes", Text, nullable=False),
    Column("revoked_ms", BigInteger),
    Column("kind", String(16), nullable=False, server_default="project"),
    Column("expires_ms", BigInteger),
    Column("used_ms", BigInteger),
    Index(None, "secret_hash", unique=True),
)

# A role that somebody has in a project, or in the organization. `holder_id` is a person, a group or
# a service account; `role` is owner, member, reader, or the id of a custom role.
grants = owned(
    "grants",
    Column("holder_id", String(64), nullable=False),
    Column("role", String(64), nullable=False),
    Index(None, "holder_id", "project_id", "role", unique=True),
    Index(None, "project_id"),
)

custom_roles = owned(
    "custom_roles",
    Column("name", String(200), nullable=False),
    Column("description", Text),
    Column("scopes", Text, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Index(None, "project_id", "name", unique=True),
)

groups = owned(
    "groups",
    Column("name", String(255), nullable=False),
)

group_members = owned(
    "group_members",
    Column("group_id", String(64), nullable=False),
    Column("person_id", String(64), nullable=False),
    Index(None, "group_id", "person_id", unique=True),
)

# `projects` is JSON: `[{"id", "role"}]`.
invites = owned(
    "invites",
    Column("email", String(320), nullable=False),
    Column("role", String(16), nullable=False),
    Column("projects", Text, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("accepted_ms", BigInteger),
)

# `mode` is allow_list or deny_list, `models` JSON: names as `/v1/models` lists them.
model_permissions = owned(
    "model_permissions",
    Column("mode", String(16), nullable=False),
    Column("models", Text, nullable=False),
    Index(None, "project_id", unique=True),
)

# Every change: who, what, to what, and what it was before and after (JSON). Rows are only added:
# triggers of the database refuse to change or delete one. `owner_id` is the actor; the e-mail is
# kept as it was, since people leave.
audit = owned(
    "audit",
    Column("key_id", String(64)),
    Column("email", String(320)),
    Column("action", String(64), nullable=False),
    Column("target", String(200), nullable=False),
    Column("before", Text),
    Column("after", Text),
    Index(None, "org_id", "action"),
    Index(None, "target"),
)
