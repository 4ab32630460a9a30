"""`/v1/batches`: create, list, get, cancel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from bessemer.app import batches
from bessemer.app.batch_lines import Fault
from bessemer.app.platform import Platform
from bessemer.gateway.routes import Call, ListShape, Route
from bessemer.gateway.uploads import ExpiresAfter

Key = Annotated[str, Meta(max_length=64)]
Value = Annotated[str, Meta(max_length=512)]
Metadata = Annotated[dict[Key, Value], Meta(max_length=16)]
MaybeTime = int | UnsetType


class BatchBody(msgspec.Struct, forbid_unknown_fields=True):
    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


class FaultShape(msgspec.Struct):
    code: str
    message: str
    line: int | None
    param: str | None


class FaultList(msgspec.Struct):
    data: Sequence[FaultShape]
    object: Literal["list"] = "list"

    @classmethod
    def of(cls, faults: Sequence[Fault]) -> FaultList:
        return cls([FaultShape(f.code, f.message, f.line, f.param) for f in faults])


class CountsShape(msgspec.Struct):
    total: int
    completed: int
    failed: int


class InputDetails(msgspec.Struct):
    cached_tokens: int


class OutputDetails(msgspec.Struct):
    reasoning_tokens: int


class BatchUsage(msgspec.Struct):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class BatchShape(msgspec.Struct):
    """What is not there yet is left out, as the specification has no null for it."""

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    status: batches.Status
    created_at: int
    expires_at: int
    request_counts: CountsShape
    usage: BatchUsage
    metadata: Mapping[str, str] | None
    model: str | UnsetType = UNSET
    errors: FaultList | UnsetType = UNSET
    output_file_id: str | UnsetType = UNSET
    error_file_id: str | UnsetType = UNSET
    in_progress_at: MaybeTime = UNSET
    finalizing_at: MaybeTime = UNSET
    completed_at: MaybeTime = UNSET
    failed_at: MaybeTime = UNSET
    expired_at: MaybeTime = UNSET
    cancelling_at: MaybeTime = UNSET
    cancelled_at: MaybeTime = UNSET
    object: Literal["batch"] = "batch"

    @classmethod
    def of(cls, batch: batches.Batch) -> BatchShape:
        return cls(
            id=batch.id,
            endpoint=batch.endpoint,
            input_file_id=batch.input_file_id,
            completion_window="24h",
            status=batch.status,
            created_at=batch.created_ms // 1000,
            expires_at=batch.expires_ms // 1000,
            request_counts=CountsShape(batch.total, batch.completed, batch.failed),
            usage=_usage(batch),
            metadata=batch.metadata,
            model=batch.model or UNSET,
            errors=FaultList.of(batch.faults) if batch.faults else UNSET,
            output_file_id=batch.output_file_id or UNSET,
            error_file_id=batch.error_file_id or UNSET,
            **_moments(batch),
        )


_decoder = msgspec.json.Decoder(BatchBody)


def routes(platform: Platform) -> list[Route]:
    async def create(call: Call) -> None:
        """Answer every line of a file within 24 hours."""
        call.principal.require(batches.WRITE_SCOPE)
        body = await call.body(_decoder)
        expires = body.output_expires_after
        batch = await call.work(
            batches.create,
            platform,
            call.principal,
            body.input_file_id,
            body.endpoint,
            metadata=body.metadata,
            output_expires_s=None if expires is None else expires.seconds,
        )
        await call.reply(BatchShape.of(batch))

    async def list_all(call: Call) -> None:
        """The project's batches, newest first."""
        asked = call.query.page()
        found, has_more = await call.work(batches.list_batches, platform, call.principal, asked)
        await call.reply(ListShape.of([BatchShape.of(batch) for batch in found], has_more))

    async def get(call: Call) -> None:
        """One batch: how far it is, and its files."""
        batch = await call.work(batches.get, platform, call.principal, call.ids["batch_id"])
        await call.reply(BatchShape.of(batch))

    async def cancel(call: Call) -> None:
        """Ask for no more; what was finished is kept."""
        batch = await call.work(batches.cancel, platform, call.principal, call.ids["batch_id"])
        await call.reply(BatchShape.of(batch))

    return [
        Route("POST", "/v1/batches", create),
        Route("GET", "/v1/batches", list_all, query=("after", "limit")),
        Route("GET", "/v1/batches/{batch_id}", get),
        Route("POST", "/v1/batches/{batch_id}/cancel", cancel),
    ]


def _moments(batch: batches.Batch) -> dict[str, Any]:
    return {f"{status}_at": at_ms // 1000 for status, at_ms in batch.moments.items()}


def _usage(batch: batches.Batch) -> BatchUsage:
    used = batch.usage
    return BatchUsage(
        used.prompt_tokens,
        InputDetails(used.cached_tokens),
        used.completion_tokens,
        OutputDetails(used.reasoning_tokens),
        used.prompt_tokens + used.completion_tokens,
    )
