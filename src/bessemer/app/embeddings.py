"""Vectors of texts as a use case: who may ask which model, and what comes back.

Any engine can make them: an encoder as it was taught to, a decoder by the mean of its last hidden
states or by the last one. Not here: HTTP, and how a text's tokens become a vector.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from bessemer.app.deadline import within
from bessemer.app.metering import Meter, Tab
from bessemer.app.second_try import second_try
from bessemer.core.errors import ContextLengthExceeded, InvalidInput
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal
from bessemer.core.protocols import Engine, Pooling, Tally
from bessemer.ledger.entries import Kind
from bessemer.ledger.rate_limits import NOTHING_TAKEN, Taken
from bessemer.text.tokenizer import Tokenizer

EMBED_SCOPE = "chat"
# As in OpenAI's API.
MAX_INPUTS = 2_048
MAX_TOKENS = 300_000
# Of one request in the engine at a time, so that others' are not queued behind all of it.
IN_FLIGHT = 64
# More text than this is encoded outside of the event loop.
LONG_CHARS = 20_000


class EmbedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`inputs` are texts, or token ids taken as they are; `client` is who asks, for the queue.

    `dimensions` keeps the first so many numbers of each vector, brought to unit length again. All
    of it is given `deadline_s` seconds. `tally` is who pays.
    """

    inputs: Sequence[str | Sequence[int]]
    dimensions: int | None = None
    pooling: Pooling | None = None
    client: str = ""
    deadline_s: float | None = None
    tally: Tally | None = None


class Embedded(NamedTuple):
    """A vector for each input, in order: of unit length, and a partner's as it makes them.

    `taken` is what the request took of its rate limits.
    """

    vectors: list[list[float]]
    prompt_tokens: int
    taken: Taken = NOTHING_TAKEN


class Embedder(Protocol):
    """What makes vectors of texts."""

    async def embed(self, request: EmbedRequest) -> Embedded:
        """Raises as `EngineEmbedder.embed`."""
        ...


class EmbeddingServing(Protocol):
    """Which names are served, and what makes their vectors."""

    async def embedder(self, principal: Principal, model: str) -> Embedder:
        """What answers to `model` now; raises as `chat.Serving.responder`."""
        ...


async def embed(
    serving: EmbeddingServing,
    principal: Principal,
    model: str,
    request: EmbedRequest,
    *,
    meter: Meter | None = None,
    kind: Kind = "embedding",
    charge_id: str | None = None,
) -> Embedded:
    """Ask `model` for vectors; if its engine dies meanwhile, once more.

    Args:
        meter: who counts and charges it, by `charge_id`; None charges nobody.

    Raises:
        PermissionDenied: without the scope `chat`.
        ModelNotFound: no such name for this principal.
        DeadlineExceeded: there was not time enough.
        BessemerError: as `EngineEmbedder.embed`.
    """
    principal.require(EMBED_SCOPE)
    client = request.client or principal.key_id or principal.owner_id
    tab = None
    if meter is not None:
        tab = meter.open(principal, model, kind, charge_id or new_id("req")).tab()
    asked = msgspec.structs.replace(request, client=client, tally=tab)

    async def ask() -> Embedded:
        embedder = await serving.embedder(principal, model)
        return await embedder.embed(asked)

    async with within(request.deadline_s, "before all vectors were made"):
        return await (second_try(ask) if tab is None else _paid(tab, second_try(ask)))


async def _paid(tab: Tab, work: Awaitable[Embedded]) -> Embedded:
    """What was made, charged; of work that its client left, what was made until then."""
    fault: Exception | None = None
    try:
        found = await tab.allowed(work)
        tab.count(found.prompt_tokens, 0, 0)
        return found._replace(taken=tab.taken)
    except Exception as raised:
        fault = raised
        raise
    finally:
        tab.close(fault)


class EngineEmbedder:
    """An engine with its tokenizer: texts in, vectors out.

    Args:
        context_length: tokens that one text may have.
        model_name: its name, for who pays.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        context_length: int,
        model_name: str | None = None,
    ) -> None:
        self._model_name = model_name
        self._engine = engine
        self._tokenizer = tokenizer
        self._context_length = context_length

    async def embed(self, request: EmbedRequest) -> Embedded:
        """All vectors, or the first error.

        Raises:
            InvalidInput: nothing to embed, too much, ids that are no tokens, or a pooling or
                number of dimensions that this model does not have.
            ContextLengthExceeded: naming the text, its tokens and the context.
            Busy, EngineUnavailable: as the engine says.
            BessemerError: who pays says no.
        """
        _check_count(request.inputs)
        chars = sum(len(item) for item in request.inputs if isinstance(item, str))
        if chars > LONG_CHARS:
            texts = await asyncio.to_thread(self._encode, request.inputs)
        else:
            texts = self._encode(request.inputs)
        total = sum(map(len, texts))
        if total > MAX_TOKENS:
            raise InvalidInput(
                f"'input' has {total:,} tokens in all; the limit is {MAX_TOKENS:,} a request",
                next_step="send it in several requests",
                param="input",
            )
        if request.tally is not None:
            await request.tally.expect(self._model_name, total, 0)
        vectors = await self._vectors(texts, request)
        return Embedded([_shortened(vector, request.dimensions) for vector in vectors], total)

    def _encode(self, inputs: Sequence[str | Sequence[int]]) -> list[list[int]]:
        return [self._ids(item, place) for place, item in enumerate(inputs)]

    def _ids(self, item: str | Sequence[int], place: int) -> list[int]:
        if not item:
            raise InvalidInput(f"'input[{place}]' is empty", param="input")
        ids = self._tokenizer.encode_document(item) if isinstance(item, str) else list(item)
        size = self._tokenizer.vocab_size
        wrong = next((id_ for id_ in ids if not 0 <= id_ < size), None)
        if wrong is not None:
            raise InvalidInput(
                f"'input[{place}]' has the token id {wrong}; this model's ids are 0 to {size - 1}",
                param="input",
            )
        if len(ids) > self._context_length:
            raise ContextLengthExceeded(
                f"This model's maximum context length is {self._context_length} tokens; "
                f"input[{place}] has {len(ids)} tokens.",
                next_step="cut the text into shorter ones; nothing is cut here",
                param="input",
                prompt_tokens=len(ids),
                context_length=self._context_length,
            )
        return ids

    async def _vectors(self, texts: list[list[int]], request: EmbedRequest) -> list[list[float]]:
        """In order; `IN_FLIGHT` at a time, and no more once one has failed."""
        vectors: list[list[float]] = [[] for _ in texts]
        todo = iter(enumerate(texts))
        done = 0

        async def work() -> None:
            nonlocal done
            for place, ids in todo:
                vectors[place] = await self._engine.embed(ids, request.pooling, request.client)
                done += len(ids)
                if request.tally is not None:
                    request.tally.count(done, 0, 0)

        workers = [asyncio.ensure_future(work()) for _ in range(min(IN_FLIGHT, len(texts)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
        return vectors


def _check_count(inputs: Sequence[object]) -> None:
    if not 0 < len(inputs) <= MAX_INPUTS:
        raise InvalidInput(
            f"'input' has {len(inputs):,} items; a request takes 1 to {MAX_INPUTS:,}",
            param="input",
        )


def _shortened(vector: list[float], dimensions: int | None) -> list[float]:
    if dimensions is None or dimensions == len(vector):
        return vector
    if dimensions > len(vector):
        raise InvalidInput(
            f"'dimensions' is {dimensions}; this model's vectors have {len(vector)}",
            param="dimensions",
        )
    kept = vector[:dimensions]
    length = math.hypot(*kept)
    return [value / length for value in kept] if length else kept
