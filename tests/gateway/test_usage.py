"""What answers said they used is what usage says, and what was charged is what costs say.

With the official client over HTTP, and with any division and any pages.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.app import costs, usage
from bessemer.app.embeddings import Embedded, EmbedRequest
from bessemer.app.metering import Meter
from bessemer.app.platform import Platform
from bessemer.app.spending import set_prices
from bessemer.core.home import Home
from bessemer.gateway.asgi import build
from bessemer.gateway.exchange import ASGIApp
from bessemer.gateway.resources import resource_routes
from bessemer.ledger.counts import Counts
from bessemer.ledger.entries import Kind
from bessemer.ledger.ledger import Ledger
from bessemer.ledger.usage import Bucket, Dimension, UsageQuery, Width
from tests.fakes import FakeResponder, FakeServing
from tests.gateway.calling import MESSAGES, acall, running
from tests.gateway.organization import World, world
from tests.metered import rows_of
from tests.specification import check

PRICES = """
currency = "usd"
[[rates]]
model = "*"
prompt = 150_001
cached = 75_001
completion = 600_007
"""
USAGE = "/v1/organization/usage/completions"
COSTS = "/v1/organization/costs"


class Embedder:
    async def embed(self, request: EmbedRequest) -> Embedded:
        assert request.tally is not None
        await request.tally.expect("tiny", 4, 0)
        return Embedded([[1.0]], 4)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as found:
        set_prices(found.platform, found.owner, PRICES, "prices")
        meter = Meter.of(found.platform)
        serving = FakeServing({"tiny": FakeResponder()}, embedders={"tiny": Embedder()})
        routes = resource_routes(found.platform, serving=serving, meter=meter)
        found.app = build(serving, found.ring, meter=meter, routes=routes)
        found.ring.refresh()
        yield found
        meter.close()


def test_usage_and_costs_are_what_answers_said_they_used(here: World) -> None:
    with running(here.app) as server:
        client = openai.OpenAI(
            base_url=server.url + "/v1", api_key=here.mine, admin_api_key=here.admin, max_retries=0
        )
        begin_s = int(time.time())
        told: list[Any] = []
        for number in range(3):
            fields: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "n": number + 1}
            told.append(client.chat.completions.create(**fields).usage)
        stream = client.chat.completions.create(
            model="tiny", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )  # type: ignore[call-overload]
        told.append([chunk.usage for chunk in stream][-1])
        told.append(client.completions.create(model="tiny", prompt="Hi").usage)
        read = sum(one.prompt_tokens for one in told)
        wrote = sum(one.completion_tokens for one in told)
        answer = client.responses.create(model="tiny", input="Hi", store=False)
        assert answer.usage is not None
        read, wrote = read + answer.usage.input_tokens, wrote + answer.usage.output_tokens
        embedded = client.embeddings.create(model="tiny", input="Hi")

        asked = client.admin.organization.usage
        (bucket,) = asked.completions(start_time=begin_s).data
        (one,) = bucket.results
        assert one.object == "organization.usage.completions.result"
        assert (one.input_tokens, one.output_tokens) == (read, wrote)
        assert one.num_model_requests == 6
        (vectors,) = asked.embeddings(start_time=begin_s).data[0].results
        assert vectors.object == "organization.usage.embeddings.result"
        assert vectors.input_tokens == embedded.usage.prompt_tokens == 4

        (day,) = asked.costs(start_time=begin_s, group_by=["line_item"]).data
        charged = sum(row.cost or 0 for row in rows_of(here.platform))
        micro = 0
        for line in day.results:
            assert line.object == "organization.costs.result" and line.amount is not None
            assert line.amount.currency == "usd" and line.amount.value is not None
            assert line.line_item in {
                "tiny, chat", "tiny, completion", "tiny, response", "tiny, embedding"
            }  # fmt: skip
            # A decimal of at most six places, to the last of them.
            exact = Fraction(repr(line.amount.value)) * 1_000_000
            assert exact.denominator == 1
            micro += int(exact)
        assert micro == charged > 0
        chats = next(line for line in day.results if line.line_item == "tiny, chat")  # type: ignore[union-attr]
        assert (chats.quantity_unit, chats.quantity) == (  # type: ignore[union-attr]
            "tokens", sum(one.total_tokens for one in told[:4])
        )  # fmt: skip
        client.close()


def fill(platform: Platform, who: list[Any], count: int, start_ms: int, span_ms: int) -> None:
    """Requests at random times of several callers, models and kinds, some of them in batches."""
    draw = random.Random(1)
    kinds: list[Kind] = ["chat", "batch", "embedding", "evaluation", "rollout"]
    at_ms = [start_ms]
    with Ledger(platform.db, clock_ms=lambda: at_ms[0]) as ledger:
        for number in range(count):
            at_ms[0] = start_ms + draw.randrange(span_ms)
            used = Counts(draw.randrange(900), draw.randrange(90), draw.randrange(300))
            name, model = f"req_{number}", draw.choice(["a", "b"])
            ledger.reserve(draw.choice(who), name, model, draw.choice(kinds), used).result()
            ledger.settle(name, used).result()


START_MS = 20_000 * 86_400_000 + 5 * 3_600_000
SPAN_MS = 3 * 86_400_000


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with Platform.open(Home(tmp_path_factory.mktemp("filled") / "home")) as platform:
        owner = platform.local_principal()
        set_prices(platform, owner, PRICES, "prices")
        others = replace(owner, project_id="p2", owner_id="u2", key_id="k2")
        fill(platform, [owner, others, replace(owner, key_id="k1")], 400, START_MS, SPAN_MS)
        assert rows_of(platform)
        yield platform


def added(buckets: list[Bucket]) -> tuple[int, Counts, int]:
    sums = [one for bucket in buckets for one in bucket.sums]
    counts = Counts(*map(sum, zip(*(one.counts for one in sums), strict=True)))
    return (
        sum(one.requests for one in sums),
        counts if sums else Counts(),
        sum(one.cost_micro for one in sums),
    )


def counted(platform: Platform, start_ms: int, end_ms: int) -> tuple[int, Counts, int]:
    """The same, row by row."""
    import sqlalchemy as sa

    from bessemer.ledger import tables

    row = tables.usage.c
    columns = [row[name] for name in Counts._fields]
    query = sa.select(row.cost_micro, *columns).where(
        row.created_ms >= start_ms, row.created_ms < end_ms
    )
    with platform.db.read() as connection:
        found = [tuple(one) for one in connection.execute(query)]
    counts = Counts(*map(sum, zip(*(one[1:] for one in found), strict=True)))
    return len(found), counts if found else Counts(), sum(one[0] for one in found)


DIMENSIONS: list[Dimension] = ["project", "user", "key", "model", "kind", "batch", "card"]
TIMES = st.integers(START_MS - SPAN_MS // 3, START_MS + SPAN_MS + SPAN_MS // 3)


@settings(deadline=None, max_examples=80)
@given(
    st.tuples(TIMES, TIMES).filter(lambda times: times[0] // 1000 != times[1] // 1000),
    st.sampled_from(["hour", "day"]),
    st.lists(st.sampled_from(DIMENSIONS), unique=True, max_size=4),
    st.integers(1, 31),
)
def test_any_division_in_any_pages_is_the_whole(
    filled: Platform, times: tuple[int, int], width: Width, group_by: list[Dimension], limit: int
) -> None:
    # The API's times are whole seconds.
    start_ms, end_ms = (time_ms // 1000 * 1000 for time_ms in sorted(times))
    query = UsageQuery("", start_ms, end_ms, width, tuple(group_by))
    buckets: list[Bucket] = []
    from_ms = None
    while True:
        page = usage.read_page(filled, filled.local_principal(), query, limit, from_ms)
        assert 1 <= len(page.buckets) <= limit
        buckets += page.buckets
        if (from_ms := page.next_ms) is None:
            break
    assert added(buckets) == counted(filled, start_ms, end_ms)
    ends = [start_ms, *(bucket.end_ms for bucket in buckets)]
    assert [bucket.start_ms for bucket in buckets] == ends[:-1] and ends[-1] == end_ms
    assert all(end % usage.WIDTH_MS[width] == 0 for end in ends[1:-1])


def test_minutes_are_the_hour_they_are_of(filled: Platform) -> None:
    hour = UsageQuery("", START_MS, START_MS + 24 * 3_600_000, "hour")
    minutes = replace(hour, width="minute")
    read = usage.read_usage(filled, filled.local_principal(), minutes)
    assert len(read) == 1440
    assert added(read) == added(usage.read_usage(filled, filled.local_principal(), hour))


@pytest.mark.parametrize(
    "groups", [[], ["project_id"], ["line_item"], ["api_key_id", "line_item", "project_id"]]
)
def test_costs_add_up_to_the_charges(filled: Platform, groups: list[costs.Group]) -> None:
    query = UsageQuery("", START_MS, START_MS + SPAN_MS, "day")
    page = costs.read_costs(filled, filled.local_principal(), query, groups, limit=180)
    micro = sum(cost.cost_micro for bucket in page.buckets for cost in bucket.costs)
    assert micro == counted(filled, START_MS, START_MS + SPAN_MS)[2]


def ask(app: ASGIApp, path: str, key: str) -> Any:
    answer = asyncio.run(acall(app, path, method="GET", key=key))
    assert answer.status == 200, answer.body
    check("GET", path.partition("?")[0], 200, answer.json())
    return answer.json()


def test_groups_filters_and_pages_over_http(here: World) -> None:
    first = replace(here.owner, project_id=here.first.id, key_id="k1")
    second = replace(here.owner, project_id=here.second.id)
    fill(here.platform, [first, second], 60, START_MS, 6 * 3_600_000)
    window = f"?start_time={START_MS // 1000}&end_time={START_MS // 1000 + 6 * 3600}"
    (whole,) = ask(here.app, USAGE + window, here.admin)["data"]
    (total,) = whole["results"]
    assert total["project_id"] is None and total["batch"] is None
    assert (whole["start_time"], whole["end_time"]) == (
        START_MS // 1000, START_MS // 1000 + 6 * 3600
    )  # fmt: skip
    by = "&group_by[]=project_id&group_by[]=api_key_id&group_by[]=batch&group_by[]=service_tier"
    (bucket,) = ask(here.app, USAGE + window + by, here.admin)["data"]
    parts = bucket["results"]
    for name in ("input_tokens", "input_cached_tokens", "output_tokens", "num_model_requests"):
        assert sum(part[name] for part in parts) == total[name]
    assert {(part["project_id"], part["api_key_id"], part["batch"]) for part in parts} == {
        (here.first.id, "k1", False), (here.first.id, "k1", True),
        (here.second.id, None, False), (here.second.id, None, True),
    }  # fmt: skip
    assert {part["service_tier"] for part in parts} == {"default"}
    batches = ask(here.app, f"{USAGE}{window}&batch=true&project_ids={here.first.id}", here.admin)
    (only,) = batches["data"][0]["results"]
    assert only["num_model_requests"] == next(
        part["num_model_requests"] for part in parts if part["batch"] and part["api_key_id"]
    )
    pages, cursor = [], ""
    while True:
        page = ask(here.app, f"{USAGE}{window}&bucket_width=1h&limit=4{cursor}", here.admin)
        pages.append(page)
        if not page["has_more"]:
            break
        cursor = f"&page={page['next_page']}"
    assert [len(page["data"]) for page in pages] == [4, 2] and pages[-1]["next_page"] is None
    assert total["num_model_requests"] == sum(
        one["num_model_requests"]
        for page in pages
        for bucket in page["data"]
        for one in bucket["results"]
    )
    paid = ask(here.app, f"{COSTS}{window}&group_by=line_item,project_id", here.admin)["data"][0]
    assert {line["line_item"] for line in paid["results"]} >= {"a, chat", "b, rollout"}


def test_a_bill_in_two_currencies_keeps_them_apart(here: World) -> None:
    fill(here.platform, [here.owner], 5, START_MS, 1000)
    set_prices(here.platform, here.owner, PRICES.replace("usd", "eur"), "prices")
    with Ledger(here.platform.db, clock_ms=lambda: START_MS) as ledger:
        ledger.reserve(here.owner, "last", "a", "chat", Counts(1)).result()
        ledger.settle("last", Counts(1)).result()
    found = ask(here.app, f"{COSTS}?start_time={START_MS // 1000}&limit=1", here.admin)
    amounts = {one["amount"]["currency"]: one["amount"] for one in found["data"][0]["results"]}
    assert amounts["eur"]["value"] == 0.000001 and amounts["usd"]["value"] > 0


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("", "start_time"),
        ("start_time=soon", "start_time"),
        ("start_time=9&end_time=9", "start_time"),
        ("start_time=9&end_time=99&page=9", "page"),
        ("start_time=9&end_time=99&page=page_60", None),
        ("start_time=9&end_time=99&page=page_86400", "page"),
        ("start_time=9&end_time=99&bucket_width=1w", "bucket_width"),
        ("start_time=9&end_time=99&limit=32", "limit"),
        ("start_time=9&end_time=99&group_by=mood", "group_by"),
        ("start_time=9&end_time=99&colour=red", "colour"),
    ],
)
def test_a_query_that_cannot_be_is_refused_by_name(
    here: World, query: str, param: str | None
) -> None:
    width = "&bucket_width=1m" if param is None else ""
    answer = here.ask("GET", f"{USAGE}?{query}{width}")
    if param is None:
        assert answer.status == 200
    else:
        assert (answer.status, answer.error["param"]) == (400, param)


def test_only_who_reads_the_organization_reads_what_it_used(here: World) -> None:
    for path in (USAGE, "/v1/organization/usage/embeddings", COSTS):
        query = f"{path}?start_time={START_MS // 1000}"
        assert here.ask("GET", query, key=here.others).status == 403
        assert here.ask("GET", query, key=here.reader).status == 403
        assert here.ask("GET", query, key=here.admin).status == 200
    assert here.ask("GET", "/v1/organization/usage/images?start_time=1").status == 501
