"""`/v1/files`: upload, list, get, delete, and the bytes again."""

from __future__ import annotations

from typing import Literal, cast

import msgspec
from msgspec import UNSET, UnsetType

from bessemer.app import files
from bessemer.app.platform import Platform
from bessemer.core.errors import InvalidInput
from bessemer.gateway.form import Form, read_form
from bessemer.gateway.query import PAGING
from bessemer.gateway.routes import Call, Deleted, ListShape, Route

MAX_FILES_A_PAGE = 10_000
_EXPIRY_S = (3_600, 2_592_000)


class FileShape(msgspec.Struct):
    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    object: Literal["file"] = "file"
    status: Literal["processed"] = "processed"
    expires_at: int | UnsetType = UNSET

    @classmethod
    def of(cls, file: files.File) -> FileShape:
        expires = UNSET if file.expires_ms is None else file.expires_ms // 1000
        return cls(
            file.id,
            file.bytes,
            file.created_ms // 1000,
            file.filename,
            file.purpose,
            expires_at=expires,
        )


def routes(platform: Platform) -> list[Route]:
    async def create(call: Call) -> None:
        """Upload a file: the form's `file` and `purpose`."""
        call.principal.require(files.WRITE_SCOPE)
        with files.writer(platform) as written:
            form = await read_form(call.exchange, written)
            purpose, expires_s = _asked(form)
            file = await call.work(
                files.add,
                platform,
                call.principal,
                cast(str, form.filename),
                purpose,
                written,
                expires_after_s=expires_s,
            )
        await call.reply(FileShape.of(file))

    async def list_all(call: Call) -> None:
        """The project's files."""
        asked = call.query.page(MAX_FILES_A_PAGE, MAX_FILES_A_PAGE)
        purpose = call.query.text("purpose")
        found, has_more = await call.work(
            files.list_files, platform, call.principal, asked, purpose
        )
        await call.reply(ListShape.of([FileShape.of(file) for file in found], has_more))

    async def get(call: Call) -> None:
        """One file, without its bytes."""
        file = await call.work(files.get, platform, call.principal, call.ids["file_id"])
        await call.reply(FileShape.of(file))

    async def delete(call: Call) -> None:
        """Forget a file and its bytes."""
        await call.work(files.delete, platform, call.principal, call.ids["file_id"])
        await call.reply(Deleted(call.ids["file_id"], "file"))

    async def content(call: Call) -> None:
        """The bytes."""
        file = await call.work(files.get, platform, call.principal, call.ids["file_id"])
        try:
            await call.exchange.send_file(file.path, file.filename)
        except FileNotFoundError:  # deleted just now, before a byte was sent
            raise files.no_such_file(file.id) from None

    return [
        Route("POST", "/v1/files", create),
        Route("GET", "/v1/files", list_all, query=("purpose", *PAGING)),
        Route("GET", "/v1/files/{file_id}", get),
        Route("DELETE", "/v1/files/{file_id}", delete),
        Route("GET", "/v1/files/{file_id}/content", content),
    ]


def _asked(form: Form) -> tuple[files.Purpose, int | None]:
    purpose = form.text("purpose")
    if purpose not in files.UPLOADED:
        raise InvalidInput(
            f"'purpose' is {purpose[:100]!r}; it takes {', '.join(files.UPLOADED)}.",
            param="purpose",
        )
    known = {"purpose", "expires_after[anchor]", "expires_after[seconds]"}
    for name in form.fields.keys() - known:
        raise InvalidInput(f"Unrecognized request argument supplied: {name[:200]}", param=name)
    return cast(files.Purpose, purpose), _expiry(form)


def _expiry(form: Form) -> int | None:
    anchor = form.fields.get("expires_after[anchor]")
    seconds = form.fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidInput(
            "'expires_after[anchor]' has to be 'created_at'.", param="expires_after[anchor]"
        )
    least, most = _EXPIRY_S
    if seconds is None or not seconds.isascii() or not seconds.isdigit() or len(seconds) > 9:
        raise InvalidInput(
            "'expires_after[seconds]' is no whole number.", param="expires_after[seconds]"
        )
    if not least <= int(seconds) <= most:
        raise InvalidInput(
            f"'expires_after[seconds]' is {seconds}; it takes {least:,} to {most:,}.",
            param="expires_after[seconds]",
        )
    return int(seconds)
