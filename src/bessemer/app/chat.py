"""Chat and text completion as use cases: who may ask which model, and what comes back.

`Serving` says which names are served here; `PoolServing` (in `pool_serving`) serves the models
of the home, a fake serves tests. Not here: HTTP, and how an engine turns messages into text.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, Protocol

import msgspec

from bessemer.app.catalog import CATALOG
from bessemer.app.deadline import within
from bessemer.app.embeddings import EmbeddingServing
from bessemer.app.latencies import Latencies
from bessemer.app.metering import Bill, Meter, Tab
from bessemer.app.second_try import second_try, stream_second_try
from bessemer.app.streams import closing
from bessemer.core.errors import NotFound
from bessemer.core.principal import Principal
from bessemer.core.protocols import ChatRequest, Delta, EngineInfo, Responder, Usage
from bessemer.ledger.entries import Kind
from bessemer.ledger.rate_limits import NOTHING_TAKEN, Taken

ModelState = Literal["loading", "ready", "failed", "stopped", "sleeping"]

CHAT_SCOPE = "chat"
MODELS_SCOPE = "models:read"


class ModelNotFound(NotFound):
    """No model of this name is served to this principal."""

    code = "model_not_found"


PARTNER = "partner"  # owns what a target answers by


class ServedModel(NamedTuple):
    """One name that can be asked.

    `created` is in Unix seconds. `stopped` means that the first request will load it, and
    `sleeping` that the next one will again. `parent` is an adapter's base.
    """

    id: str
    created: int
    owned_by: str
    state: ModelState
    parent: str | None = None


class ModelHealth(NamedTuple):
    """What `/healthz` says of one engine."""

    id: str
    state: ModelState


class EngineFigures(NamedTuple):
    """One engine for `/metrics`: `info` only while it is ready; `need_bytes` as it is planned."""

    model: str
    state: ModelState
    need_bytes: int
    info: EngineInfo | None


class NamedResponder(Responder, Protocol):
    """A `Responder` that knows the digest of what answers, if that is known at all."""

    model_digest: str | None


class Serving(EmbeddingServing, Protocol):
    """Which names are served, and what answers to them."""

    async def responder(self, principal: Principal, model: str) -> NamedResponder:
        """What answers to `model` now; may wait for a load.

        Raises:
            ModelNotFound: no such name for this principal.
            EngineUnavailable: it does not load, or not in time.
        """
        ...

    def models(self, principal: Principal) -> list[ServedModel]:
        """Every name this principal may ask, sorted."""
        ...

    def health(self) -> list[ModelHealth]:
        """Every engine there is, at once: no waiting, no database."""
        ...

    async def figures(self) -> list[EngineFigures]:
        """Every engine with what it says of itself; one that does not answer soon has no info."""
        ...

    def forget_names(self) -> None:
        """From the next request on a name means what it means now: one was taken away."""
        ...


class Reply(AsyncIterator[Delta]):
    """The deltas of one answer. Iterate it; `aclose` cancels what is still to come, and what was
    computed until then is charged.

    `model_digest` is known from the first delta on. If the engine dies before the first one, it is
    asked again, once.
    """

    def __init__(
        self,
        serving: Serving,
        principal: Principal,
        model: str,
        request: ChatRequest,
        *,
        whole: bool,
        latencies: Latencies,
        tab: Tab | None,
    ) -> None:
        self.model_digest: str | None = None
        self._tab = tab
        self._watch = latencies.watch(model)
        self._serving, self._principal = serving, principal
        self._model, self._request = model, request
        self._began_s = time.monotonic()
        self._deltas = self._whole() if whole else stream_second_try(self._ask)

    @property
    def taken(self) -> Taken:
        """What the request took of its rate limits; known from the first delta on."""
        return NOTHING_TAKEN if self._tab is None else self._tab.taken

    async def __anext__(self) -> Delta:
        try:
            delta = await anext(self._deltas)
        except Exception as fault:
            self._close(None if isinstance(fault, StopAsyncIteration) else fault)
            raise
        if delta.finish_reason is not None:
            self._close()
        return delta

    async def aclose(self) -> None:
        try:
            await self._deltas.aclose()
        finally:
            self._close()

    def _close(self, fault: Exception | None = None) -> None:
        if self._tab is not None:
            self._tab.close(fault)

    async def _whole(self) -> AsyncGenerator[Delta, None]:
        """All deltas, once the last one is there: until then nobody has seen any."""
        for delta in await second_try(self._collect):
            yield delta

    async def _collect(self) -> list[Delta]:
        async with closing(self._ask()) as deltas:
            return [delta async for delta in deltas]

    async def _ask(self) -> AsyncGenerator[Delta, None]:
        """Within the time that is left of the request's own; earlier tries have used some."""
        left_s = self._left_s()
        async with within(left_s, "before the model was ready"):
            responder = await self._serving.responder(self._principal, self._model)
        request = msgspec.structs.replace(self._request, deadline_s=self._left_s(), tally=self._tab)
        self.model_digest = responder.model_digest
        async with closing(responder.respond(request)) as deltas:
            delta = await self._first(deltas)
            while delta is not None:
                self._watch.piece()
                self._count(delta.usage)
                yield delta
                delta = await anext(deltas, None)

    async def _first(self, deltas: AsyncIterator[Delta]) -> Delta | None:
        """Not before it is paid for."""
        first = anext(deltas, None)
        return await (first if self._tab is None else self._tab.allowed(first))

    def _count(self, usage: Usage | None) -> None:
        if usage is not None and self._tab is not None:
            self._tab.count(
                usage.prompt_tokens,
                usage.cached_tokens,
                usage.completion_tokens,
                usage.reasoning_tokens,
            )

    def _left_s(self) -> float | None:
        given_s = self._request.deadline_s
        if given_s is None:
            return None
        return max(0.0, given_s - (time.monotonic() - self._began_s))


def respond(
    serving: Serving,
    principal: Principal,
    model: str,
    request: ChatRequest,
    *,
    meter: Meter | None = None,
    kind: Kind = "chat",
    whole: bool = False,
    latencies: Latencies | None = None,
) -> Reply:
    """Ask `model`. The answer's errors come with its first delta.

    Args:
        meter: who counts and charges it, by `request.request_id`; None charges nobody.
        kind: of work, as usage tells it.
        whole: nobody reads before the end, so the deltas come all at once, and an engine that dies
            on the way is asked again.
        latencies: where to note how long it took.

    Raises:
        PermissionDenied: at once, without the scope `chat`.

    Example:
        async for delta in respond(serving, principal, "smollm2-135m-instruct", request):
            print(delta.text, end="")
    """
    (reply,) = respond_each(
        serving, principal, model, [request],
        meter=meter, kind=kind, whole=whole, latencies=latencies,
    )  # fmt: skip
    return reply


def respond_each(
    serving: Serving,
    principal: Principal,
    model: str,
    requests: Sequence[ChatRequest],
    *,
    meter: Meter | None = None,
    kind: Kind = "chat",
    charge_id: str | None = None,
    beside: list[Bill] | None = None,
    whole: bool = False,
    latencies: Latencies | None = None,
) -> list[Reply]:
    """Several answers to one prompt, which is charged once; see `respond`.

    Args:
        charge_id: under which id all of them are charged; by default the first one's. Every reply
            has to be closed, also one that nobody began to read.
        beside: of the request's other prompts, as `Meter.open` takes it.
    """
    principal.require(CHAT_SCOPE)
    client = principal.key_id or principal.owner_id
    latencies = latencies or Latencies()
    bill = None
    if meter is not None:
        request_id = charge_id or requests[0].request_id
        bill = meter.open(principal, model, kind, request_id, beside)
    return [
        Reply(
            serving,
            principal,
            model,
            msgspec.structs.replace(request, client=request.client or client),
            whole=whole,
            latencies=latencies,
            tab=None if bill is None else bill.tab(),
        )
        for request in requests
    ]


def list_models(serving: Serving, principal: Principal) -> list[ServedModel]:
    """What can be asked. Raises PermissionDenied without the scope `models:read`."""
    principal.require(MODELS_SCOPE)
    return serving.models(principal)


def askable(serving: Serving, principal: Principal) -> list[ServedModel]:
    """What can be asked, for a use case that asks it: whoever may chat learns by asking whether a
    model is there, and where. Not for an event loop.
    """
    looking = replace(principal, scopes=principal.scopes | {MODELS_SCOPE})
    return serving.models(looking)


def find_model(serving: Serving, principal: Principal, model: str) -> ServedModel:
    """One of them. Raises ModelNotFound, and PermissionDenied like `list_models`."""
    for served in list_models(serving, principal):
        if served.id == model:
            return served
    raise no_such_model(model)


def no_such_model(model: str) -> ModelNotFound:
    shown = model if len(model) <= 100 else model[:100] + "..."
    bring = f"bessemer pull {model}" if model in CATALOG else "bessemer pull"
    return ModelNotFound(
        f"The model `{shown}` does not exist or you do not have access to it.",
        next_step="GET /v1/models lists the models you can use; on the server's machine,"
        f" {bring} brings one in, and bessemer project give lets another project ask it",
        param="model",
    )
