"""What `/metrics` says is what was done, in the format that Prometheus reads."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from bessemer.app.background import Background
from bessemer.app.latencies import FIRST_BOUNDS_S, Histogram, Latencies
from bessemer.app.platform import Platform
from bessemer.core.home import Home
from bessemer.gateway.asgi import build
from bessemer.gateway.exchange import ASGIApp
from bessemer.gateway.resources import resource_routes
from tests.fakes import FakeResponder, FakeServing
from tests.gateway.calling import CHAT_KEY, FakeKeyRing, acall, app_of, call, chat

LINE = re.compile(r'[a-z_]+\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\} [0-9.e+-]+')


def scraped(app: ASGIApp) -> dict[str, float]:
    answer = call(app, "/metrics", method="GET")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in answer.body.decode().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_requests_are_counted_by_route_and_status() -> None:
    app = app_of(FakeResponder())
    chat(app)
    chat(app, stream=True)
    chat(app, model="nope")
    call(app, "/v1/made/up/by/a/caller")
    call(app, "/v1/models/tiny", method="GET")
    found = scraped(app)
    counted = {key: value for key, value in found.items() if "http_requests" in key}
    assert counted == {
        'bessemer_http_requests_total{route="/v1/chat/completions",status="200"}': 2,
        'bessemer_http_requests_total{route="/v1/chat/completions",status="404"}': 1,
        'bessemer_http_requests_total{route="/v1/models/{id}",status="200"}': 1,
        'bessemer_http_requests_total{route="unknown",status="404"}': 1,
    }


def test_latencies_are_counted_for_names_that_answered_whole_or_streamed() -> None:
    app = app_of(FakeResponder(["a", "b", "c"]))
    for stream in (False, True):
        chat(app, stream=stream)
    chat(app, model="nope")
    found = scraped(app)
    assert found['bessemer_first_token_seconds_count{model="tiny"}'] == 2
    # Three pieces and the last one, which has the counts: three gaps.
    assert found['bessemer_inter_token_seconds_count{model="tiny"}'] == 6
    assert found['bessemer_first_token_seconds_bucket{model="tiny",le="+Inf"}'] == 2
    assert not [name for name in found if "nope" in name]


def test_responses_are_among_the_latencies(tmp_path: Path) -> None:
    serving, latencies = FakeServing({"tiny": FakeResponder(["a", "b", "c"])}), Latencies()
    with Platform.open(Home(tmp_path / "home")) as platform:
        background = Background(platform, serving, latencies=latencies)
        routes = resource_routes(
            platform, serving=serving, background=background, latencies=latencies
        )
        app = build(serving, FakeKeyRing(), routes=routes, latencies=latencies)
        chat(app)

        async def ask() -> None:
            body = {"model": "tiny", "input": "Hi"}
            for more in ({}, {"stream": True}, {"background": True}):
                await acall(app, "/v1/responses", body | more)
            while sum(_first(latencies)) < 4:
                await asyncio.sleep(0.001)
            await background.close()

        asyncio.run(asyncio.wait_for(ask(), 10))
        found = scraped(app)
    assert found['bessemer_first_token_seconds_count{model="tiny"}'] == 4


def _first(latencies: Latencies) -> list[int]:
    return latencies.of("tiny").first.counts


def test_engines_say_what_they_hold_and_did() -> None:
    responders = {"a": FakeResponder(), "b": FakeResponder()}
    found = scraped(app_of(FakeServing(responders, states={"b": "sleeping"})))
    assert found['bessemer_engine_running{model="a"}'] == 2
    assert found['bessemer_engine_kv_tokens{model="a"}'] == 30
    assert found['bessemer_engine_steps_total{model="a"}'] == 5
    assert found['bessemer_engine_queued_seconds_total{model="a"}'] == 1.5
    assert found['bessemer_engine_state{model="a",state="ready"}'] == 1
    assert found['bessemer_engine_state{model="b",state="sleeping"}'] == 1
    assert found['bessemer_engine_need_bytes{model="b"}'] == 1000
    assert 'bessemer_engine_running{model="b"}' not in found


def test_labels_are_escaped() -> None:
    body = call(app_of(FakeServing({'a"\n\\': FakeResponder()})), "/metrics", method="GET").body
    assert b'{model="a\\"\\n\\\\"}' in body


def test_a_server_that_others_reach_asks_for_a_key() -> None:
    serving = FakeServing({"tiny": FakeResponder()})
    shut = build(serving, FakeKeyRing())
    assert call(shut, "/metrics", method="GET", key=None).status == 401
    assert call(shut, "/metrics", method="GET", key=CHAT_KEY).status == 403
    assert call(shut, "/metrics", method="GET").status == 200
    opened = build(serving, FakeKeyRing(), open_metrics=True)
    assert call(opened, "/metrics", method="GET", key=None).status == 200
    assert call(opened, "/metrics", method="POST", key=None).status == 405


def test_a_histogram_counts_up_to_each_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    assert (histogram.counts, histogram.total) == ([2, 1, 1], 12.0)
    latencies = Latencies()
    for name in range(1_100):
        latencies.watch(str(name)).piece()
    assert len(latencies.models) == 1_001
    assert sum(latencies.of("another").first.counts) == 100
    assert len(latencies.of("5").first.counts) == len(FIRST_BOUNDS_S) + 1
