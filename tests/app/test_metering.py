"""Every answer is paid for: what was computed, once, within budgets; and nothing before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bessemer.app.chat import Reply, respond, respond_each
from bessemer.app.embeddings import Embedded, EmbedRequest, EngineEmbedder, embed
from bessemer.app.metering import Meter
from bessemer.app.platform import Platform
from bessemer.app.responder import EngineResponder
from bessemer.core.errors import BudgetExceeded, EngineDied, EngineUnavailable, RateLimited
from bessemer.core.protocols import ChatRequest, TokenChunk
from bessemer.ledger.counts import Counts
from bessemer.ledger.ledger import Ledger
from bessemer.ledger.rate_limits import LimitOf, RateLimit, RateLimits
from bessemer.text.bpe import train_bpe
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer
from tests.fakes import FakeEngine, FakeResponder, FakeServing
from tests.ledger.house import set_budget, set_rate_limit
from tests.metered import PAYER, charge, rows_of

T = TypeVar("T")
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def meter(platform: Platform) -> Iterator[Meter]:
    charge(platform)
    meter = Meter.of(platform)
    yield meter
    meter.close()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_bpe(["hello world"] * 3, 300, tmp_path_factory.mktemp("tokenizer"))


def run(meter: Meter, work: Awaitable[T]) -> T:
    """Do it, and wait until what was entered is on disk."""

    async def whole() -> T:
        try:
            return await work
        finally:
            await meter.flush()

    return asyncio.run(whole())


def ask(meter: Meter, responder: FakeResponder, name: str = "r1", **fields: Any) -> Reply:
    request = ChatRequest(request_id=name, messages=HELLO, **fields)
    return respond(FakeServing({"tiny": responder}), PAYER, "tiny", request, meter=meter)


async def text_of(reply: Reply) -> str:
    return "".join([delta.text async for delta in reply])


def test_an_answer_is_reserved_at_its_most_and_charged_as_it_was(
    platform: Platform, meter: Meter
) -> None:
    assert run(meter, text_of(ask(meter, FakeResponder(), max_tokens=10))) == "Hello, world"
    (row,) = rows_of(platform)
    assert (row.id, row.state, row.kind, row.model) == ("r1", "settled", "chat", "tiny")
    assert row.used == Counts(prompt=7, completion=3) and (row.reserved, row.cost) == (10, 3)


def test_the_engine_is_cancelled_the_moment_a_budget_says_no(
    platform: Platform, meter: Meter
) -> None:
    """It would compute for ever: nobody waits for its first token to say so."""
    set_budget(platform.db, PAYER, "project", "total", 5)
    endless = FakeResponder(hold_after=0)
    with pytest.raises(BudgetExceeded, match=r"may cost 0\.00001, and 0\.000005 is left"):
        run(meter, text_of(ask(meter, endless, max_tokens=10)))
    assert (endless.opened, endless.closed) == (1, 1)
    assert rows_of(platform) == []


def test_who_was_refused_pays_first_and_is_computed_for_afterwards(
    platform: Platform, meter: Meter
) -> None:
    set_budget(platform.db, PAYER, "project", "total", 5)
    responder = FakeResponder()

    async def three() -> None:
        for most in (10, 10):
            with pytest.raises(BudgetExceeded):
                await text_of(ask(meter, responder, f"r{most}", max_tokens=most))
        said = responder.said
        with pytest.raises(BudgetExceeded):
            await text_of(ask(meter, responder, "again", max_tokens=10))
        assert responder.said == said
        assert await text_of(ask(meter, responder, "small", max_tokens=2)) == "Hello, "
        assert PAYER.project_id not in meter.refused

    run(meter, three())
    assert [row.id for row in rows_of(platform)] == ["small"]


class SlowLedger(Ledger):
    """Whose reservations wait for `go`."""

    def __init__(self, platform: Platform) -> None:
        super().__init__(platform.db)
        self.go: Callable[[], None] = lambda: None

    def reserve(self, *arguments: Any) -> Future[Any]:
        held: Future[Any] = Future()
        real = super().reserve(*arguments)
        self.go = lambda: held.set_result(real.result())
        return held


def test_the_engine_works_while_the_reservation_is_written_and_nothing_is_said_before(
    platform: Platform,
) -> None:
    charge(platform)
    with SlowLedger(platform) as ledger:
        meter, responder = Meter(ledger, RateLimits(platform.db)), FakeResponder()

        async def one() -> str:
            reply = ask(meter, responder)
            first = asyncio.create_task(anext(reply))
            while not responder.said:
                await asyncio.sleep(0)
            for _ in range(50):
                await asyncio.sleep(0)
            assert not first.done()
            ledger.go()
            text = (await first).text
            return text + await text_of(reply)

        assert run(meter, one()) == "Hello, world"


def test_of_200_at_once_exactly_50_fit_a_budget_for_50(platform: Platform, meter: Meter) -> None:
    set_budget(platform.db, PAYER, "project", "month", 50 * 3)
    responder = FakeResponder(hold_after=1)

    async def one(number: int) -> bool:
        try:
            await text_of(ask(meter, responder, f"r{number}", max_tokens=3))
        except BudgetExceeded:
            return False
        return True

    async def all_of_them() -> list[bool]:
        asked = [asyncio.create_task(one(number)) for number in range(200)]
        while sum(task.done() for task in asked) < 150:
            await asyncio.sleep(0.001)
        responder.go.set()
        return await asyncio.gather(*asked)

    assert sum(run(meter, all_of_them())) == 50
    rows = rows_of(platform)
    assert len(rows) == 50 and sum(row.cost or 0 for row in rows) == 150


def test_a_client_that_leaves_pays_for_what_was_computed(platform: Platform, meter: Meter) -> None:
    responder = FakeResponder(endless=True)

    async def leave() -> None:
        reply = ask(meter, responder, max_tokens=1000)
        for _ in range(4):
            await anext(reply)
        await reply.aclose()

    run(meter, leave())
    (row,) = rows_of(platform)
    assert row.state == "settled" and row.used == Counts(prompt=7, completion=4)


def test_a_client_that_leaves_before_the_first_token_pays_nothing(
    platform: Platform, meter: Meter
) -> None:
    async def leave() -> None:
        reply = ask(meter, FakeResponder(hold_after=0))
        first = asyncio.create_task(anext(reply))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.wait([first])
        await reply.aclose()

    run(meter, leave())
    (row,) = rows_of(platform)
    assert row.state == "released" and row.reason and "left" in row.reason


def test_a_failure_is_released_with_its_reason(platform: Platform, meter: Meter) -> None:
    broken = FakeResponder(error=EngineUnavailable("it broke"), error_after=2)
    with pytest.raises(EngineUnavailable):
        run(meter, text_of(ask(meter, broken)))
    (row,) = rows_of(platform)
    assert (row.state, row.reason) == ("released", "failed: engine_unavailable: it broke")


class DyingOnce(FakeResponder):
    """Whose engine dies under its first request, after some work."""

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Any, None]:
        died = self.opened == 0
        async for delta in super().respond(request):
            if died:
                raise EngineDied("gone")
            yield delta


def test_a_request_that_was_asked_twice_is_charged_once(platform: Platform, meter: Meter) -> None:
    assert run(meter, text_of(ask(meter, DyingOnce()))) == "Hello, world"
    (row,) = rows_of(platform)
    assert row.state == "settled" and row.used == Counts(prompt=7, completion=3)


def test_answers_to_one_prompt_are_one_request_that_pays_for_the_prompt_once(
    platform: Platform, meter: Meter
) -> None:
    requests = [
        ChatRequest(request_id=f"r-{i}", messages=HELLO, max_tokens=i + 1) for i in range(3)
    ]
    serving = FakeServing({"tiny": FakeResponder()})

    async def all_of_them() -> list[str]:
        replies = respond_each(serving, PAYER, "tiny", requests, meter=meter, charge_id="r")
        return await asyncio.gather(*map(text_of, replies))

    run(meter, all_of_them())
    (row,) = rows_of(platform)
    assert row.id == "r" and row.used == Counts(prompt=7, completion=1 + 2 + 3)


def test_an_engines_own_counts_are_charged_by_the_models_name(
    platform: Platform, meter: Meter, tokenizer: Tokenizer
) -> None:
    class Caching(FakeEngine):
        async def generate(self, request: Any) -> AsyncGenerator[TokenChunk, None]:
            count = len(request.prompt_ids)
            for made, end in ((2, None), (3, "length")):
                yield TokenChunk(
                    ids=[5] * (2 if end is None else 1), finish_reason=end,  # type: ignore[arg-type]
                    prompt_tokens=count, cached_tokens=count - 1, completion_tokens=made,
                )  # fmt: skip

    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}")
    responder = EngineResponder(Caching(), tokenizer, template, 64, model_name="its-name")
    serving = FakeServing({"tiny": responder})  # type: ignore[dict-item]
    request = ChatRequest(request_id="r1", messages=HELLO)
    reply = respond(serving, PAYER, "tiny", request, meter=meter, kind="batch")
    run(meter, text_of(reply))
    (row,) = rows_of(platform)
    prompt = len(tokenizer.encode("Hello"))
    assert row.used == Counts(prompt=1, cached=prompt - 1, completion=3)
    assert (row.model, row.kind, row.reserved) == ("its-name", "batch", 64 - prompt)


def test_vectors_are_charged_by_their_tokens_and_failures_are_not(
    platform: Platform, meter: Meter, tokenizer: Tokenizer
) -> None:
    def vectors(engine: FakeEngine, name: str) -> Awaitable[Embedded]:
        serving = FakeServing({}, embedders={"tiny": EngineEmbedder(engine, tokenizer, 64)})
        request = EmbedRequest(inputs=["hello", [1, 2]])
        return embed(serving, PAYER, "tiny", request, meter=meter, charge_id=name)

    run(meter, vectors(FakeEngine(), "good"))
    with pytest.raises(EngineUnavailable):
        run(meter, vectors(FakeEngine(error=EngineUnavailable("no")), "bad"))
    good, bad = rows_of(platform)
    assert good.used == Counts(prompt=len(tokenizer.encode_document("hello")) + 2)
    assert (good.kind, bad.state) == ("embedding", "released")


def test_a_rate_limit_counts_what_may_be_used_and_gives_back_what_was_not(
    platform: Platform,
) -> None:
    charge(platform)
    whose = LimitOf(f"project:{PAYER.project_id}", "*")
    set_rate_limit(platform.db, PAYER, whose, RateLimit(requests=3, tokens=40))
    clock = [0.0]
    with Ledger(platform.db) as ledger:
        meter = Meter(ledger, RateLimits(platform.db, lambda: clock[0]))

        async def three() -> None:
            with pytest.raises(RateLimited, match="needs 57"):
                await text_of(ask(meter, FakeResponder(), "much", max_tokens=50))
            reply = ask(meter, FakeResponder(), "r1", max_tokens=20)
            await text_of(reply)
            assert reply.taken.tokens_standing and reply.taken.tokens_standing.left == 40 - 27
            await text_of(ask(meter, FakeResponder(), "r2", max_tokens=20))  # 40 - 10 were left
            await text_of(ask(meter, FakeResponder(), "r3", max_tokens=1))
            with pytest.raises(RateLimited, match="requests per minute") as refused:
                await text_of(ask(meter, FakeResponder(), "r4", max_tokens=1))
            assert refused.value.retry_after_s == pytest.approx(20)
            clock[0] += 20
            await text_of(ask(meter, FakeResponder(), "r4", max_tokens=1))

        run(meter, three())
    assert [row.id for row in rows_of(platform)] == ["r1", "r2", "r3", "r4"]


ENDS = st.sampled_from(["whole", "leave", "early", "broken", "died"])


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(ENDS, st.integers(1, 5)), min_size=1, max_size=12))
def test_however_requests_end_each_is_settled_or_released_and_all_adds_up(
    platform: Platform, meter: Meter, ways: list[tuple[str, int]]
) -> None:
    set_budget(platform.db, PAYER, "org", "total", None)
    begun = time.time_ns()

    async def one(number: int, way: str, most: int) -> None:
        fault = {"broken": EngineUnavailable("it broke"), "died": EngineDied("gone")}.get(way)
        responder = FakeResponder(
            endless=True, error=fault, error_after=1, hold_after=0 if way == "early" else None
        )
        reply = ask(meter, responder, f"{begun}_{number}", max_tokens=most)
        if way == "early":
            task = asyncio.create_task(anext(reply))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        elif way == "leave":
            await anext(reply)
        else:
            try:
                await text_of(reply)
            except EngineUnavailable:
                assert fault is not None
        await reply.aclose()

    async def all_of_them() -> None:
        await asyncio.gather(*(one(i, way, most) for i, (way, most) in enumerate(ways)))

    run(meter, all_of_them())
    rows = {row.id: row for row in rows_of(platform) if row.id.startswith(f"{begun}_")}
    for number, (way, most) in enumerate(ways):
        row = rows.pop(f"{begun}_{number}", None)
        if row is None:
            assert way == "early"  # it left before anything was reserved
            continue
        expected = {"whole": ("settled", most), "leave": ("settled", 1)}
        assert (row.state, row.cost) == expected.get(way, ("released", None)), (way, most)
    assert not rows
