"""`/v1/organization/projects/{project_id}/rate_limits`: requests and tokens a minute.

A limit is of a model, `rl-MODEL`, or of all together, `rl-*`. OpenAI's shape has no word for "no
limit", so that is 1,000,000,000,000, the most there can be; to set that lifts a limit.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from bessemer.app import limits, projects
from bessemer.app.metering import Meter
from bessemer.app.paging import PageRequest
from bessemer.app.platform import Platform
from bessemer.core.errors import InvalidInput, NotFound
from bessemer.gateway.failures import UnsupportedParameter
from bessemer.gateway.routes import Call, ListShape, Route

PATH = "/v1/organization/projects/{project_id}/rate_limits"
_PREFIX = "rl-"


class _Limit(msgspec.Struct):
    id: str
    model: str
    max_requests_per_1_minute: int
    max_tokens_per_1_minute: int
    object: Literal["project.rate_limit"] = "project.rate_limit"

    @classmethod
    def of(cls, found: limits.ModelLimit) -> _Limit:
        requests, tokens = (limits.MOST_A_MINUTE if most is None else most for most in found.limit)
        return cls(_PREFIX + found.model, found.model, requests, tokens)


_Most = Annotated[int, msgspec.Meta(ge=0, le=limits.MOST_A_MINUTE)]


class _Update(msgspec.Struct, forbid_unknown_fields=True):
    max_requests_per_1_minute: _Most | None = None
    max_tokens_per_1_minute: _Most | None = None
    max_images_per_1_minute: int | None = None
    max_audio_megabytes_per_1_minute: int | None = None
    max_requests_per_1_day: int | None = None
    batch_1_day_max_input_tokens: int | None = None


_ELSEWHERE = (
    "max_images_per_1_minute",
    "max_audio_megabytes_per_1_minute",
    "max_requests_per_1_day",
    "batch_1_day_max_input_tokens",
)


def routes(platform: Platform, meter: Meter | None) -> list[Route]:
    update_body = msgspec.json.Decoder(_Update)

    async def list_all(call: Call) -> None:
        """The project's limits a minute: of all models together, and of each."""
        found = await call.work(
            limits.list_limits, platform, call.principal, call.ids["project_id"]
        )
        page, has_more = _page([_Limit.of(one) for one in found], call.query.page(limit=100))
        await call.reply(ListShape.of(page, has_more))

    async def update(call: Call) -> None:
        """Change a limit, from the next request on."""
        call.principal.require(projects.WRITE_SCOPE)
        body = await call.body(update_body)
        for name in _ELSEWHERE:
            if getattr(body, name) is not None:
                raise UnsupportedParameter(name)
        limit_id = call.ids["rate_limit_id"]
        if not limit_id.startswith(_PREFIX):
            raise NotFound(f"there is no rate limit {limit_id[:100]!r}", param="rate_limit_id")
        found = await call.work(
            limits.set_limit,
            platform,
            call.principal,
            call.ids["project_id"],
            limit_id.removeprefix(_PREFIX),
            requests=body.max_requests_per_1_minute,
            tokens=body.max_tokens_per_1_minute,
        )
        if meter is not None:
            await call.work(meter.refresh)
        await call.reply(_Limit.of(found))

    return [
        Route("GET", PATH, list_all, query=("limit", "after", "before")),
        Route("POST", PATH + "/{rate_limit_id}", update),
    ]


def _page(found: list[_Limit], asked: PageRequest) -> tuple[list[_Limit], bool]:
    """A page of a short list that is made anew each time."""
    ids = [one.id for one in found]
    for name, cursor in (("after", asked.after), ("before", asked.before)):
        if cursor is not None and cursor not in ids:
            raise InvalidInput(f"there is no {cursor[:100]!r} in this list", param=name)
    first = 0 if asked.after is None else ids.index(asked.after) + 1
    last = len(ids) if asked.before is None else ids.index(asked.before)
    if asked.after is None and asked.before is not None:
        return found[max(first, last - asked.limit) : last], last - asked.limit > first
    return found[first:last][: asked.limit], last - first > asked.limit
