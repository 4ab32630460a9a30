"""The rows of access: who there is, and the hashes of the keys they hold. No secret is a row."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, String, Table, Text

from bessemer.core.tables import metadata, owned

organizations = Table(
    "organizations",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)

projects = Table(
    "projects",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("org_id", String(64), nullable=False),
    Column("name", String(200), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)

people = Table(
    "people",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("org_id", String(64), nullable=False),
    Column("name", String(200), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)

# `scopes` is a space-separated list of words; a key is revoked, never deleted, so that the trail
# can still say whose call it was.
api_keys = owned(
    "api_keys",
    Column("name", String(200), nullable=False),
    Column("secret_hash", String(64), nullable=False),
    Column("hint", String(32), nullable=False),
    Column("scopes", Text, nullable=False),
    Column("revoked_ms", BigInteger),
    Index(None, "secret_hash", unique=True),
)
