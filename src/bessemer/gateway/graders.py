"""`/v1/fine_tuning/alpha/graders`: run a grader on one answer, or see whether it can be read."""

from __future__ import annotations

from typing import Any

import msgspec

from bessemer.app import grading
from bessemer.app.chat import Serving
from bessemer.app.metering import Meter
from bessemer.gateway.routes import Call, Route


class RunBody(msgspec.Struct, forbid_unknown_fields=True):
    grader: dict[str, Any]
    model_sample: str
    item: dict[str, Any] = {}


class ValidateBody(msgspec.Struct, forbid_unknown_fields=True):
    grader: dict[str, Any]


class ValidShape(msgspec.Struct):
    grader: Any


class MetadataShape(msgspec.Struct):
    name: str
    type: str
    errors: grading.Errors
    execution_time: float
    scores: Any
    token_usage: int | None
    sampled_model_name: str | None


class RewardShape(msgspec.Struct):
    reward: float
    metadata: MetadataShape
    sub_rewards: Any
    model_grader_token_usage_per_model: Any

    @classmethod
    def of(cls, found: grading.Graded) -> RewardShape:
        metadata = MetadataShape(
            found.grader.name,
            found.grader.kind,
            found.errors,
            round(found.seconds, 4),
            found.scores,
            sum(found.tokens.values()) if found.tokens else None,
            next(iter(found.tokens), None),
        )
        parts = found.scores if found.grader.kind == "multi" else {}
        return cls(found.reward, metadata, parts, found.tokens)


_run = msgspec.json.Decoder(RunBody)
_validate = msgspec.json.Decoder(ValidateBody)


def routes(serving: Serving | None, meter: Meter | None = None) -> list[Route]:
    async def run(call: Call) -> None:
        """Judge one answer by a grader."""
        call.principal.require(grading.SCOPE)
        body = await call.body(_run)
        judging = grading.run_grader(
            serving, call.principal, body.grader, body.item, body.model_sample, meter
        )

        async def judge() -> None:
            await call.reply(RewardShape.of(await judging))

        await call.exchange.while_connected(judge())

    async def validate(call: Call) -> None:
        """See whether a grader can be read."""
        call.principal.require(grading.SCOPE)
        body = await call.body(_validate)
        found = grading.validate(call.principal, body.grader)
        await call.reply(ValidShape(found.spelled))

    return [
        Route("POST", "/v1/fine_tuning/alpha/graders/run", run),
        Route("POST", "/v1/fine_tuning/alpha/graders/validate", validate),
    ]
