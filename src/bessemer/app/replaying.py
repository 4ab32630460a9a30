"""Replay: an answer that was recorded, computed again offline and compared bit by bit.

for replayed in replay(platform, principal, "req_01jd3k5v8w2x4y6z8a0c2e4g6j"):
    print(replayed.identical, replayed.digest)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import msgspec
import sqlalchemy as sa

from bessemer.app.platform import Platform
from bessemer.app.pull import need_torch
from bessemer.app.recording import KEPT_DAYS, MOST_ANSWERS, Record, digest_of, packed
from bessemer.core.errors import Conflict, IntegrityError, NotFound
from bessemer.core.principal import Principal
from bessemer.core.protocols import GenerateRequest, TokenLogprob
from bessemer.core.tables import answers

READ_SCOPE, WRITE_SCOPE = "answers:read", "answers:write"

# `chatcmpl-...` and `cmpl-...` end like the id of the request that they answer.
_ID = re.compile(r"[a-z]+[-_]([0-9a-z]{26})(-\d+)?")


@dataclass(frozen=True)
class Difference:
    """The first token that is not the same: `place` counts from 0; None where one answer ended."""

    place: int
    then: TokenLogprob | None
    now: TokenLogprob | None


@dataclass(frozen=True)
class Replayed:
    """One answer then and now.

    Attributes:
        request_id: the request's, with the number of the choice.
        tokens, digest: of the recorded answer.
        changed: conditions of equal bits that are not what they were: name -> (then, now).
    """

    request_id: str
    model: str
    model_digest: str
    tokens: int
    digest: str
    conditions: Mapping[str, str]
    difference: Difference | None
    changed: Mapping[str, tuple[str | None, str | None]]

    @property
    def identical(self) -> bool:
        return self.difference is None


class _Kept(msgspec.Struct):
    """The one field that every record has, whatever wrote it."""

    format: int


def replay(platform: Platform, principal: Principal, request_id: str) -> list[Replayed]:
    """Compute every choice of a recorded answer again, and compare.

    Args:
        request_id: the answer's `x-request-id` (all its choices; with `-N` at its end, choice N),
            or its `id`.

    Raises:
        NotFound: this project has no such record, or the model is not here any more.
        Conflict: a newer version wrote the record.
        IntegrityError: the record, or the model, is not what was stored.
    """
    from bessemer.inference.recomputing import recompute

    principal.require(READ_SCOPE)
    need_torch("replaying an answer")
    records = _find(platform, principal, request_id)
    first = records[0]  # the choices of one request have one model, and one engine's conditions
    folder = _model_folder(platform, first)
    assert all(record.model_digest == first.model_digest for record in records), records
    found = recompute(folder, [_again(record) for record in records], first.conditions)
    return [
        _compare(record, now, found.conditions)
        for record, now in zip(records, found.answers, strict=True)
    ]


def forget(platform: Platform, principal: Principal, request_id: str) -> int:
    """Delete what is recorded of a request; returns how many answers that were.

    Raises:
        NotFound: as `replay`.
    """
    principal.require(WRITE_SCOPE)
    with platform.db.write() as connection:
        gone = connection.execute(answers.delete().where(_is(principal, request_id))).rowcount
    if not gone:
        raise _not_found(request_id)
    return gone


def _find(platform: Platform, principal: Principal, request_id: str) -> list[Record]:
    with platform.db.read() as connection:
        chosen = sa.select(answers.c.digest, answers.c.record).order_by(answers.c.request_id)
        rows = connection.execute(chosen.where(_is(principal, request_id))).all()
    if not rows:
        raise _not_found(request_id)
    return [_read(digest, text) for digest, text in rows]


def _is(principal: Principal, request_id: str) -> sa.ColumnElement[bool]:
    found = _ID.fullmatch(request_id)
    known = f"req_{found[1]}{found[2] or ''}" if found else request_id
    column = answers.c.request_id
    asked = sa.or_(column == known, column.startswith(f"{known}-", autoescape=True))
    return sa.and_(answers.c.project_id == principal.project_id, asked)


def _read(digest: str, text: str) -> Record:
    kept = msgspec.json.decode(text, type=_Kept)
    if kept.format != 1:
        raise Conflict(
            f"this record has the format {kept.format}; this version knows 1",
            next_step="replay it with the newer version of Bessemer that wrote it",
        )
    record = msgspec.json.decode(text, type=Record)
    if (found := digest_of(record.tokens)) != digest:
        raise IntegrityError(
            f"the record was changed after it was written: its tokens have the digest {found}, and"
            f" {digest} was stored with them"
        )
    return record


def _model_folder(platform: Platform, record: Record) -> Path:
    """Read to its last byte, so that the answer is shown to be of these weights."""
    try:
        folder = platform.artifacts.get(record.model_digest).path
    except NotFound:
        raise NotFound(
            f"the model that gave this answer is not here any more: {record.model},"
            f" {record.model_digest}",
            next_step="bessemer pull the same bytes again: they get the same digest",
        ) from None
    platform.artifacts.verify(record.model_digest)
    return folder


def _again(record: Record) -> GenerateRequest:
    """Without a deadline, and no further than somebody read."""
    request = msgspec.structs.replace(record.request, deadline_s=None)
    if record.ended != "unfinished":
        return request
    return msgspec.structs.replace(request, max_tokens=len(record.tokens))


def _compare(
    record: Record, now: Sequence[TokenLogprob], conditions: Mapping[str, str]
) -> Replayed:
    pairs = enumerate(zip_longest(record.tokens, now))
    names = sorted({*record.conditions, *conditions})
    return Replayed(
        request_id=record.request.request_id,
        model=record.model,
        model_digest=record.model_digest,
        tokens=len(record.tokens),
        digest=digest_of(record.tokens),
        conditions=record.conditions,
        difference=next(
            (Difference(place, a, b) for place, (a, b) in pairs if not _same(a, b)), None
        ),
        changed={
            name: (record.conditions.get(name), conditions.get(name))
            for name in names
            if record.conditions.get(name) != conditions.get(name)
        },
    )


def _same(then: TokenLogprob | None, now: TokenLogprob | None) -> bool:
    return then is not None and now is not None and packed(then) == packed(now)


def _not_found(request_id: str) -> NotFound:
    return NotFound(
        f"no answer to {request_id!r} is recorded here; a server keeps the newest"
        f" {MOST_ANSWERS:,} for {KEPT_DAYS} days, and only with --deterministic",
        next_step="bessemer up --deterministic, and take the x-request-id of an answer",
    )
