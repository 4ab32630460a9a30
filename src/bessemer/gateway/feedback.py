"""`/v1/feedback`: what people said of answers. An endpoint of ours; OpenAI has none."""

from __future__ import annotations

from typing import Literal, cast, get_args

import msgspec

from bessemer.app import feedback
from bessemer.app.feedback_pairs import write_pairs
from bessemer.app.platform import Platform
from bessemer.gateway.files import FileShape
from bessemer.gateway.query import PAGING
from bessemer.gateway.routes import Call, Deleted, ListShape, Route


class FeedbackBody(msgspec.Struct, forbid_unknown_fields=True):
    completion_id: str
    rating: feedback.Rating
    comment: str | None = None
    correction: str | None = None


class FeedbackShape(msgspec.Struct):
    id: str
    created_at: int
    completion_id: str
    rating: feedback.Rating
    comment: str | None
    correction: str | None
    stored: bool
    object: Literal["feedback"] = "feedback"

    @classmethod
    def of(cls, said: feedback.Feedback) -> FeedbackShape:
        return cls(
            said.id,
            said.created_ms // 1000,
            said.completion_id,
            said.rating,
            said.comment,
            said.correction,
            said.stored,
        )


_decoder = msgspec.json.Decoder(FeedbackBody)


def routes(platform: Platform) -> list[Route]:
    async def create(call: Call) -> None:
        """Say what an answer was worth: `rating` up or down, `comment`, `correction`."""
        call.principal.require(feedback.WRITE_SCOPE)
        body = await call.body(_decoder)
        said = await call.work(
            feedback.create,
            platform,
            call.principal,
            body.completion_id,
            body.rating,
            body.comment,
            body.correction,
        )
        await call.reply(FeedbackShape.of(said))

    async def list_all(call: Call) -> None:
        """What was said in the project."""
        asked = call.query.page()
        rating = call.query.choice("rating", get_args(feedback.Rating))
        found, has_more = await call.work(
            feedback.list_feedback,
            platform,
            call.principal,
            asked,
            completion_id=call.query.text("completion_id"),
            rating=cast("feedback.Rating | None", rating),
            corrected=call.query.truth("corrected"),
        )
        await call.reply(ListShape.of([FeedbackShape.of(said) for said in found], has_more))

    async def get(call: Call) -> None:
        """One of them."""
        said = await call.work(feedback.get, platform, call.principal, call.ids["feedback_id"])
        await call.reply(FeedbackShape.of(said))

    async def delete(call: Call) -> None:
        """Take it back."""
        await call.work(feedback.delete, platform, call.principal, call.ids["feedback_id"])
        await call.reply(Deleted(call.ids["feedback_id"], "feedback"))

    async def pairs(call: Call) -> None:
        """Write a file for a `dpo` job: each correction of a stored completion as a pair."""
        file = await call.work(write_pairs, platform, call.principal)
        await call.reply(FileShape.of(file))

    filters = ("completion_id", "rating", "corrected")
    return [
        Route("POST", "/v1/feedback", create),
        Route("GET", "/v1/feedback", list_all, query=(*filters, *PAGING)),
        Route("POST", "/v1/feedback/pairs", pairs),
        Route("GET", "/v1/feedback/{feedback_id}", get),
        Route("DELETE", "/v1/feedback/{feedback_id}", delete),
    ]
