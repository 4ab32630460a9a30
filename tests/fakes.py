"""A fake engine, responder and serving: small real classes that keep the protocols' promises.

They answer at once and the same each time, remember what they were asked, and can be told to
fail, or to wait until the test lets them go on.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path

from bessemer.app.chat import (
    MODELS_SCOPE,
    EngineFigures,
    ModelHealth,
    ModelState,
    ServedModel,
    no_such_model,
)
from bessemer.app.embeddings import Embedder
from bessemer.core.errors import AdapterNotLoaded, ContextLengthExceeded
from bessemer.core.principal import Principal
from bessemer.core.protocols import (
    ChatRequest,
    Delta,
    EngineInfo,
    FinishReason,
    GenerateRequest,
    Pooling,
    TextLogprob,
    TokenChunk,
    TokenLogprob,
    Usage,
)

FAKE_DIGEST = "sha256:" + "0123456789ab" + "0" * 52


class FakeEngine:
    """Implements `AdapterEngine`: answers with the ids `answer` says, `step` of them a chunk.

    An answer ends with "stop" at a stop id or where `answer` ends, with "length" at `max_tokens`.
    Every token has log-probability -1, and the tokens `id + 1, id + 2 ...` follow as `top`.

    Args:
        answer: the ids to say, or a function of the request that gives them.
        step: tokens a chunk.
        hold_after: wait for `go` before the token of this number.
        error: raised before the token of number `error_after`.
        most_adapters: where one more is loaded, the first goes.
        conditions: of its bits, as `info` tells them.
    """

    def __init__(
        self,
        answer: Sequence[int] | Callable[[GenerateRequest], Sequence[int]] = (1, 2, 3),
        *,
        context_length: int = 1024,
        digest: str = FAKE_DIGEST,
        step: int = 1,
        hold_after: int | None = None,
        error: Exception | None = None,
        error_after: int = 0,
        most_adapters: int = 2,
        conditions: Mapping[str, str] | None = None,
    ) -> None:
        self._most_adapters = most_adapters
        self.adapters: dict[str, Path] = {}
        self.loads = 0
        self._conditions = conditions or {}
        self._answer = answer if callable(answer) else lambda _request: answer
        self._context_length = context_length
        self._digest = digest
        self._step = step
        self._hold_after = hold_after
        self._error, self._error_after = error, error_after
        self.go = asyncio.Event()
        self.requests: list[GenerateRequest] = []
        self.embedded: list[list[int]] = []
        self.clients: set[str] = set()
        self.cancelled: list[str] = []
        self.running = 0

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenChunk, None]:
        self._check_adapter(request.adapter)
        self.requests.append(request)
        if len(request.prompt_ids) + request.max_tokens > self._context_length:
            raise ContextLengthExceeded(
                f"{len(request.prompt_ids)} + {request.max_tokens} > {self._context_length}"
            )
        ids, finish_reason = self._cut(request)
        self.running += 1
        finished = False
        try:
            for start in range(0, max(len(ids), 1), self._step):
                await self._maybe_hold(start)
                chosen = ids[start : start + self._step]
                finished = start + self._step >= len(ids)
                yield TokenChunk(
                    ids=chosen,
                    logprobs=_logprobs(chosen, request.top_logprobs),
                    finish_reason=finish_reason if finished else None,
                    prompt_tokens=len(request.prompt_ids) if finished else 0,
                    completion_tokens=len(ids) if finished else 0,
                )
        finally:
            self.running -= 1
            if not finished:
                self.cancelled.append(request.request_id)

    async def score(self, ids: Sequence[int], *, adapter: str | None = None) -> list[float]:
        """Every token costs `log(10)`, and half as much when it repeats the one before."""
        self._check_adapter(adapter)
        return [
            -math.log(10) / (2 if now == before else 1) for before, now in itertools.pairwise(ids)
        ]

    async def embed(
        self,
        ids: Sequence[int],
        pooling: Pooling | None = None,
        client: str = "",
        *,
        adapter: str | None = None,
    ) -> list[float]:
        """The unit vector of two numbers whose angle is the sum of the ids, or the last of them."""
        self._check_adapter(adapter)
        self.embedded.append(list(ids))
        self.clients.add(client)
        if len(ids) > self._context_length:
            raise ContextLengthExceeded(f"{len(ids)} > {self._context_length}")
        if self._error is not None:
            raise self._error
        angle = ids[-1] if pooling == "last" else sum(ids)
        return [math.cos(angle), math.sin(angle)]

    async def info(self) -> EngineInfo:
        return EngineInfo(
            model_digest=self._digest,
            context_length=self._context_length,
            precision="fp32",
            running=self.running,
            conditions=self._conditions,
        )

    async def load_adapter(self, digest: str, folder: Path) -> None:
        self.loads += 1
        if len(self.adapters) >= self._most_adapters:
            self.adapters.pop(next(iter(self.adapters), ""), None)
        if self._most_adapters:
            self.adapters[digest] = folder

    async def unload_adapter(self, digest: str) -> None:
        self._check_adapter(digest)
        del self.adapters[digest]

    def _check_adapter(self, adapter: str | None) -> None:
        if adapter is not None and adapter not in self.adapters:
            raise AdapterNotLoaded(f"{adapter} is not loaded")

    def _cut(self, request: GenerateRequest) -> tuple[list[int], FinishReason]:
        ids = list(self._answer(request))
        stop = next((i for i, token in enumerate(ids) if token in request.stop_ids), len(ids))
        if stop < request.max_tokens:
            return ids[:stop], "stop"
        return ids[: request.max_tokens], "length"

    async def _maybe_hold(self, number: int) -> None:
        if self._hold_after is not None and number >= self._hold_after:
            await self.go.wait()
        if self._error is not None and number >= self._error_after:
            raise self._error


class FakeResponder:
    """Implements `Responder`: says these texts, one a delta, whatever it is asked.

    Each text counts as one token; usage says so. Log-probabilities come when asked for.

    Args:
        reasoning_tokens: written before the texts, and not shown.
        hold_after: wait for `go` before the text of this number.
        error: raised before the text of number `error_after`.
        endless: say the texts again and again until closed.
    """

    def __init__(
        self,
        texts: Sequence[str] = ("Hello", ", ", "world"),
        *,
        model_digest: str | None = FAKE_DIGEST,
        prompt_tokens: int = 7,
        reasoning_tokens: int = 0,
        hold_after: int | None = None,
        error: Exception | None = None,
        error_after: int = 0,
        endless: bool = False,
    ) -> None:
        self.model_digest = model_digest
        self._texts = list(texts)
        self._prompt_tokens = prompt_tokens
        self._reasoning_tokens = reasoning_tokens
        self._hold_after = hold_after
        self._error, self._error_after = error, error_after
        self._endless = endless
        self.go = asyncio.Event()
        self.requests: list[ChatRequest] = []
        self.said = 0
        self.opened = 0
        self.closed = 0

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        self.requests.append(request)
        self.opened += 1
        try:
            if request.tally is not None:
                most = len(self._texts) if request.max_tokens is None else request.max_tokens
                await request.tally.expect(None, self._prompt_tokens, most)
            async for delta in self._say(request):
                yield delta
        finally:
            self.closed += 1

    async def _say(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        number = 0
        while self._endless or number < len(self._texts):
            await self._maybe_hold(number)
            if number == request.max_tokens:
                break
            text = self._texts[number % len(self._texts)]
            self.said += 1
            number += 1
            if request.tally is not None:
                request.tally.count(self._prompt_tokens, 0, number)
            yield Delta(text=text, logprobs=_text_logprobs(text, request.top_logprobs))
            # An event loop with other work must get its turn from an endless answer.
            await asyncio.sleep(0)
        await self._maybe_hold(number)
        yield Delta(
            finish_reason="length" if number == request.max_tokens else "stop",
            usage=Usage(
                prompt_tokens=self._prompt_tokens,
                completion_tokens=self._reasoning_tokens + number,
                reasoning_tokens=self._reasoning_tokens,
            ),
        )

    async def _maybe_hold(self, number: int) -> None:
        if self._hold_after is not None and number >= self._hold_after:
            await self.go.wait()
        if self._error is not None and number >= self._error_after:
            raise self._error


class FakeServing:
    """Implements `app.chat.Serving`: these responders, under these names.

    Args:
        responders: by name; a project sees the names of `responders` and of `private[project]`.
        states: of names that are not "ready".
        fault: raised by `responder`, as by an engine that does not load.
        embedders: by name, for everybody.
        parents: of the names that are adapters, their bases.
    """

    def __init__(
        self,
        responders: Mapping[str, FakeResponder],
        *,
        private: Mapping[str, Mapping[str, FakeResponder]] | None = None,
        states: Mapping[str, ModelState] | None = None,
        fault: Exception | None = None,
        embedders: Mapping[str, Embedder] | None = None,
        parents: Mapping[str, str] | None = None,
    ) -> None:
        self._parents = dict(parents or {})
        self._responders = dict(responders)
        self._embedders = dict(embedders or {})
        self._private = dict(private or {})
        self._states = dict(states or {})
        self._fault = fault
        self.principals: list[Principal] = []

    async def responder(self, principal: Principal, model: str) -> FakeResponder:
        self.principals.append(principal)
        if self._fault is not None:
            raise self._fault
        found = self._visible(principal).get(model)
        if found is None:
            raise no_such_model(model)
        return found

    async def embedder(self, principal: Principal, model: str) -> Embedder:
        self.principals.append(principal)
        if model not in self._embedders:
            raise no_such_model(model)
        return self._embedders[model]

    def models(self, principal: Principal) -> list[ServedModel]:
        principal.require(MODELS_SCOPE)
        return [
            ServedModel(
                name,
                1_700_000_000,
                principal.org_id,
                self._states.get(name, "ready"),
                self._parents.get(name),
            )
            for name in sorted(self._visible(principal))
        ]

    def health(self) -> list[ModelHealth]:
        return [ModelHealth(name, self._states.get(name, "ready")) for name in self._responders]

    def forget_names(self) -> None:
        """It knows no name for longer than a request."""

    async def figures(self) -> list[EngineFigures]:
        """The first engine says what it does; the others do not answer."""
        info = EngineInfo(
            model_digest=FAKE_DIGEST, context_length=8, precision="fp32", running=2, kv_tokens=30,
            counters={"steps": 5, "queued_s": 1.5},
        )  # fmt: skip
        return [
            EngineFigures(name, self._states.get(name, "ready"), 1000, None if n else info)
            for n, name in enumerate(self._responders)
        ]

    def _visible(self, principal: Principal) -> dict[str, FakeResponder]:
        return {**self._responders, **self._private.get(principal.project_id, {})}


def _logprobs(ids: Sequence[int], top: int | None) -> list[TokenLogprob] | None:
    if top is None:
        return None
    return [TokenLogprob(i, -1.0, [(i + n, -1.0 - n) for n in range(top)]) for i in ids]


def _text_logprobs(text: str, top: int | None) -> list[TextLogprob] | None:
    if top is None:
        return None
    raw = list(text.encode())
    return [TextLogprob(text, -1.0, raw, [(text, -1.0, raw)][:top])]
