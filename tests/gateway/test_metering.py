"""What is asked over HTTP is paid for: counts, budgets, limits and their headers, and kill -9."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from bessemer.app.metering import Meter
from bessemer.app.platform import Platform
from bessemer.core.errors import DeadlineExceeded
from bessemer.core.home import Home
from bessemer.gateway.limit_headers import duration
from bessemer.ledger.counts import Counts
from bessemer.ledger.ledger import Ledger, unsettled
from bessemer.ledger.rate_limits import LimitOf, RateLimit
from tests.fakes import FakeResponder, FakeServing
from tests.gateway.calling import KEY, MESSAGES, Running, app_of, call, chat, complete, running
from tests.ledger.house import set_budget, set_rate_limit
from tests.metered import PAYER, charge, rows_of

ROOT = Path(__file__).parents[2]
COUNTED: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with Platform.open(Home(tmp_path / "home")) as platform:
        charge(platform)
        yield platform


@contextlib.contextmanager
def metered(platform: Platform) -> Iterator[Meter]:
    """Everything is on disk after it."""
    meter = Meter.of(platform)
    yield meter
    meter.close()


def test_every_kind_of_request_is_charged_what_its_usage_says(platform: Platform) -> None:
    with metered(platform) as meter:
        app = app_of(FakeResponder(), meter=meter)
        told = [
            chat(app).json()["usage"],
            chat(app, n=3, max_tokens=2).json()["usage"],
            complete(app, prompt=["Hi", "Ho"], best_of=2).json()["usage"],
            chat(app, **COUNTED).events()[-2]["usage"],
        ]
    rows = rows_of(platform)
    assert [row.kind for row in rows].count("chat") == 3
    assert {row.state for row in rows} == {"settled"}
    used = Counts(*map(sum, zip(*(row.used for row in rows if row.used), strict=True)))
    assert used.prompt == sum(usage["prompt_tokens"] for usage in told)
    assert used.completion == sum(usage["completion_tokens"] for usage in told)


def test_what_a_model_thinks_and_does_not_say_is_a_class_of_its_own(platform: Platform) -> None:
    with metered(platform) as meter:
        app = app_of(FakeResponder(reasoning_tokens=5), meter=meter)
        one, two = chat(app, n=2).json()["usage"], chat(app, **COUNTED).events()[-2]["usage"]
    assert (one["completion_tokens"], two["completion_tokens"]) == (16, 8)
    details = [usage["completion_tokens_details"] for usage in (one, two)]
    assert details == [{"reasoning_tokens": 10}, {"reasoning_tokens": 5}]
    used = [row.used for row in rows_of(platform)]
    assert used == [
        Counts(prompt=7, completion=6, reasoning=10),
        Counts(prompt=7, completion=3, reasoning=5),
    ]


def test_a_request_is_found_by_the_id_of_its_answer(platform: Platform) -> None:
    with metered(platform) as meter:
        answer = chat(app_of(FakeResponder(), meter=meter))
    (row,) = rows_of(platform)
    assert row.id == answer.headers["x-request-id"]
    assert answer.json()["id"].removeprefix("chatcmpl-") == row.id.removeprefix("req_")


def test_a_budget_that_is_spent_is_a_429_that_is_not_tried_again(platform: Platform) -> None:
    set_budget(platform.db, PAYER, "project", "month", 2)
    with metered(platform) as meter:
        app = app_of(FakeResponder(), meter=meter)
        for fields in ({}, {"stream": True}):
            refused = chat(app, max_tokens=3, **fields)
            assert (refused.status, refused.error["code"]) == (429, "insufficient_quota")
            assert refused.headers["x-should-retry"] == "false"
        assert chat(app, max_tokens=2).status == 200
    assert [row.cost for row in rows_of(platform)] == [2]


@pytest.mark.parametrize("stream", [False, True])
def test_of_several_prompts_none_is_paid_for_where_one_is_refused(
    platform: Platform, stream: bool
) -> None:
    # Room for the tokens of three of them.
    set_rate_limit(platform.db, PAYER, LimitOf("project:p1", "*"), RateLimit(tokens=35))
    with metered(platform) as meter:
        app = app_of(FakeResponder(), meter=meter)
        refused = complete(app, prompt=["a"] * 5, max_tokens=3, stream=stream)
        assert refused.status == 429
        # Not four of them fit, so it is not tried again.
        assert refused.headers["x-should-retry"] == "false"
        assert "needs 40. It never fits" in refused.error["message"]
        assert complete(app, max_tokens=3).status == 200, "what was not used flows back"
    *rows, last = rows_of(platform)
    assert [(row.state, row.cost) for row in rows] == [("released", None)] * 3
    assert all(row.reason and "failed: rate_limit_exceeded" in row.reason for row in rows)
    assert last.state == "settled"


def test_each_prompt_is_a_request_of_the_limit_and_all_fit_or_none(platform: Platform) -> None:
    set_rate_limit(platform.db, PAYER, LimitOf("project:p1", "*"), RateLimit(requests=6))
    with metered(platform) as meter:
        app = app_of(FakeResponder(), meter=meter)
        never = complete(app, prompt=["a"] * 7)
        assert never.status == 429 and "needs 7. It never fits" in never.error["message"]
        assert never.headers["x-should-retry"] == "false"
        assert complete(app, prompt=["a"] * 4).headers["x-ratelimit-remaining-requests"] == "2"
        assert complete(app, prompt=["a"] * 3).status == 429
        assert complete(app, prompt=["a"] * 2).headers["x-ratelimit-remaining-requests"] == "0"
    assert [row.state for row in rows_of(platform)] == ["settled"] * 6


def test_an_answer_that_its_own_time_cut_short_is_paid_for_as_far_as_it_came(
    platform: Platform,
) -> None:
    late = FakeResponder(error=DeadlineExceeded("1 s were given"), error_after=2)
    with metered(platform) as meter:
        told = chat(app_of(late, meter=meter), stream=True, timeout=1).events()
    assert told[-1]["error"]["code"] == "deadline_exceeded"
    (row,) = rows_of(platform)
    assert row.state == "settled" and row.used == Counts(prompt=7, completion=2)


def test_limits_are_told_in_headers_and_refuse_with_429(platform: Platform) -> None:
    set_rate_limit(
        platform.db, PAYER, LimitOf("project:p1", "*"), RateLimit(requests=2, tokens=6000)
    )
    with metered(platform) as meter:
        app = app_of(FakeResponder(), meter=meter)
        first = chat(app, max_tokens=93, stream=True)
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert first.headers["x-ratelimit-reset-requests"].endswith("s")
        assert first.headers["x-ratelimit-limit-tokens"] == "6000"
        assert first.headers["x-ratelimit-remaining-tokens"] == "5900"
        assert first.headers["x-ratelimit-reset-tokens"] == "1s"
        assert chat(app).headers["x-ratelimit-remaining-requests"] == "0"
        refused = chat(app)
        assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
        assert 25 <= int(refused.headers["retry-after"]) <= 30
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        large = chat(app, max_tokens=7000)
        assert large.status == 429 and large.headers["x-should-retry"] == "false"
    assert len(rows_of(platform)) == 2


def test_without_limits_there_are_no_headers_of_them(platform: Platform) -> None:
    with metered(platform) as meter:
        assert not [h for h in chat(app_of(FakeResponder(), meter=meter)).headers if "limit" in h]


def test_a_spelled_duration() -> None:
    assert [duration(s) for s in (0, 0.0204, 8.64, 59.999, 360)] == [
        "0ms", "20ms", "8.64s", "1m0s", "6m0s",
    ]  # fmt: skip


def test_of_200_parallel_requests_exactly_50_fit_a_budget_for_50(platform: Platform) -> None:
    set_budget(platform.db, PAYER, "project", "month", 50 * 3)
    responder = FakeResponder(hold_after=0)

    async def one(client: openai.AsyncOpenAI) -> bool:
        try:
            await client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=3)  # type: ignore[arg-type]
        except openai.RateLimitError as fault:
            assert fault.code == "insufficient_quota"
            return False
        return True

    async def all_of_them(server: Running) -> int:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY) as client:
            asked = [asyncio.create_task(one(client)) for _ in range(200)]
            while sum(task.done() for task in asked) < 150:
                await asyncio.sleep(0.005)
            server.do(responder.go.set)
            return sum(await asyncio.gather(*asked))

    with metered(platform) as meter, running(app_of(responder, meter=meter)) as server:
        assert asyncio.run(all_of_them(server)) == 50
    rows = rows_of(platform)
    assert len(rows) == 50 and {row.state for row in rows} == {"settled"}


def test_two_servers_on_one_database_pass_50_of_200_together(platform: Platform) -> None:
    """Each with connections and a ledger of its own, as two machines have on PostgreSQL."""
    set_budget(platform.db, PAYER, "project", "month", 50 * 3)

    async def one(client: openai.AsyncOpenAI) -> bool:
        try:
            await client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=3)  # type: ignore[arg-type]
        except openai.RateLimitError as fault:
            assert fault.code == "insufficient_quota"
            return False
        return True

    async def all_of_them(urls: list[str]) -> int:
        async with contextlib.AsyncExitStack() as stack:
            clients = [openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY) for url in urls]
            for client in clients:
                stack.push_async_callback(client.close)
            return sum(await asyncio.gather(*(one(clients[n % 2]) for n in range(200))))

    with contextlib.ExitStack() as stack:
        urls = []
        for _ in range(2):
            other = stack.enter_context(Platform.open(platform.home))
            app = app_of(FakeResponder(["a"] * 3), meter=stack.enter_context(metered(other)))
            urls.append(stack.enter_context(running(app)).url)
        assert asyncio.run(all_of_them(urls)) == 50
    assert [row.state for row in rows_of(platform)] == ["settled"] * 50


def test_a_client_that_leaves_a_stream_pays_for_what_was_computed(platform: Platform) -> None:
    responder = FakeResponder(["word "] * 5, hold_after=4)
    with metered(platform) as meter, running(app_of(responder, meter=meter)) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY)
        stream = client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)  # type: ignore[call-overload]
        for _ in range(5):
            next(stream)
        stream.close()
        client.close()
    (row,) = rows_of(platform)
    assert row.state == "settled" and row.used == Counts(prompt=7, completion=4)


@contextlib.asynccontextmanager
async def load(url: str, answered: list[str]) -> AsyncIterator[None]:
    """Callers without end; the ids of what was answered whole."""

    async def ask(client: openai.AsyncOpenAI, stream: bool) -> None:
        while True:
            fields: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "stream": stream}
            raw = await client.chat.completions.with_raw_response.create(**fields)
            if stream:
                async for _ in raw.parse():
                    pass
            answered.append(raw.headers["x-request-id"])

    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        callers = [asyncio.create_task(ask(client, bool(i % 2))) for i in range(16)]
        yield
        for end in await asyncio.gather(*callers, return_exceptions=True):
            # Each ends when its connection does, and not because of an answer.
            assert isinstance(end, openai.APIConnectionError | httpx2.HTTPError), repr(end)


async def serve_and_kill(home: Path, answered: list[str], wait_s: float) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.gateway.drill", str(home)],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        url = await asyncio.to_thread(server.stdout.readline)
        async with load(url.strip(), answered):
            await asyncio.sleep(wait_s)  # the moment of the kill is the test's subject
            server.kill()
    finally:
        server.kill()
        assert server.wait() == -9


def drill(platform: Platform, kills: int) -> None:
    answered: list[str] = []
    for _ in range(kills):
        asyncio.run(serve_and_kill(platform.home.root, answered, random.uniform(0.1, 0.5)))
        rows = {row.id: row for row in rows_of(platform)}  # which checks that all adds up
        assert set(answered) <= rows.keys(), "an answer was given that nobody paid for"
        assert {row.state for row in rows.values()} <= {"settled", "released", "open"}
        assert all(row.cost == 8 for row in rows.values() if row.state == "settled")
    assert answered and any(row.state == "settled" for row in rows_of(platform))
    left = unsettled(platform.db)
    assert left, "no kill left a request open: the drill did not bite"
    with Ledger(platform.db) as ledger:
        for row in left:
            ledger.release(row.id, "operator", "killed").result()
    assert unsettled(platform.db) == [] and rows_of(platform)


def test_two_kills_of_a_server_lose_nothing_and_charge_nothing_twice(platform: Platform) -> None:
    drill(platform, kills=2)


@pytest.mark.slow
def test_twenty_kills_of_a_server(platform: Platform) -> None:
    drill(platform, kills=20)


def test_vectors_are_charged_too(platform: Platform) -> None:
    from bessemer.app.embeddings import Embedded, EmbedRequest

    class Embedder:
        async def embed(self, request: EmbedRequest) -> Embedded:
            assert request.tally is not None
            await request.tally.expect("its-name", 4, 0)
            return Embedded([[1.0]], 4)

    with metered(platform) as meter:
        serving = FakeServing({}, embedders={"tiny": Embedder()})
        answer = call(
            app_of(serving, meter=meter), "/v1/embeddings", {"model": "tiny", "input": "x"}
        )
    (row,) = rows_of(platform)
    assert row.id == answer.headers["x-request-id"] and row.used == Counts(prompt=4)
    assert (row.kind, row.model) == ("embedding", "its-name")
