"""Background responses: they outlive their client, are followed, cancelled, and never lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from bessemer.app import background, responses
from bessemer.app.background import Background
from bessemer.app.metering import Meter
from bessemer.app.platform import Platform
from bessemer.core.errors import Busy, ContextLengthExceeded
from bessemer.core.home import Home
from bessemer.core.principal import Principal
from bessemer.core.protocols import ChatRequest, Delta
from bessemer.gateway.asgi import build
from bessemer.gateway.exchange import ASGIApp
from bessemer.gateway.resources import resource_routes
from bessemer.ledger.counts import Counts
from bessemer.ledger.rate_limits import ANY_MODEL, LimitOf, RateLimit, set_rate_limit
from tests.fakes import FakeResponder, FakeServing
from tests.gateway import specification
from tests.gateway.calling import CHAT_KEY, KEY, FakeKeyRing, acall, call, running
from tests.metered import charge, rows_of
from tests.unreachable import away

ME = Principal("org", "p1", "u1", frozenset({"*"}))
SAID = ["a", "b", "c"]


class FullAtFirst(FakeResponder):
    """As an engine is: the prompt is known, and paid for, before it is queued."""

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        if self.opened < 2:
            self.opened += 1
            if request.tally is not None:
                await request.tally.expect(None, 7, 3)
            raise Busy("full", retry_after_s=0.01)
        async for delta in super().respond(request):
            yield delta


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with Platform.open(Home(tmp_path / "home")) as found:
        yield found


class House:
    """An application whose model `held` says two words and waits for `held.go`."""

    def __init__(self, platform: Platform, **options: Any) -> None:
        self.held = FakeResponder(SAID, hold_after=2)
        self.serving = FakeServing(
            {
                "held": self.held,
                "tiny": FakeResponder(SAID),
                "full": FullAtFirst(SAID),
                "long": FakeResponder(error=ContextLengthExceeded("9 > 8")),
                "broken": FakeResponder(["a"], error=ZeroDivisionError("x"), error_after=1),
            }
        )
        self.background = Background(platform, self.serving, **options)
        routes = resource_routes(platform, serving=self.serving, background=self.background)
        self.app: ASGIApp = build(self.serving, FakeKeyRing(), routes=routes)

    async def ask(self, model: str, **fields: object) -> dict[str, Any]:
        body = {"model": model, "input": "Hi", "background": True, **fields}
        answer = await acall(self.app, "/v1/responses", body)
        assert answer.status == 200, answer
        specification.check("Response", answer.json())
        found: dict[str, Any] = answer.json()
        return found

    async def get(self, response_id: str) -> dict[str, Any]:
        answer = await acall(self.app, f"/v1/responses/{response_id}", method="GET")
        specification.check("Response", answer.json())
        found: dict[str, Any] = answer.json()
        return found

    async def until(self, response_id: str, *statuses: str) -> dict[str, Any]:
        async with asyncio.timeout(10):
            while (found := await self.get(response_id))["status"] not in statuses:
                await asyncio.sleep(0.005)
        return found


def test_it_is_queued_at_once_and_completed_later(platform: Platform) -> None:
    async def run() -> None:
        house = House(platform)
        asked = await house.ask("held", metadata={"a": "b"})
        assert (asked["status"], asked["output"], asked["background"]) == ("queued", [], True)
        await house.until(asked["id"], "in_progress")
        house.held.go.set()
        done = await house.until(asked["id"], "completed")
        assert done["output"][0]["content"][0]["text"] == "abc"
        assert done["metadata"] == {"a": "b"} and done["usage"]["output_tokens"] == 3

    asyncio.run(run())


def test_only_so_many_are_answered_at_a_time(platform: Platform) -> None:
    async def run() -> None:
        house = House(platform, most_at_once=1)
        first, second = await house.ask("held"), await house.ask("tiny")
        await house.until(first["id"], "in_progress")
        assert (await house.get(second["id"]))["status"] == "queued"
        house.held.go.set()
        await house.until(second["id"], "completed")

    asyncio.run(run())


def test_a_full_engine_is_asked_again_and_other_faults_are_told(platform: Platform) -> None:
    async def run() -> None:
        house = House(platform)
        full, long, broken = [await house.ask(name) for name in ("full", "long", "broken")]
        assert (await house.until(full["id"], "completed"))["error"] is None
        assert (await house.until(long["id"], "failed"))["error"]["code"] == "invalid_prompt"
        failed = await house.until(broken["id"], "failed")
        assert failed["error"]["code"] == "server_error" and broken["id"] in str(failed["error"])
        assert failed["output"][0]["status"] == "incomplete"
        unknown = await house.ask("0123456789ab")  # may be the beginning of a digest
        assert "0123456789ab" in (await house.until(unknown["id"], "failed"))["error"]["message"]

    asyncio.run(run())


def test_each_try_at_a_full_engine_is_reserved_and_the_last_is_charged(platform: Platform) -> None:
    charge(platform)
    meter = Meter.of(platform)

    async def run() -> None:
        house = House(platform, meter=meter)
        done = await house.until((await house.ask("full"))["id"], "completed", "failed")
        assert (done["status"], done["error"]) == ("completed", None)
        await meter.flush()

    asyncio.run(run())
    meter.close()
    rows = rows_of(platform)
    assert [row.state for row in rows] == ["released", "released", "settled"]
    assert rows[-1].used == Counts(7, 0, 3)


def test_one_that_never_fits_a_rate_limit_does_not_wait_for_it(platform: Platform) -> None:
    with platform.db.write() as connection:
        of = LimitOf(f"project:{ME.project_id}", ANY_MODEL)
        set_rate_limit(connection, ME, of, RateLimit(tokens=5))
    charge(platform)
    meter = Meter.of(platform)

    async def run() -> None:
        house = House(platform, meter=meter)
        done = await house.until((await house.ask("tiny"))["id"], "failed")
        assert done["error"]["code"] == "rate_limit_exceeded"
        assert "never fits" in done["error"]["message"]

    asyncio.run(run())
    meter.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_is_not_there_is_said_at_once(platform: Platform, stream: bool) -> None:
    body = {"model": "nope", "input": "Hi", "background": True, "stream": stream}
    answer = call(House(platform).app, "/v1/responses", body)
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")


def test_a_key_that_may_only_chat_asks_in_the_background(platform: Platform) -> None:
    app = House(platform).app
    body = {"model": "tiny", "input": "Hi", "background": True}
    assert call(app, "/v1/responses", body, key=CHAT_KEY).json()["status"] == "queued"


def test_a_stream_goes_on_where_its_client_left_it(platform: Platform) -> None:
    house = House(platform)
    with running(house.app) as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)
        stream = client.responses.create(model="held", input="Hi", background=True, stream=True)
        first = [next(stream) for _ in range(6)]
        stream.close()  # the client leaves; the response goes on
        response_id = first[0].response.id  # type: ignore[union-attr]
        server.do(house.held.go.set)
        rest = list(client.responses.retrieve(response_id, stream=True, starting_after=5))
        again = list(client.responses.retrieve(response_id, stream=True))
    names = [event.type.removeprefix("response.") for event in (*first, *rest)]
    assert names == [
        "created", "queued", "in_progress", "output_item.added", "content_part.added",
        "output_text.delta", "output_text.delta", "output_text.delta", "output_text.done",
        "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in (*first, *rest)] == list(range(12))
    assert [event.to_dict() for event in again] == [event.to_dict() for event in (*first, *rest)]
    for event in again:
        specification.check("ResponseStreamEvent", event.to_dict())


def test_another_server_tells_a_finished_stream_again(platform: Platform) -> None:
    async def run() -> None:
        house, next_house = House(platform), House(platform)
        answer = await acall(
            house.app,
            "/v1/responses",
            {"model": "tiny", "input": "Hi", "background": True, "stream": True},
        )
        response_id = answer.body.decode().split('"id":"')[1].split('"')[0]
        scope = f"/v1/responses/{response_id}"
        pieces = [p async for p in next_house.background.follow(ME, response_id)]
        assert isinstance(pieces[-1], responses.Ended)
        assert pieces[-1].response.status == "completed"
        assert (await acall(next_house.app, scope, method="GET")).json()["status"] == "completed"

    asyncio.run(run())


def test_one_that_was_no_stream_cannot_become_one(platform: Platform) -> None:
    house = House(platform)
    with running(house.app) as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)
        made = client.responses.create(model="tiny", input="Hi", background=True)
        with pytest.raises(openai.BadRequestError, match="stream"):
            client.responses.retrieve(made.id, stream=True)


def test_cancel_keeps_what_was_said_and_frees_the_engine(platform: Platform) -> None:
    async def run() -> None:
        house = House(platform)
        asked = await house.ask("held", stream=False)
        await house.until(asked["id"], "in_progress")
        cancel = f"/v1/responses/{asked['id']}/cancel"
        cancelled = (await acall(house.app, cancel)).json()
        specification.check("Response", cancelled)
        assert cancelled["status"] == "cancelled"
        assert cancelled["output"][0]["content"][0]["text"] == "ab"
        assert house.held.closed == house.held.opened == 1
        assert (await acall(house.app, cancel)).json() == cancelled, "twice is once"
        goes_on = {"model": "tiny", "input": "Hi", "previous_response_id": asked["id"]}
        assert (await acall(house.app, "/v1/responses", goes_on)).status == 400

    asyncio.run(run())


def test_one_under_way_is_stopped_when_it_is_deleted(platform: Platform) -> None:
    async def run() -> None:
        house = House(platform)
        asked = await house.ask("held")
        await house.until(asked["id"], "in_progress")
        one = f"/v1/responses/{asked['id']}"
        assert (await acall(house.app, one, method="DELETE")).json()["deleted"]
        assert (await acall(house.app, one, method="GET")).status == 404
        assert house.held.closed == 1

    asyncio.run(run())


def test_a_server_that_stops_fails_what_is_under_way(platform: Platform) -> None:
    async def run() -> None:
        house = House(platform)
        going, waiting = await house.ask("held"), await house.ask("held")
        await house.until(going["id"], "in_progress")
        await house.background.close()
        for asked in (going, waiting):
            found = await house.get(asked["id"])
            assert found["status"] == "failed" and "server stopped" in found["error"]["message"]

    asyncio.run(run())


def test_what_ends_while_the_database_is_away_is_told_when_it_is_back(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "WAITS_S", (0.01,) * 500)

    async def run() -> None:
        house = House(platform)
        asked = await house.ask("held")
        await house.until(asked["id"], "in_progress")
        with away(platform.db):
            house.held.go.set()
            while house.held.closed == 0:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
        failed = await house.until(asked["id"], "failed")
        assert "database does not answer" in failed["error"]["message"]
        assert failed["output"][0]["content"][0]["text"] == "abc"

    asyncio.run(run())


def test_what_a_killed_server_left_is_failed_by_the_next(platform: Platform) -> None:
    async def killed() -> str:
        house = House(platform)
        asked = await house.ask("held")
        await house.until(asked["id"], "in_progress")
        (live,) = house.background._live.values()
        live.task.cancel()
        live.run.end = lambda *_a, **_k: asyncio.sleep(0)  # type: ignore[method-assign,assignment]
        await asyncio.wait([live.task])  # it is gone without a last word
        assert (await house.get(asked["id"]))["status"] == "in_progress"
        return str(asked["id"])

    async def later(response_id: str) -> None:
        house = House(platform)
        done = await house.ask("tiny")
        await house.until(done["id"], "completed")
        await house.background.start()
        found = await house.get(response_id)
        assert found["status"] == "failed" and "server stopped" in found["error"]["message"]
        assert (await house.get(done["id"]))["status"] == "completed"

    asyncio.run(later(asyncio.run(killed())))
