"""How patiently an eval asks a model."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from bessemer.app.embeddings import Embedded, EmbedRequest
from bessemer.app.eval_answers import TRIES_WHEN_BUSY, ask
from bessemer.app.platform import Platform
from bessemer.core.errors import Busy, RateLimited
from bessemer.core.home import Home
from bessemer.core.protocols import ChatRequest, Delta
from tests.app.evals_world import ME, define, finish_all, rows, submit
from tests.fakes import FakeResponder, FakeServing

REQUEST = ChatRequest(request_id="", messages=[{"role": "user", "content": "Hi"}])


class Refusing(FakeResponder):
    """Refuses so often before it answers."""

    def __init__(self, fault: Exception, times: int) -> None:
        super().__init__(["Hi"])
        self._fault, self._times = fault, times

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        if len(self.requests) < self._times:
            self.requests.append(request)
            raise self._fault
        async for delta in super().respond(request):
            yield delta


async def test_a_rate_limit_is_waited_for_however_often_others_are_first() -> None:
    model = Refusing(RateLimited("slow", retry_after_s=0.001, never=False), 3 * TRIES_WHEN_BUSY)
    answer = await ask(FakeServing({"m": model}), ME, "m", REQUEST)
    assert (answer.text, len(model.requests)) == ("Hi", 3 * TRIES_WHEN_BUSY + 1)


async def test_what_never_fits_a_limit_is_told_at_once() -> None:
    model = Refusing(RateLimited("It never fits.", retry_after_s=60, never=True), 1)
    began_s = time.monotonic()
    with pytest.raises(RateLimited, match="never fits"):
        await ask(FakeServing({"m": model}), ME, "m", REQUEST)
    assert time.monotonic() - began_s < 5


async def test_a_full_engine_is_asked_some_times() -> None:
    model = Refusing(Busy("full", retry_after_s=0.001), 1000)
    with pytest.raises(Busy):
        await ask(FakeServing({"m": model}), ME, "m", REQUEST)
    assert len(model.requests) == TRIES_WHEN_BUSY + 1


class Full:
    """Implements `Embedder`: is full, once."""

    def __init__(self) -> None:
        self.asked = 0

    async def embed(self, request: EmbedRequest) -> Embedded:
        self.asked += 1
        if self.asked == 1:
            raise Busy("full", retry_after_s=0.001)
        return Embedded([[1.0, 0.0], [1.0, 0.0]], 2)


async def test_vectors_are_waited_for_as_answers_are(tmp_path: Path) -> None:
    alike = {
        "type": "text_similarity", "name": "alike", "evaluation_metric": "cosine",
        "input": "{{sample.output_text}}", "reference": "Hi", "pass_threshold": 0.9,
        "embedding_model": "vectors",
    }  # fmt: skip
    embedder = Full()
    serving = FakeServing({"m": FakeResponder()}, embedders={"vectors": embedder})
    with Platform.open(Home(tmp_path / "home")) as platform:
        run = submit(platform, define(platform, alike), rows(1))
        found = await finish_all(platform, serving, run.id)
    assert (found.tally.passed, embedder.asked) == (1, 2)
