"""`/v1/uploads`: a large file in parts."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from bessemer.app import files, uploads
from bessemer.app.platform import Platform
from bessemer.core.errors import InvalidInput
from bessemer.gateway.files import FileShape
from bessemer.gateway.form import read_form
from bessemer.gateway.routes import Call, Route

MAX_PARTS = 10_000


class ExpiresAfter(msgspec.Struct, forbid_unknown_fields=True):
    """When a file goes: so many seconds after it was made."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=3_600, le=2_592_000)]


class UploadBody(msgspec.Struct, forbid_unknown_fields=True):
    filename: str
    purpose: Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
    bytes: Annotated[int, Meta(ge=0, le=2**53)]
    mime_type: str
    expires_after: ExpiresAfter | None = None


class CompleteBody(msgspec.Struct, forbid_unknown_fields=True):
    part_ids: Annotated[list[str], Meta(max_length=MAX_PARTS)]
    md5: str | None = None


class UploadShape(msgspec.Struct):
    id: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: uploads.Status
    file: FileShape | msgspec.UnsetType = msgspec.UNSET
    object: Literal["upload"] = "upload"

    @classmethod
    def of(cls, upload: uploads.Upload) -> UploadShape:
        return cls(
            upload.id,
            upload.bytes,
            upload.created_ms // 1000,
            upload.expires_ms // 1000,
            upload.filename,
            upload.purpose,
            upload.status,
            msgspec.UNSET if upload.file is None else FileShape.of(upload.file),
        )


class PartShape(msgspec.Struct):
    id: str
    created_at: int
    upload_id: str
    object: Literal["upload.part"] = "upload.part"


_create_decoder = msgspec.json.Decoder(UploadBody)
_complete_decoder = msgspec.json.Decoder(CompleteBody)


def routes(platform: Platform) -> list[Route]:
    async def create(call: Call) -> None:
        """Begin a file that comes in parts."""
        call.principal.require(files.WRITE_SCOPE)
        body = await call.body(_create_decoder)
        upload = await call.work(
            uploads.create,
            platform,
            call.principal,
            body.filename,
            body.purpose,
            body.bytes,
            body.mime_type,
            expires_after_s=None if body.expires_after is None else body.expires_after.seconds,
        )
        await call.reply(UploadShape.of(upload))

    async def add_part(call: Call) -> None:
        """One part: the form's `data`, at most 64 MiB."""
        upload_id = call.ids["upload_id"]
        # Before its bytes are read, and again when they are there.
        await call.work(uploads.pending, platform, call.principal, upload_id)
        with files.writer(platform, uploads.MAX_PART_BYTES) as written:
            form = await read_form(call.exchange, written, "data")
            for name in form.fields:
                raise InvalidInput(
                    f"Unrecognized request argument supplied: {name[:200]}", param=name
                )
            part = await call.work(uploads.add_part, platform, call.principal, upload_id, written)
        await call.reply(PartShape(part.id, part.created_ms // 1000, part.upload_id))

    async def complete(call: Call) -> None:
        """Make the file of its parts, in the order of `part_ids`."""
        call.principal.require(files.WRITE_SCOPE)
        body = await call.body(_complete_decoder)
        upload = await call.work(
            uploads.complete,
            platform,
            call.principal,
            call.ids["upload_id"],
            body.part_ids,
            body.md5,
        )
        await call.reply(UploadShape.of(upload))

    async def cancel(call: Call) -> None:
        """End an upload and forget its parts."""
        upload = await call.work(uploads.cancel, platform, call.principal, call.ids["upload_id"])
        await call.reply(UploadShape.of(upload))

    return [
        Route("POST", "/v1/uploads", create),
        Route("POST", "/v1/uploads/{upload_id}/parts", add_part),
        Route("POST", "/v1/uploads/{upload_id}/complete", complete),
        Route("POST", "/v1/uploads/{upload_id}/cancel", cancel),
    ]
