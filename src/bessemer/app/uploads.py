"""Uploads: a file that comes in parts, in any order and many at a time.

Each part lies in the home under its id until somebody says which of them are the file, in which
order; they are then copied into one, never through memory as a whole. What is not completed within
an hour expires.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from bessemer.app import audit, files
from bessemer.app.files import File, Purpose, Writer
from bessemer.app.platform import Platform
from bessemer.app.tables import upload_parts, uploads
from bessemer.core.database import now_ms
from bessemer.core.errors import Conflict, InvalidInput, NotFound, PayloadTooLarge
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal
from bessemer.core.space import refuse_if_full

# As in OpenAI's API.
MAX_UPLOAD_BYTES = 8 * 2**30
MAX_PART_BYTES = 64 * 2**20
LIFE_S = 3600
MAX_MIME_TYPE = 200
_CHUNK_BYTES = 1 << 20
_owner_of_part = uploads.c.id == upload_parts.c.upload_id
_YOUNG_S = 3600.0

Status = Literal["pending", "completed", "cancelled", "expired"]


class Upload(NamedTuple):
    """A row of `uploads`. `bytes` is what was announced; `file` is there once it is completed."""

    id: str
    filename: str
    purpose: Purpose
    bytes: int
    status: Status
    created_ms: int
    expires_ms: int
    file_expires_s: int | None
    file: File | None = None


class Part(NamedTuple):
    """A piece of an upload; `bytes` is its size."""

    id: str
    upload_id: str
    bytes: int
    created_ms: int


def create(
    platform: Platform,
    principal: Principal,
    filename: str,
    purpose: Purpose,
    size_bytes: int,
    mime_type: str,
    *,
    expires_after_s: int | None = None,
) -> Upload:
    """Begin one; what has expired meanwhile is cleared away.

    Args:
        expires_after_s: of the file that it becomes.

    Raises:
        InvalidInput: no name, an unknown purpose, or a size that no file has.
        PayloadTooLarge: more than 8 GiB.
    """
    principal.require(files.WRITE_SCOPE)
    files.check_name(filename, purpose, "filename")
    if size_bytes < 0 or len(mime_type) > MAX_MIME_TYPE:
        at_fault = "bytes" if size_bytes < 0 else "mime_type"
        raise InvalidInput(
            f"bytes is {size_bytes:,} and mime_type has {len(mime_type)} characters; a file has 0"
            f" bytes or more, and its type at most {MAX_MIME_TYPE} characters",
            param=at_fault,
        )
    if size_bytes > MAX_UPLOAD_BYTES:
        raise PayloadTooLarge(
            f"{size_bytes:,} bytes are announced; an upload has at most {MAX_UPLOAD_BYTES:,}",
            next_step="split the file, or import a dataset on the machine: bessemer data import",
            param="bytes",
        )
    sweep(platform)
    created_ms, upload_id = now_ms(), new_id("upload")
    row = {
        "id": upload_id,
        "org_id": principal.org_id,
        "project_id": principal.project_id,
        "owner_id": principal.owner_id,
        "created_ms": created_ms,
        "filename": filename,
        "purpose": purpose,
        "bytes": size_bytes,
        "mime_type": mime_type,
        "status": "pending",
        "expires_ms": created_ms + LIFE_S * 1000,
        "file_expires_s": expires_after_s,
    }
    with platform.db.write() as connection:
        connection.execute(uploads.insert().values(row))
        facts = {"filename": filename, "purpose": purpose, "bytes": size_bytes}
        audit.record(connection, principal, "upload.created", upload_id, after=facts)
        kept = connection.execute(sa.select(uploads).where(uploads.c.id == upload_id)).one()
    return _upload(kept)


def pending(platform: Platform, principal: Principal, upload_id: str) -> Upload:
    """An upload that still takes parts.

    Raises:
        NotFound: the project has none of this id.
        Conflict: it is completed, cancelled or expired.
    """
    principal.require(files.WRITE_SCOPE)
    with platform.db.read() as connection:
        return _pending(connection, principal, upload_id)


def add_part(platform: Platform, principal: Principal, upload_id: str, written: Writer) -> Part:
    """Keep what was written as a part. It is on disk when this returns.

    Raises:
        PayloadTooLarge: all parts together have more than 8 GiB.
        NotFound, Conflict: as `pending`.
    """
    principal.require(files.WRITE_SCOPE)
    part = Part(new_id("part"), upload_id, written.bytes, now_ms())
    row = {
        "id": part.id,
        "org_id": principal.org_id,
        "project_id": principal.project_id,
        "owner_id": principal.owner_id,
        "created_ms": part.created_ms,
        "upload_id": upload_id,
        "bytes": part.bytes,
    }
    written.sync()
    path = _path(platform, part.id)
    os.link(written.path, path)
    files.sync_folder(path.parent)
    try:
        with platform.db.write() as connection:
            _pending(connection, principal, upload_id)
            _check_sum(connection, part)
            connection.execute(upload_parts.insert().values(row))
    except BaseException:
        path.unlink()
        raise
    return part


def complete(
    platform: Platform,
    principal: Principal,
    upload_id: str,
    part_ids: Sequence[str],
    md5: str | None = None,
) -> Upload:
    """Make the file of these parts, in this order; parts that are not named are forgotten.

    Raises:
        InvalidInput: a part is not there or named twice, the sizes do not add up to what was
            announced, or the bytes have another MD5.
        NotFound, Conflict: as `pending`; of two at a time the slower one gets Conflict.
        OutOfSpace: the disk has no room for the whole beside its parts.
    """
    upload = pending(platform, principal, upload_id)
    paths = _ordered(platform, upload, part_ids)
    refuse_if_full(
        platform.home.files, upload.bytes, "the file", "free some space, then complete it again"
    )

    def close(connection: sa.Connection, file_id: str) -> None:
        closed = uploads.update().where(uploads.c.id == upload_id, uploads.c.status == "pending")
        if connection.execute(closed.values(status="completed", file_id=file_id)).rowcount != 1:
            raise _over(upload_id, "completed or cancelled by somebody else")

    with files.writer(platform, MAX_UPLOAD_BYTES) as written:
        try:
            found = _join(paths, written)
        except FileNotFoundError:  # somebody else ended it meanwhile; this says how
            pending(platform, principal, upload_id)
            raise
        if md5 is not None and found != md5.strip().lower():
            raise InvalidInput(
                f"the parts in this order have the MD5 {found}, not {md5[:100]}", param="md5"
            )
        file = files.add(
            platform, principal, upload.filename, upload.purpose, written,
            expires_after_s=upload.file_expires_s, also=close,
        )  # fmt: skip
    _forget_parts(platform, [upload_id])
    return upload._replace(status="completed", file=file)


def cancel(platform: Platform, principal: Principal, upload_id: str) -> Upload:
    """End one and forget its parts. Raises as `pending`."""
    principal.require(files.WRITE_SCOPE)
    with platform.db.write() as connection:
        upload = _pending(connection, principal, upload_id)
        this = uploads.c.id == upload_id
        connection.execute(uploads.update().where(this).values(status="cancelled"))
        facts = {"filename": upload.filename, "purpose": upload.purpose}
        audit.record(connection, principal, "upload.cancelled", upload_id, before=facts)
    _forget_parts(platform, [upload_id])
    return upload._replace(status="cancelled")


def sweep(platform: Platform) -> None:
    """Forget the parts of uploads that are over or expired, and what a killed process left."""
    late = (uploads.c.status == "pending") & (uploads.c.expires_ms <= now_ms())
    # Also of those whose end a process was killed behind: their parts are a second whole file.
    over = sa.select(upload_parts.c.upload_id).distinct().join(uploads, _owner_of_part)
    with platform.db.write() as connection:
        connection.execute(uploads.update().where(late).values(status="expired"))
        ended = list(connection.execute(over.where(uploads.c.status != "pending")).scalars())
    _forget_parts(platform, ended)
    young_s = time.time() - _YOUNG_S
    old = [path for path in platform.home.uploads.iterdir() if path.stat().st_mtime < young_s]
    if old:
        with platform.db.read() as connection:
            known = set(connection.execute(sa.select(upload_parts.c.id)).scalars())
        for path in old:
            if path.name not in known:
                path.unlink(missing_ok=True)


def _pending(connection: sa.Connection, principal: Principal, upload_id: str) -> Upload:
    mine = (uploads.c.project_id == principal.project_id) & (uploads.c.id == upload_id)
    row = connection.execute(sa.select(uploads).where(mine)).first()
    if row is None:
        raise NotFound(
            f"No such Upload object: {upload_id[:100]}",
            param="upload_id",
            next_step="POST /v1/uploads begins one",
        )
    upload = _upload(row)
    if upload.status != "pending":
        raise _over(upload_id, upload.status)
    return upload


def _over(upload_id: str, how: str) -> Conflict:
    return Conflict(
        f"{upload_id} is {how}; it takes no more changes",
        param="upload_id",
        next_step="POST /v1/uploads begins another",
    )


def _check_sum(connection: sa.Connection, part: Part) -> None:
    total = sa.select(sa.func.coalesce(sa.func.sum(upload_parts.c.bytes), 0))
    held = connection.execute(total.where(upload_parts.c.upload_id == part.upload_id)).scalar_one()
    if held + part.bytes > MAX_UPLOAD_BYTES:
        raise PayloadTooLarge(
            f"the parts so far have {held:,} bytes and this one {part.bytes:,}; an upload has at"
            f" most {MAX_UPLOAD_BYTES:,}",
            param="data",
        )


def _ordered(platform: Platform, upload: Upload, part_ids: Sequence[str]) -> list[Path]:
    """Where the parts are, in the order that was asked for."""
    query = sa.select(upload_parts.c.id, upload_parts.c.bytes)
    with platform.db.read() as connection:
        rows = connection.execute(query.where(upload_parts.c.upload_id == upload.id))
        sizes: dict[str, int] = {row.id: row.bytes for row in rows}
    for part_id in part_ids:
        if part_id not in sizes:
            raise InvalidInput(f"{upload.id} has no part {part_id[:100]!r}", param="part_ids")
    if len(set(part_ids)) != len(part_ids):
        raise InvalidInput("'part_ids' names a part twice", param="part_ids")
    total = sum(sizes[part_id] for part_id in part_ids)
    if total != upload.bytes:
        raise InvalidInput(
            f"these {len(part_ids)} parts have {total:,} bytes; {upload.bytes:,} were announced",
            param="part_ids",
        )
    return [_path(platform, part_id) for part_id in part_ids]


def _join(paths: Sequence[Path], written: Writer) -> str:
    """Copy the parts behind each other; their MD5 in hex."""
    digest = hashlib.md5(usedforsecurity=False)
    for path in paths:
        with path.open("rb") as part:
            while chunk := part.read(_CHUNK_BYTES):
                written.write(chunk)
                digest.update(chunk)
    return digest.hexdigest()


def _forget_parts(platform: Platform, upload_ids: Sequence[str]) -> None:
    if not upload_ids:
        return
    theirs = upload_parts.c.upload_id.in_(upload_ids)
    with platform.db.write() as connection:
        parts = list(connection.execute(sa.select(upload_parts.c.id).where(theirs)).scalars())
        connection.execute(upload_parts.delete().where(theirs))
    for part_id in parts:
        _path(platform, part_id).unlink(missing_ok=True)


def _path(platform: Platform, part_id: str) -> Path:
    return platform.home.uploads / part_id


def _upload(row: sa.Row[Any]) -> Upload:
    late = row.status == "pending" and row.expires_ms <= now_ms()
    return Upload(
        row.id,
        row.filename,
        row.purpose,
        row.bytes,
        "expired" if late else row.status,
        row.created_ms,
        row.expires_ms,
        row.file_expires_s,
    )
