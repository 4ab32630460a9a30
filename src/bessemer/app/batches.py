"""Batches: the requests of one file, answered in the background within 24 hours.

    validating -> failed                          a line has a fault; nothing was asked
    validating -> in_progress -> finalizing -> completed
    validating, in_progress -> cancelling -> cancelled, with what was finished
    in_progress -> expired, with what was finished

Here is what a person does with them; `batch_runner` does the work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import msgspec
import sqlalchemy as sa

from bessemer.app import audit, files
from bessemer.app.batch_lines import Fault
from bessemer.app.chat import CHAT_SCOPE
from bessemer.app.paging import PageRequest, read_page
from bessemer.app.platform import Platform
from bessemer.app.tables import batches
from bessemer.core.database import now_ms
from bessemer.core.errors import Conflict, InvalidInput, NotFound
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal
from bessemer.core.protocols import Usage

READ_SCOPE, WRITE_SCOPE = "batches:read", "batches:write"

Endpoint = Literal[
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"
]  # fmt: skip
Status = Literal[
    "validating", "failed", "in_progress", "finalizing",
    "completed", "expired", "cancelling", "cancelled",
]  # fmt: skip
OPEN: tuple[Status, ...] = ("validating", "in_progress", "finalizing", "cancelling")

# As in OpenAI's API.
WINDOW_S = 24 * 3600
MAX_INPUT_BYTES = 200 * 10**6
_MOMENTS = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling",
            "cancelled")  # fmt: skip


class Batch(NamedTuple):
    """A row of `batches`. `moments` has the time (Unix ms) of each status that it came to.

    `model` is the one that all lines name, if they do. `completed` and `failed` count lines with
    results, of `total`.
    """

    id: str
    owner: Principal
    endpoint: Endpoint
    input_file_id: str
    status: Status
    model: str | None
    faults: Sequence[Fault]
    metadata: Mapping[str, str] | None
    output_expires_s: int | None
    output_file_id: str | None
    error_file_id: str | None
    total: int
    completed: int
    failed: int
    usage: Usage
    created_ms: int
    expires_ms: int
    moments: Mapping[str, int]


def create(
    platform: Platform,
    principal: Principal,
    input_file_id: str,
    endpoint: str,
    *,
    metadata: Mapping[str, str] | None = None,
    output_expires_s: int | None = None,
) -> Batch:
    """Ask for every line of a file to be answered; the server begins within a second.

    Raises:
        NotFound: the project has no such file.
        InvalidInput: it was uploaded for something else, is too large, or the endpoint is none of
            `Endpoint`.
        PermissionDenied: without the scopes `batches:write`, and `chat` for what is asked.
    """
    principal.require(WRITE_SCOPE)
    principal.require(CHAT_SCOPE)
    if endpoint not in get_args(Endpoint):
        raise InvalidInput(
            f"'endpoint' is {endpoint[:100]!r}, which batches do not ask here; they ask"
            f" {', '.join(get_args(Endpoint))}",
            param="endpoint",
        )
    _check_input(platform, principal, input_file_id)
    created_ms = now_ms()
    created_id = new_id("batch")
    row = {
        "id": created_id,
        "org_id": principal.org_id,
        "project_id": principal.project_id,
        "owner_id": principal.owner_id,
        "key_id": principal.key_id,
        "created_ms": created_ms,
        "endpoint": endpoint,
        "input_file_id": input_file_id,
        "status": "validating",
        "metadata": None if metadata is None else msgspec.json.encode(metadata).decode(),
        "output_expires_s": output_expires_s,
        "expires_ms": created_ms + WINDOW_S * 1000,
    }
    with platform.db.write() as connection:
        connection.execute(batches.insert().values(row))
        facts = {"endpoint": endpoint, "input_file_id": input_file_id}
        audit.record(connection, principal, "batch.created", created_id, after=facts)
        kept = connection.execute(sa.select(batches).where(batches.c.id == created_id)).one()
    return of_row(kept)


def get(platform: Platform, principal: Principal, batch_id: str) -> Batch:
    """One batch of the principal's project. Raises NotFound."""
    principal.require(READ_SCOPE)
    with platform.db.read() as connection:
        return of_row(_row(connection, principal, batch_id))


def list_batches(
    platform: Platform, principal: Principal, asked: PageRequest
) -> tuple[list[Batch], bool]:
    """A page of the project's batches, and whether there are more."""
    principal.require(READ_SCOPE)
    with platform.db.read() as connection:
        mine = batches.c.project_id == principal.project_id
        rows, has_more = read_page(connection, batches, mine, asked)
    return [of_row(row) for row in rows], has_more


def cancel(platform: Platform, principal: Principal, batch_id: str) -> Batch:
    """Ask for no more of it; the server writes what was finished and then says `cancelled`.

    Cancelling twice changes nothing.

    Raises:
        NotFound: the project has no such batch.
        Conflict: it is over, or has every result already.
    """
    principal.require(WRITE_SCOPE)
    with platform.db.write() as connection:
        row = _row(connection, principal, batch_id)
        if row.status not in ("validating", "in_progress", "cancelling"):
            raise Conflict(
                f"{batch_id} is {row.status}, so there is nothing left to cancel",
                param="batch_id",
                next_step=f"GET /v1/batches/{batch_id} names its files",
            )
        if row.status != "cancelling":
            this = batches.update().where(batches.c.id == batch_id)
            connection.execute(this.values(status="cancelling", cancelling_ms=now_ms()))
            audit.record(
                connection, principal, "batch.cancelled", batch_id,
                before={"status": row.status}, after={"status": "cancelling"},
            )  # fmt: skip
        return of_row(_row(connection, principal, batch_id))


def of_row(row: sa.Row[Any]) -> Batch:
    """The row as a value. Its owner is whoever created it, with no rights beyond its work."""
    return Batch(
        id=row.id,
        owner=Principal(
            row.org_id,
            row.project_id,
            row.owner_id,
            frozenset({CHAT_SCOPE, files.READ_SCOPE, files.WRITE_SCOPE}),
            row.key_id,
        ),
        endpoint=row.endpoint,
        input_file_id=row.input_file_id,
        status=row.status,
        model=row.model,
        faults=() if row.errors is None else msgspec.json.decode(row.errors, type=list[Fault]),
        metadata=None if row.metadata is None else msgspec.json.decode(row.metadata),
        output_expires_s=row.output_expires_s,
        output_file_id=row.output_file_id,
        error_file_id=row.error_file_id,
        total=row.total,
        completed=row.completed,
        failed=row.failed,
        usage=Usage(
            prompt_tokens=row.prompt_tokens,
            completion_tokens=row.completion_tokens,
            cached_tokens=row.cached_tokens,
            reasoning_tokens=row.reasoning_tokens,
        ),
        created_ms=row.created_ms,
        expires_ms=row.expires_ms,
        moments={
            name: at_ms for name in _MOMENTS if (at_ms := row._mapping[f"{name}_ms"]) is not None
        },
    )


def _check_input(platform: Platform, principal: Principal, file_id: str) -> None:
    try:
        file = files.get(platform, principal, file_id, scope=WRITE_SCOPE)
    except NotFound as fault:
        fault.param = "input_file_id"
        raise
    if file.purpose != "batch":
        raise InvalidInput(
            f"{file_id} was uploaded with the purpose {file.purpose!r}; a batch's is 'batch'",
            param="input_file_id",
            next_step="upload it again with purpose 'batch'",
        )
    if file.bytes > MAX_INPUT_BYTES:
        raise InvalidInput(
            f"{file_id} has {file.bytes:,} bytes; a batch has at most {MAX_INPUT_BYTES:,}",
            param="input_file_id",
            next_step="split it into several batches",
        )


def _row(connection: sa.Connection, principal: Principal, batch_id: str) -> sa.Row[Any]:
    mine = (batches.c.project_id == principal.project_id) & (batches.c.id == batch_id)
    row = connection.execute(sa.select(batches).where(mine)).first()
    if row is None:
        raise NotFound(
            f"No such Batch object: {batch_id[:100]}",
            param="batch_id",
            next_step="GET /v1/batches, or bessemer batches list",
        )
    return row
