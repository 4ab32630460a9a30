"""What people said of answers: a thumb, a comment, and what the answer should have been.

An answer is named by its own id (`chatcmpl-...`, `cmpl-...`, `resp_...`) or by that of its request
(`req_...`, the header `x-request-id`); both end with the same characters. Where the answer is
stored, its project is known, and another project's does not exist here. Where it is not, anything
that could be an id is taken, and `stored` says that nobody knows.
"""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from bessemer.app import audit
from bessemer.app.paging import PageRequest, read_page
from bessemer.app.platform import Platform
from bessemer.app.tables import chat_completions, feedback, responses
from bessemer.core.database import now_ms
from bessemer.core.errors import InvalidInput, NotFound
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal
from bessemer.core.tables import answers

READ_SCOPE, WRITE_SCOPE = "feedback:read", "feedback:write"

Rating = Literal["up", "down"]
MAX_COMMENT = 10_000
MAX_CORRECTION = 200_000
_COMPLETION_ID = re.compile(r"(?:chatcmpl-|cmpl-|resp_|req_)([0-9a-hjkmnp-tv-z]{26})")


class Feedback(NamedTuple):
    """A row of `feedback`. `stored`: the answer was there, and this project's, when it was said."""

    id: str
    completion_id: str
    rating: Rating
    comment: str | None
    correction: str | None
    stored: bool
    created_ms: int
    owner_id: str


def create(
    platform: Platform,
    principal: Principal,
    completion_id: str,
    rating: Rating,
    comment: str | None = None,
    correction: str | None = None,
) -> Feedback:
    """Keep what was said. Saying more of the same answer adds to it, and replaces nothing.

    Raises:
        InvalidInput: it is no id of an answer, or a text is too long.
        NotFound: the answer is another project's.
    """
    principal.require(WRITE_SCOPE)
    named = _COMPLETION_ID.fullmatch(completion_id)
    if named is None:
        raise InvalidInput(
            f"{completion_id[:100]!r} is no id of an answer",
            next_step="give the answer's `id`, or its header x-request-id",
            param="completion_id",
        )
    for name, text, most in (
        ("comment", comment, MAX_COMMENT),
        ("correction", correction, MAX_CORRECTION),
    ):
        if text is not None and (len(text) > most or "\0" in text):
            raise InvalidInput(
                f"'{name}' has {len(text):,} characters; it has at most {most:,}, none of them NUL",
                param=name,
            )
    with platform.db.write() as connection:
        projects = _projects_of(connection, completion_id, named[1])
        if projects and principal.project_id not in projects:
            raise NotFound(
                f"No such completion: {completion_id}",
                param="completion_id",
                next_step="use a key of the project that asked for it",
            )
        feedback_id = new_id("feedback")
        row = {
            "id": feedback_id,
            "org_id": principal.org_id,
            "project_id": principal.project_id,
            "owner_id": principal.owner_id,
            "created_ms": now_ms(),
            "completion_id": completion_id,
            "rating": rating,
            "comment": comment,
            "correction": correction,
            "stored": int(bool(projects)),
        }
        connection.execute(feedback.insert().values(row))
        facts = {"completion_id": completion_id, "rating": rating}
        audit.record(connection, principal, "feedback.created", feedback_id, after=facts)
        return _feedback(_row(connection, principal, feedback_id))


def get(platform: Platform, principal: Principal, feedback_id: str) -> Feedback:
    """One of the principal's project. Raises NotFound."""
    principal.require(READ_SCOPE)
    with platform.db.read() as connection:
        return _feedback(_row(connection, principal, feedback_id))


def list_feedback(
    platform: Platform,
    principal: Principal,
    asked: PageRequest,
    *,
    completion_id: str | None = None,
    rating: Rating | None = None,
    corrected: bool | None = None,
) -> tuple[list[Feedback], bool]:
    """A page of what was said, and whether there is more.

    Args:
        corrected: only those with a correction, or only those without.
    """
    principal.require(READ_SCOPE)
    where = feedback.c.project_id == principal.project_id
    if completion_id is not None:
        where &= feedback.c.completion_id == completion_id
    if rating is not None:
        where &= feedback.c.rating == rating
    if corrected is not None:
        where &= (
            feedback.c.correction.is_not(None) if corrected else feedback.c.correction.is_(None)
        )
    with platform.db.read() as connection:
        rows, has_more = read_page(connection, feedback, where, asked)
    return [_feedback(row) for row in rows], has_more


def delete(platform: Platform, principal: Principal, feedback_id: str) -> None:
    """Take it back. Raises NotFound."""
    principal.require(WRITE_SCOPE)
    with platform.db.write() as connection:
        row = _row(connection, principal, feedback_id)
        connection.execute(feedback.delete().where(feedback.c.id == row.id))
        facts = {"completion_id": row.completion_id, "rating": row.rating}
        audit.record(connection, principal, "feedback.deleted", row.id, before=facts)


def _projects_of(connection: sa.Connection, completion_id: str, tail: str) -> set[str]:
    """The projects that have the answer stored; one, or none.

    A request's id ends like that of its answer, and may be given in its place.
    """
    by_request = completion_id.startswith("req_")
    names = [f"chatcmpl-{tail}", f"resp_{tail}"] if by_request else [completion_id]
    stored = sa.union_all(
        sa.select(answers.c.project_id).where(answers.c.request_id == f"req_{tail}-0"),
        sa.select(chat_completions.c.project_id).where(chat_completions.c.id.in_(names)),
        sa.select(responses.c.project_id).where(responses.c.id.in_(names)),
    )
    return set(connection.execute(stored).scalars())


def _row(connection: sa.Connection, principal: Principal, feedback_id: str) -> sa.Row[Any]:
    mine = (feedback.c.project_id == principal.project_id) & (feedback.c.id == feedback_id)
    row = connection.execute(sa.select(feedback).where(mine)).first()
    if row is None:
        raise NotFound(
            f"No such feedback: {feedback_id[:100]}",
            param="feedback_id",
            next_step="GET /v1/feedback",
        )
    return row


def _feedback(row: sa.Row[Any]) -> Feedback:
    return Feedback(
        row.id,
        row.completion_id,
        row.rating,
        row.comment,
        row.correction,
        bool(row.stored),
        row.created_ms,
        row.owner_id,
    )
