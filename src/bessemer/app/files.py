"""Files of a project: what fine-tuning, evals and batches read, and what they write.

The bytes lie in the home under the file's id, complete and on disk before the row says so; what a
killed process left without a row is swept away when a server starts.

    with files.writer(platform) as written:
        written.write(b"...")
        file = files.add(platform, principal, "chats.jsonl", "fine-tune", written)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import sqlalchemy as sa

from bessemer.app import audit
from bessemer.app.paging import PageRequest, read_page
from bessemer.app.platform import Platform
from bessemer.app.tables import files
from bessemer.core.database import now_ms
from bessemer.core.errors import InvalidInput, NotFound, PayloadTooLarge
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal
from bessemer.core.space import out_of_space

READ_SCOPE, WRITE_SCOPE = "files:read", "files:write"

Purpose = Literal[
    "assistants", "batch", "fine-tune", "vision", "user_data", "evals",
    "assistants_output", "batch_output", "fine-tune-results",
]  # fmt: skip
"""What a file is for; the last three are written here and never uploaded."""

UPLOADED = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
MAX_FILE_BYTES = 512 * 1024 * 1024
MAX_NAME = 500
_UNFINISHED = "writing-"
_YOUNG_S = 3600.0


class File(NamedTuple):
    """A row of `files` and where its bytes are. `expires_ms` None is never."""

    id: str
    filename: str
    purpose: Purpose
    bytes: int
    sha256: str
    created_ms: int
    expires_ms: int | None
    owner_id: str
    path: Path


class Writer:
    """Bytes on their way into a file; count and SHA-256 grow with them."""

    def __init__(self, path: Path, handle: int, most_bytes: int) -> None:
        self.path = path
        self.bytes = 0
        self._handle, self._most_bytes = handle, most_bytes
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        """Raises PayloadTooLarge past the limit, OutOfSpace where the disk is full."""
        self.bytes += len(data)
        if self.bytes > self._most_bytes:
            raise PayloadTooLarge(
                f"the file has more than {self._most_bytes:,} bytes, which is the limit",
                next_step="split it, or import it on the machine: bessemer data import",
            )
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._handle, view) :]
        except OSError as fault:
            freed = "free some space, then upload it again"
            raise out_of_space(self.path.parent, self.bytes, "the file", freed) from fault
        self._hash.update(data)

    def sync(self) -> None:
        os.fsync(self._handle)


@contextlib.contextmanager
def writer(platform: Platform, most_bytes: int = MAX_FILE_BYTES) -> Iterator[Writer]:
    """A file to write and then to `add`; what was not added is gone after the block."""
    handle, name = tempfile.mkstemp(prefix=_UNFINISHED, dir=platform.home.files)
    try:
        yield Writer(Path(name), handle, most_bytes)
    finally:
        os.close(handle)
        Path(name).unlink(missing_ok=True)


def add(
    platform: Platform,
    principal: Principal,
    filename: str,
    purpose: Purpose,
    written: Writer,
    *,
    expires_after_s: int | None = None,
    also: Callable[[sa.Connection, str], None] | None = None,
) -> File:
    """Keep what was written as a file of the principal's project. It is on disk when this returns.

    Args:
        also: what else changes in the transaction that makes the file known, given the file's id;
            when it raises, there is no file.

    Raises:
        InvalidInput: no name, one that is too long, or an unknown purpose.
    """
    principal.require(WRITE_SCOPE)
    check_name(filename, purpose)
    created_ms = now_ms()
    file_id = new_id("file-")
    row = {
        "id": file_id,
        "org_id": principal.org_id,
        "project_id": principal.project_id,
        "owner_id": principal.owner_id,
        "created_ms": created_ms,
        "filename": filename,
        "purpose": purpose,
        "bytes": written.bytes,
        "sha256": written.sha256,
        "expires_ms": None if expires_after_s is None else created_ms + expires_after_s * 1000,
    }
    written.sync()
    path = _path(platform, file_id)
    # A second name, not a new one: the writer's own cleanup stays right.
    os.link(written.path, path)
    sync_folder(path.parent)
    facts = {"filename": filename, "purpose": purpose, "sha256": written.sha256}
    try:
        with platform.db.write() as connection:
            connection.execute(files.insert().values(row))
            audit.record(connection, principal, "file.created", file_id, after=facts)
            if also is not None:
                also(connection, file_id)
            kept = connection.execute(sa.select(files).where(files.c.id == file_id)).one()
    except BaseException:
        path.unlink()
        raise
    return _file(platform, kept)


def check_name(filename: str, purpose: str, param: str = "file") -> None:
    """Raises InvalidInput: no name, one that is too long, or an unknown purpose.

    Args:
        param: the field that has the name.
    """
    if not filename or len(filename) > MAX_NAME:
        raise InvalidInput(
            f"a file's name has 1 to {MAX_NAME} characters, not {len(filename)}", param=param
        )
    if purpose not in get_args(Purpose):
        raise InvalidInput(
            f"there is no purpose {purpose[:100]!r}",
            next_step=f"choose from: {', '.join(UPLOADED)}",
            param="purpose",
        )


def add_bytes(
    platform: Platform, principal: Principal, filename: str, purpose: Purpose, data: bytes
) -> File:
    """`add` for what is in memory."""
    with writer(platform) as written:
        written.write(data)
        return add(platform, principal, filename, purpose, written)


def get(platform: Platform, principal: Principal, file_id: str, *, scope: str = READ_SCOPE) -> File:
    """One file of the principal's project.

    Raises:
        NotFound: there is none, or it expired.
    """
    principal.require(scope)
    with platform.db.read() as connection:
        mine = _living(principal) & (files.c.id == file_id)
        row = connection.execute(sa.select(files).where(mine)).first()
    if row is None:
        raise no_such_file(file_id)
    return _file(platform, row)


def no_such_file(file_id: str) -> NotFound:
    return NotFound(
        f"No such File object: {file_id[:100]}",
        param="file_id",
        next_step="GET /v1/files, or bessemer files list",
    )


def list_files(
    platform: Platform, principal: Principal, asked: PageRequest, purpose: str | None = None
) -> tuple[list[File], bool]:
    """A page of the project's files, and whether there are more."""
    principal.require(READ_SCOPE)
    where = _living(principal)
    if purpose is not None:
        where &= files.c.purpose == purpose
    with platform.db.read() as connection:
        rows, has_more = read_page(connection, files, where, asked)
    return [_file(platform, row) for row in rows], has_more


def delete(platform: Platform, principal: Principal, file_id: str) -> None:
    """Forget a file and its bytes. What was made from it stays.

    Raises:
        NotFound: there is none; of two who delete it at the same time, for the later.
    """
    file = get(platform, principal, file_id, scope=WRITE_SCOPE)
    with platform.db.write() as connection:
        if not connection.execute(files.delete().where(files.c.id == file.id)).rowcount:
            raise no_such_file(file_id)
        facts = {"filename": file.filename, "purpose": file.purpose, "sha256": file.sha256}
        audit.record(connection, principal, "file.deleted", file.id, before=facts)
    file.path.unlink(missing_ok=True)


def sweep(platform: Platform) -> int:
    """Remove what expired and what a killed process left behind; the number of files removed.

    What another process may be writing right now, being younger than an hour, stays.
    """
    with platform.db.write() as connection:
        connection.execute(files.delete().where(files.c.expires_ms <= now_ms()))
        known = set(connection.execute(sa.select(files.c.id)).scalars())
    young_s = time.time() - _YOUNG_S
    stray = [
        path
        for path in platform.home.files.iterdir()
        if path.name not in known and path.stat().st_mtime < young_s
    ]
    for path in stray:
        path.unlink(missing_ok=True)
    return len(stray)


def _living(principal: Principal) -> sa.ColumnElement[bool]:
    mine = files.c.project_id == principal.project_id
    return mine & (files.c.expires_ms.is_(None) | (files.c.expires_ms > now_ms()))


def _path(platform: Platform, file_id: str) -> Path:
    return platform.home.files / file_id


def _file(platform: Platform, row: sa.Row[Any]) -> File:
    return File(
        row.id,
        row.filename,
        row.purpose,
        row.bytes,
        row.sha256,
        row.created_ms,
        row.expires_ms,
        row.owner_id,
        _path(platform, row.id),
    )


def sync_folder(folder: Path) -> None:
    """So that a power cut keeps the names in it, and not only what they name."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
