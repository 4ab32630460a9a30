"""Records of answers, for `replaying`: what a deterministic engine was asked, and what it drew.

Prompts and answers are in them as token ids, so they are the users' content. They are kept only by
a server that was started with `--deterministic`, the newest `MOST_ANSWERS` for `KEPT_DAYS` days.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from bessemer.app.models import NamedModel
from bessemer.app.platform import Platform
from bessemer.app.streams import closing
from bessemer.core.database import now_ms
from bessemer.core.digests import DIGEST_PREFIX, sha256_bytes
from bessemer.core.errors import EngineUnavailable
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal
from bessemer.core.protocols import (
    Engine,
    EngineInfo,
    FinishReason,
    GenerateRequest,
    Pooling,
    TokenChunk,
    TokenLogprob,
)
from bessemer.core.tables import answers

MOST_ANSWERS = 10_000
KEPT_DAYS = 30

_DAY_MS = 24 * 60 * 60 * 1000


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, and all that it depends on.

    Attributes:
        model, model_digest: the name it was asked by, and the bytes that answered.
        conditions: the engine's; see `EngineInfo`.
        request: as the engine got it, with the seed that was drawn for it.
        tokens: everything drawn, the id that ended the answer included.
        ended: "unfinished" where nobody read on: a stop string came, or the client left.
    """

    model: str
    model_digest: str
    conditions: Mapping[str, str]
    request: GenerateRequest
    tokens: Sequence[TokenLogprob]
    ended: FinishReason | Literal["unfinished"]
    format: Literal[1] = 1


def packed(token: TokenLogprob) -> bytes:
    """Its bits: id and float64, then the number of alternatives and theirs, little-endian."""
    top = b"".join(struct.pack("<qd", *pair) for pair in token.top)
    return struct.pack("<qdq", token.id, token.logprob, len(token.top)) + top


def digest_of(tokens: Sequence[TokenLogprob]) -> str:
    """SHA-256 over the bits of every token and log-probability, in order."""
    return DIGEST_PREFIX + sha256_bytes(b"".join(map(packed, tokens)))


class Recorder:
    """Writes records; many that end at the same time in one transaction. Of one event loop."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._waiting: list[tuple[dict[str, Any], asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    def around(self, engine: Engine, model: NamedModel, principal: Principal) -> RecordingEngine:
        """The engine, with a record of each of its answers to `principal`."""
        return RecordingEngine(self, engine, model, principal)

    async def keep(self, principal: Principal, record: Record) -> None:
        """Returns when the record is safe on disk."""
        row = {
            "id": new_id("answer"),
            "org_id": principal.org_id,
            "project_id": principal.project_id,
            "owner_id": principal.owner_id,
            "created_ms": now_ms(),
            "request_id": record.request.request_id,
            "digest": digest_of(record.tokens),
            "record": msgspec.json.encode(record).decode(),
        }
        safe = asyncio.get_running_loop().create_future()
        self._waiting.append((row, safe))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all(), name="answers")
        await safe

    async def close(self) -> None:
        """Wait until everything is written."""
        if self._writer is not None:
            await asyncio.wait([self._writer])

    async def _write_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            fault: Exception | None = None
            try:
                await asyncio.to_thread(self._write, [row for row, _ in batch])
            except Exception as raised:  # each answer that waits for it ends with this fault
                fault = raised
            for _, safe in batch:
                if not safe.done() and fault is not None:
                    safe.set_exception(fault)
                elif not safe.done():
                    safe.set_result(None)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with self._platform.db.write() as connection:
            connection.execute(answers.insert(), rows)
            _drop_old(connection)


class RecordingEngine:
    """Implements `Engine` over a deterministic one. The last words wait for the record."""

    def __init__(
        self, recorder: Recorder, engine: Engine, model: NamedModel, principal: Principal
    ) -> None:
        self._recorder, self._engine = recorder, engine
        self._model, self._principal = model, principal

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenChunk, None]:
        """See `Engine.generate`; log-probabilities are always computed, told where asked for."""
        conditions = await self._conditions()
        asked = _fully_said(request)
        tokens: list[TokenLogprob] = []
        last: TokenChunk | None = None
        try:
            async with closing(self._engine.generate(asked)) as chunks:
                async for chunk in chunks:
                    tokens += chunk.drawn
                    if chunk.finish_reason is not None:
                        last = chunk
                        break
                    yield _as_asked(chunk, request)
        finally:
            if tokens:
                record = Record(
                    model=self._model.name,
                    model_digest=self._model.digest,
                    conditions=conditions,
                    request=asked,
                    tokens=tokens,
                    ended=(last and last.finish_reason) or "unfinished",
                )
                await self._recorder.keep(self._principal, record)
        if last is not None:
            yield _as_asked(last, request)

    async def score(self, ids: Sequence[int]) -> list[float]:
        """See `Engine.score`; not recorded."""
        return await self._engine.score(ids)

    async def embed(
        self, ids: Sequence[int], pooling: Pooling | None = None, client: str = ""
    ) -> list[float]:
        """See `Engine.embed`; not recorded."""
        return await self._engine.embed(ids, pooling, client)

    async def info(self) -> EngineInfo:
        return await self._engine.info()

    async def _conditions(self) -> Mapping[str, str]:
        conditions = (await self._engine.info()).conditions
        if not conditions:
            raise EngineUnavailable(
                f"the engine of {self._model.name} is not deterministic, and this server promises"
                " answers that can be replayed",
                next_step="bessemer up without --deterministic",
            )
        return conditions


def prune(platform: Platform) -> None:
    """Drop what is too old or too much."""
    with platform.db.write() as connection:
        _drop_old(connection)


def _drop_old(connection: sa.Connection) -> None:
    too_old = now_ms() - KEPT_DAYS * _DAY_MS
    connection.execute(answers.delete().where(answers.c.created_ms < too_old))
    newest_first = sa.select(answers.c.id).order_by(answers.c.id.desc())
    too_many = connection.execute(newest_first.offset(MOST_ANSWERS).limit(1)).scalar()
    if too_many is not None:
        connection.execute(answers.delete().where(answers.c.id <= too_many))


def _fully_said(request: GenerateRequest) -> GenerateRequest:
    """The same request with a seed, and with log-probabilities, which prove more than tokens."""
    sampling = request.sampling
    if sampling.seed is None:
        sampling = msgspec.structs.replace(sampling, seed=secrets.randbits(63))
    top = 0 if request.top_logprobs is None else request.top_logprobs
    return msgspec.structs.replace(request, sampling=sampling, top_logprobs=top)


def _as_asked(chunk: TokenChunk, request: GenerateRequest) -> TokenChunk:
    if request.top_logprobs is not None:
        return chunk
    return msgspec.structs.replace(chunk, logprobs=None, stop_logprob=None)
