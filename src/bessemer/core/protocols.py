"""What rooms promise each other: engines speak token ids, responders speak messages.

A fake of each (`tests/fakes.py`) makes the whole platform testable in seconds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

FinishReason = Literal["stop", "length", "cancelled"]
Pooling = Literal["mean", "cls", "last"]
"""How hidden states become one vector: their mean, or the state of the first or last token."""


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token is drawn.

    `temperature` 0 (or below 1e-5) is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 keep every token.
    With a `seed` the noise depends only on the seed and the position in the answer. `logit_bias` is
    added to the scores of token ids.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = {}
    seed: int | None = None

    @property
    def adjusts(self) -> bool:
        """Whether scores are changed before the draw."""
        return bool(
            self.presence_penalty or self.frequency_penalty or self.logit_bias
        ) or self.repetition_penalty != 1  # fmt: skip


MAX_CONSTRAINT_CHARS = 1 << 18


class Constraint(msgspec.Struct, frozen=True):
    """What the whole answer has to be; `text` says it in the notation of `kind`.

    `json_schema`: a JSON Schema, as JSON. `json_object`: no text, any object. `regex`: in Rust's
    syntax, from the first character to the last. `lark`: llguidance's dialect of Lark. `choice`:
    a JSON array of strings, one of which is the answer. At most `MAX_CONSTRAINT_CHARS` characters;
    faults name `param`, the request's field.
    """

    kind: Literal["json_schema", "json_object", "regex", "lark", "choice"]
    text: str = ""
    param: str | None = None


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Token ids in. `top_logprobs` None asks for no log-probabilities, 0 for the chosen one's.

    `stop_ids` end the answer without being part of it. Stop *strings* are the responder's work,
    because only text knows them. Under a `constraint` the answer also ends where nothing can
    follow, and a stop id is drawn only where the answer may end. `client` says in whose line it
    waits: the engine serves clients evenly. After `deadline_s` seconds, waiting included, it ends
    with DeadlineExceeded. `prompt_logprobs` asks for log-probabilities of the prompt's tokens, with
    so many alternatives; only with it `max_tokens` may be 0. `adapter` is the digest of one that is
    loaded, to compute with.
    """

    request_id: str
    prompt_ids: Sequence[int]
    max_tokens: int
    sampling: Sampling = Sampling()
    stop_ids: Sequence[int] = ()
    top_logprobs: int | None = None
    constraint: Constraint | None = None
    client: str = ""
    deadline_s: float | None = None
    prompt_logprobs: int | None = None
    adapter: str | None = None


class TokenLogprob(msgspec.Struct, frozen=True):
    """Natural log-probability of one token, before temperature and truncation.

    `rank` is 1 for the likeliest; it is told of a prompt's tokens.
    """

    id: int
    logprob: float
    top: Sequence[tuple[int, float]] = ()
    rank: int | None = None


class TokenChunk(msgspec.Struct, frozen=True, kw_only=True):
    """New tokens of one request. The last chunk has `finish_reason` and the exact counts.

    `stop_id` is the one of the request's `stop_ids` that ended the answer, if one did; its
    log-probability is told where those of tokens were asked for. `prompt_logprobs` are of the
    prompt's tokens but the first, in the first chunk.
    """

    ids: Sequence[int]
    logprobs: Sequence[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    stop_id: int | None = None
    stop_logprob: float | None = None
    prompt_logprobs: Sequence[TokenLogprob] | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    @property
    def drawn(self) -> list[TokenLogprob]:
        """Everything that was drawn, the stop id included, where log-probabilities were asked."""
        drawn = list(self.logprobs or ())
        if self.stop_id is not None and self.stop_logprob is not None:
            drawn.append(TokenLogprob(self.stop_id, self.stop_logprob))
        return drawn


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine is, how busy it is, and what it has done.

    `adapters` are the digests of those that are loaded, the least recently used first.
    `conditions` is what equal bits need beside an equal model and an equal request (a processor,
    versions); an engine that does not promise them has none. `kv_tokens` are held in the KV cache,
    of `kv_budget_tokens`; `tokens_per_s` is the recent speed of its steps, prompts included.
    `counters` only grow while it lives.
    """

    model_digest: str
    context_length: int
    precision: str
    running: int = 0
    waiting: int = 0
    max_running: int = 0
    memory_bytes: int = 0
    adapters: Sequence[str] = ()
    conditions: Mapping[str, str] = {}
    kv_tokens: int = 0
    kv_budget_tokens: int = 0
    tokens_per_s: float = 0.0
    counters: Mapping[str, float] = {}


class Engine(Protocol):
    """Token ids in, token ids out: native, another runtime, or a fake for tests."""

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        """Stream chunks; closing the iterator cancels the request.

        Raises:
            ContextLengthExceeded: prompt and `max_tokens` do not fit; both numbers are named.
            Busy: the queue is full.
            DeadlineExceeded: the request's time has passed.
            EngineUnavailable: the engine died or is loading.
            InvalidInput: the constraint has a fault, or asks for what cannot be held to.
        """
        ...

    async def score(self, ids: Sequence[int]) -> list[float]:
        """Natural log p(ids[i] | ids[:i]) for i = 1 .. len(ids) - 1."""
        ...

    async def embed(
        self, ids: Sequence[int], pooling: Pooling | None = None, client: str = ""
    ) -> list[float]:
        """The sequence as one vector of unit length.

        Args:
            pooling: None for what the model was made with; a decoder's mean.
            client: in whose line it waits.

        Raises:
            ContextLengthExceeded, InvalidInput, Busy, EngineUnavailable: as `generate`.
        """
        ...

    async def info(self) -> EngineInfo: ...


class AdapterEngine(Engine, Protocol):
    """An engine that keeps LoRA adapters beside its model and computes each request with its own.

    Requests that name an adapter raise AdapterNotLoaded where it is not loaded, or no more: the
    engine makes room for those that are asked for. One in use is never unloaded.
    """

    async def load_adapter(self, digest: str, folder: Path) -> None:
        """Load the adapter in `folder`, in PEFT's layout; `digest` names it from now on.

        Raises:
            Conflict: it belongs to another base.
            InvalidInput, IntegrityError: it is no adapter, does not fit, or is too large.
            Busy: all memory for adapters is in use.
        """
        ...

    async def unload_adapter(self, digest: str) -> None:
        """Raises AdapterNotLoaded, or Conflict while sequences use it."""
        ...

    async def score(self, ids: Sequence[int], *, adapter: str | None = None) -> list[float]:
        """See `Engine.score`."""
        ...

    async def embed(
        self,
        ids: Sequence[int],
        pooling: Pooling | None = None,
        client: str = "",
        *,
        adapter: str | None = None,
    ) -> list[float]:
        """See `Engine.embed`."""
        ...


class LiveEngine(Engine, Protocol):
    """An engine over a network that its caller owns and goes on changing, in one process.

    It computes with the network's own tensors, in the thread of whoever awaits it, and takes no
    step while nobody does. Equal weights and equal requests in an equal order give equal bits.
    """

    def renew(self) -> None:
        """The weights have moved: forget what was computed with the old ones.

        Raises:
            Conflict: requests are under way.
        """
        ...


EngineMaker = Callable[[Any], LiveEngine]
"""Makes an engine of a network (a `models.Decoder`); how `app` hands engines to `train`."""

Message = dict[str, Any]


class ToolChoice(msgspec.Struct, frozen=True):
    """Whether tools are called, and which may be: those of `names`, or any."""

    mode: Literal["none", "auto", "required"] = "auto"
    names: Sequence[str] | None = None


class Tally(Protocol):
    """Who pays for a request: told before the work what it may take, and then what it took.

    Whoever answers the request (a `Responder`, an `Embedder`) calls it.
    """

    async def expect(self, model: str | None, prompt_tokens: int, completion_tokens: int) -> None:
        """Once the prompt is counted, before the engine is asked. A second try begins anew.

        Args:
            model: its name here, however it was asked for; None if it is the one asked for.
            completion_tokens: at most.

        Raises:
            BessemerError: the payer says no; nothing must be computed.
        """
        ...

    def count(
        self,
        prompt_tokens: int,
        cached_tokens: int,
        completion_tokens: int,
        reasoning_tokens: int = 0,
    ) -> None:
        """What was computed so far, by the engine's own counting.

        `cached` is of the prompt's, and `reasoning` of the completion's.
        """
        ...


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Messages in, as OpenAI spells them, or a bare `prompt` for text completion.

    With a `suffix` the answer is what stands between the prompt (text, then) and it. `tools` are
    functions with JSON Schemas, as OpenAI spells them too; without any, nothing is called. `client`
    is who asks, for the engine's fair queue. `echo` begins the answer with the prompt;
    `prompt_logprobs` asks for the prompt's tokens with so many alternatives. After `deadline_s`
    seconds the answer ends with DeadlineExceeded. `tally` is who pays.
    """

    request_id: str
    messages: Sequence[Message] = ()
    prompt: str | Sequence[int] | None = None
    suffix: str | None = None
    max_tokens: int | None = None
    sampling: Sampling = Sampling()
    stop: Sequence[str] = ()
    top_logprobs: int | None = None
    client: str = ""
    constraint: Constraint | None = None
    tools: Sequence[Message] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    echo: bool = False
    prompt_logprobs: int | None = None
    deadline_s: float | None = None
    tally: Tally | None = None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts by the engine's own counting.

    `cached` is of the prompt's; `reasoning`, which a model wrote and does not show, of the
    completion's.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class TextLogprob(msgspec.Struct, frozen=True):
    """One token as text, with the bytes it stands for."""

    token: str
    logprob: float
    bytes: Sequence[int]
    top: Sequence[tuple[str, float, Sequence[int]]] = ()


class PromptToken(msgspec.Struct, frozen=True):
    """One token of a prompt as text; the first one has no log-probability.

    `top` are ids, texts and log-probabilities, likeliest first.
    """

    id: int
    token: str
    bytes: Sequence[int]
    logprob: float | None = None
    rank: int | None = None
    top: Sequence[tuple[int, str, float]] = ()


class PromptRead(msgspec.Struct, frozen=True):
    """A prompt's tokens; `echoed` means that the delta's text begins with them."""

    tokens: Sequence[PromptToken]
    echoed: bool = False


class ToolCallDelta(msgspec.Struct, frozen=True):
    """A piece of call number `index`: first its id and name, then its arguments, JSON in pieces."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


AnswerEnd = Literal["stop", "length", "tool_calls"]


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """New text and pieces of calls. The last one has `finish_reason` and `usage`.

    `prompt` comes with the first one where it was asked for. `mean_logprob` is that of the answer's
    tokens, its end included, and comes with the last one where log-probabilities were asked for.
    """

    text: str = ""
    tool_calls: Sequence[ToolCallDelta] = ()
    logprobs: Sequence[TextLogprob] | None = None
    finish_reason: AnswerEnd | None = None
    usage: Usage | None = None
    prompt: PromptRead | None = None
    mean_logprob: float | None = None


class Responder(Protocol):
    """Messages in, text out: an engine with its template, or a partner over HTTP."""

    def respond(self, request: ChatRequest) -> AsyncIterator[Delta]:
        """Stream deltas; closing the iterator cancels the request."""
        ...
