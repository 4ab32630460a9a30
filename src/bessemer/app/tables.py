"""The rows of the API's own objects: what OpenAI's endpoints list, get and delete.

JSON is canonical text, times are Unix milliseconds, as everywhere (`core.tables`).
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, String

from bessemer.core.tables import owned

__all__ = ["files"]

# What was uploaded or written for somebody; the bytes are in the home, under the row's id.
files = owned(
    "files",
    Column("filename", String(500), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("expires_ms", BigInteger),
    Index(None, "project_id", "purpose"),
)
