"""`/v1/organization/usage/completions`, `/embeddings`, and `/v1/organization/costs`.

Buckets are cut to the times that were asked for, so together they cover those exactly. Of what
cannot be asked for here (images, audio, moderations, vector stores, sessions and searches) there is
no usage endpoint either: 501, and not a page of zeros.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from bessemer.app import costs, usage
from bessemer.app.metering import Meter
from bessemer.app.platform import Platform
from bessemer.core.errors import InvalidInput
from bessemer.gateway.query import Query
from bessemer.gateway.routes import Call, Route

PATH = "/v1/organization/usage"
COSTS_PATH = "/v1/organization/costs"

_LAST_S = 253_402_300_799  # the end of the year 9999
_CURSOR = "page_"
_WINDOW = ("start_time", "end_time", "bucket_width", "limit", "page", "group_by")

# A parameter's and a result's names for each dimension.
_FILTERS: Mapping[str, usage.Dimension] = {
    "project_ids": "project",
    "user_ids": "user",
    "api_key_ids": "key",
    "models": "model",
}
_GROUPS: Mapping[str, usage.Dimension] = {
    "project_id": "project",
    "user_id": "user",
    "api_key_id": "key",
    "model": "model",
    "batch": "batch",
}
_COST_GROUPS: Sequence[costs.Group] = ("project_id", "line_item", "api_key_id")


class _Width(NamedTuple):
    """Of a bucket, and how many of them a page has."""

    name: usage.Width
    usual: int
    most: int


_WIDTHS = {
    "1m": _Width("minute", 60, 1440),
    "1h": _Width("hour", 24, 168),
    "1d": _Width("day", 7, 31),
}
_COST_WIDTHS = {"1d": _Width("day", 7, 180)}


class _Asked(NamedTuple):
    query: usage.UsageQuery
    limit: int
    from_ms: int | None


def routes(platform: Platform, meter: Meter | None) -> list[Route]:
    async def read(call: Call, kinds: Sequence[str], groups: Sequence[str]) -> usage.UsagePage:
        call.principal.require(usage.ORG_SCOPE)
        asked = _asked(call, _WIDTHS, [_GROUPS[name] for name in groups if name in _GROUPS], kinds)
        if meter is not None:
            await meter.flush()
        return await call.work(
            usage.read_page, platform, call.principal, asked.query, asked.limit, asked.from_ms
        )

    async def completions(call: Call) -> None:
        """Requests and tokens of chats, completions, responses, batches and evaluations."""
        groups = _groups(call.query, (*_GROUPS, "service_tier"))
        page = await read(call, usage.COMPLETIONS, groups)
        await call.reply(_page(page, [_completions(one, groups) for one in page.buckets]))

    async def embeddings(call: Call) -> None:
        """Requests and tokens of embeddings."""
        groups = _groups(call.query, [name for name in _GROUPS if name != "batch"])
        page = await read(call, usage.EMBEDDINGS, groups)
        await call.reply(_page(page, [_embeddings(one, groups) for one in page.buckets]))

    async def read_costs(call: Call) -> None:
        """What everything cost, training too, by day; equal to what was charged."""
        call.principal.require(usage.ORG_SCOPE)
        groups = cast("list[costs.Group]", _groups(call.query, _COST_GROUPS))
        asked = _asked(call, _COST_WIDTHS, (), None)
        if meter is not None:
            await meter.flush()
        page = await call.work(
            costs.read_costs, platform, call.principal, asked.query, groups, asked.limit,
            asked.from_ms,
        )  # fmt: skip
        await call.reply(_page(page, [_costs(one, groups) for one in page.buckets]))

    filters = (*_WINDOW, *_FILTERS)
    return [
        Route("GET", f"{PATH}/completions", completions, query=(*filters, "batch")),
        Route("GET", f"{PATH}/embeddings", embeddings, query=filters),
        Route("GET", COSTS_PATH, read_costs, query=(*_WINDOW, "project_ids", "api_key_ids")),
    ]


def _asked(
    call: Call,
    widths: Mapping[str, _Width],
    group_by: Sequence[usage.Dimension],
    kinds: Sequence[str] | None,
) -> _Asked:
    query = call.query
    width = widths[query.choice("bucket_width", list(widths)) or "1d"]
    start_s = query.whole("start_time", 0, _LAST_S)
    if start_s is None:
        raise InvalidInput("Missing required parameter: 'start_time'.", param="start_time")
    end_s = query.whole("end_time", 0, _LAST_S)
    end_ms = _end_of_now_ms(width) if end_s is None else end_s * 1000
    if end_ms <= start_s * 1000:
        raise InvalidInput(
            f"'start_time' is {start_s}, and not before the end, {end_ms // 1000}.",
            param="start_time",
        )
    only: dict[usage.Dimension, Sequence[str]] = {
        dimension: found for name, dimension in _FILTERS.items() if (found := query.many(name))
    }
    if kinds is not None:
        only["kind"] = kinds
    batch = query.choice("batch", ("true", "false"))
    if batch is not None:
        only["batch"] = [batch]
    asked = usage.UsageQuery(
        call.principal.org_id, start_s * 1000, end_ms, width.name, tuple(group_by), only
    )
    limit = query.whole("limit", 1, width.most) or width.usual
    return _Asked(asked, limit, _from_ms(query.text("page")))


def _end_of_now_ms(width: _Width) -> int:
    """Without an end, the bucket that is being filled is the last one."""
    width_ms, now_ms = usage.WIDTH_MS[width.name], time.time_ns() // 1_000_000
    return now_ms - now_ms % width_ms + width_ms


def _from_ms(page: str | None) -> int | None:
    if page is None:
        return None
    seconds = page.removeprefix(_CURSOR)
    if seconds == page or not seconds.isascii() or not seconds.isdigit() or len(seconds) > 12:
        raise InvalidInput(
            f"'page' is {page[:100]!r}; it takes the 'next_page' of the page before.", param="page"
        )
    return int(seconds) * 1000


def _groups(query: Query, known: Sequence[str]) -> list[str]:
    found = list(dict.fromkeys(query.many("group_by")))
    for name in found:
        if name not in known:
            raise InvalidInput(
                f"'group_by' has {name[:100]!r}; it takes {', '.join(known)}.", param="group_by"
            )
    return found


def _page(page: usage.UsagePage | costs.CostPage, data: Sequence[Any]) -> dict[str, Any]:
    more = page.next_ms is not None
    cursor = None if page.next_ms is None else f"{_CURSOR}{page.next_ms // 1000}"
    return {"object": "page", "data": data, "has_more": more, "next_page": cursor}


def _bucket(
    bucket: usage.Bucket | costs.CostBucket, results: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "object": "bucket",
        "start_time": bucket.start_ms // 1000,
        "end_time": bucket.end_ms // 1000,
        "results": results,
    }


def _completions(bucket: usage.Bucket, groups: Sequence[str]) -> dict[str, Any]:
    """A cached token is one of the input's here, as in an answer's `usage`."""
    return _bucket(
        bucket,
        [
            {
                "object": "organization.usage.completions.result",
                "input_tokens": one.counts.prompt + one.counts.cached,
                "input_cached_tokens": one.counts.cached,
                "input_uncached_tokens": one.counts.prompt,
                "output_tokens": one.counts.completion + one.counts.reasoning,
                "input_audio_tokens": 0,
                "output_audio_tokens": 0,
                "num_model_requests": one.requests,
                **_named(one, groups, (*_GROUPS, "service_tier")),
            }
            for one in bucket.sums
        ],
    )


def _embeddings(bucket: usage.Bucket, groups: Sequence[str]) -> dict[str, Any]:
    return _bucket(
        bucket,
        [
            {
                "object": "organization.usage.embeddings.result",
                "input_tokens": one.counts.prompt + one.counts.cached,
                "num_model_requests": one.requests,
                **_named(one, groups, [name for name in _GROUPS if name != "batch"]),
            }
            for one in bucket.sums
        ],
    )


def _named(one: usage.Sum, groups: Sequence[str], fields: Sequence[str]) -> dict[str, Any]:
    """What the sum is of; None for what it was not grouped by."""
    grouped = zip([name for name in groups if name in _GROUPS], one.group, strict=True)
    found: dict[str, Any] = {**dict.fromkeys(fields), **dict(grouped)}
    if found.get("batch") is not None:
        found["batch"] = found["batch"] == "true"
    if "service_tier" in groups:
        found["service_tier"] = "default"  # there is one
    return found


def _costs(bucket: costs.CostBucket, groups: Sequence[str]) -> dict[str, Any]:
    by_line = "line_item" in groups
    return _bucket(
        bucket,
        [
            {
                "object": "organization.costs.result",
                # The shortest decimal of a double is exact far beyond what an amount can be.
                "amount": {"value": cost.cost_micro / 1_000_000, "currency": cost.currency},
                **dict.fromkeys(_COST_GROUPS),
                **dict(zip(groups, cost.group, strict=True)),
                "quantity": cost.quantity if by_line else None,
                "quantity_unit": cost.unit if by_line else None,
            }
            for cost in bucket.costs
        ],
    )
