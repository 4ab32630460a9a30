"""Any OpenAI-compatible server by URL, as a `Responder`: vLLM, llama.cpp's, a provider, another
Bessemer.

Every answer is streamed, whatever the caller does with it: so a partner that stops talking is
noticed, and closing the iterator closes the connection, which ends the work over there. Which
partner is asked, and what it costs, is not this file's business.

    async with Partner.open("http://10.0.0.7:8001/v1", "qwen3-8b", api_key="...") as partner:
        async for delta in partner.respond(request): ...
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import aiohttp
import msgspec

from bessemer.app.embeddings import Embedded, EmbedRequest
from bessemer.core.errors import (
    BessemerError,
    Busy,
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineUnavailable,
    InvalidInput,
    NotFound,
)
from bessemer.core.protocols import (
    AnswerEnd,
    ChatRequest,
    Constraint,
    Delta,
    Sampling,
    TextLogprob,
    ToolCallDelta,
    ToolChoice,
    Usage,
)
from bessemer.ledger.counts import MOST

CONNECT_S = 10.0
# A long prompt may take a partner this long before its first token.
SILENCE_S = 120.0
DEFAULT_RETRY_S = 5.0
_LONGEST_EVENT_BYTES = 16 * 1024 * 1024
_SHOWN_CHARS = 300

Limit = Literal["max_tokens", "max_completion_tokens"]


class Timeouts(NamedTuple):
    """Seconds until a connection stands, and of silence within an answer."""

    connect_s: float = CONNECT_S
    silence_s: float = SILENCE_S


PATIENCE = Timeouts()


class _Vector(msgspec.Struct):
    index: int
    embedding: list[float]


Count = Annotated[int, msgspec.Meta(ge=0, le=MOST)]


class _Counts(msgspec.Struct):
    prompt_tokens: Count


class _Cached(msgspec.Struct):
    cached_tokens: Count | None = None


class _Reasoned(msgspec.Struct):
    reasoning_tokens: Count | None = None


class _Counted(_Counts):
    """The `usage` of a stream, as far as it is needed."""

    completion_tokens: Count | None = None
    prompt_tokens_details: _Cached | None = None
    completion_tokens_details: _Reasoned | None = None


class _Vectors(msgspec.Struct):
    """The answer of `/embeddings`, as far as it is needed."""

    data: list[_Vector]
    usage: _Counts


class Partner:
    """Implements `core.protocols.Responder` and `embeddings.Embedder` over HTTP; made by `open`.

    `model_digest` is unknown: a partner says its model's name and no more.
    """

    model_digest: str | None = None

    def __init__(
        self, session: aiohttp.ClientSession, base_url: str, model: str, timeouts: Timeouts
    ) -> None:
        self._session = session
        self._timeouts = timeouts
        self._base_url = base_url.rstrip("/")
        self._model = model
        self._limit: Limit = "max_tokens"

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        timeouts: Timeouts = PATIENCE,
    ) -> AsyncIterator[Partner]:
        """A partner with a pool of connections, closed at the end of the block.

        Args:
            base_url: with its `/v1`, as OpenAI's own clients take it.
            model: the name over there.
        """
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
            yield cls(session, base_url, model, timeouts)

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """Stream the answer; closing the iterator closes the connection.

        Raises:
            ContextLengthExceeded, NotFound, InvalidInput: as the partner says of the request.
            Busy: it is full, with its own `Retry-After`.
            DeadlineExceeded: the request's own time has passed.
            EngineUnavailable: it cannot be reached, is silent, refuses our key, or broke off.
        """
        _refuse_unheard(request)
        path = "completions" if request.prompt is not None else "chat/completions"
        url = f"{self._base_url}/{path}"
        began_s = time.monotonic()
        try:
            async with (
                self._answer(url, request) as answer,
                contextlib.aclosing(_deltas(answer)) as deltas,
            ):
                async for delta in deltas:
                    yield delta
        except TimeoutError as fault:
            if request.deadline_s is not None and time.monotonic() - began_s >= request.deadline_s:
                raise DeadlineExceeded(
                    f"{request.deadline_s:.3g} s were given to this request, and they passed"
                    " before the partner's answer was whole",
                    next_step="give it more time, or ask for fewer tokens",
                ) from fault
            raise _unavailable(f"{url} did not answer in time ({fault})") from fault
        except aiohttp.ClientError as fault:
            raise _unavailable(f"{url} cannot be reached, or broke off: {fault}") from fault

    @contextlib.asynccontextmanager
    async def _answer(
        self, url: str, request: ChatRequest
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The partner's 200. `max_tokens` is what all know, but OpenAI's models that reason refuse
        it for its newer name: those are asked once more, and by that name from then on.
        """
        limit = self._limit
        body = _body(self._model, request, limit)
        async with self._session.post(url, json=body, timeout=self._limits(request)) as answer:
            if answer.status == 200:
                yield answer
                return
            refusal = _refusal(answer, await _first_of(answer))
        newer: Limit = "max_completion_tokens"
        if limit == newer or refusal.param != limit or newer not in refusal.message:
            raise refusal
        self._limit = newer
        async with self._answer(url, request) as answer:
            yield answer

    async def embed(self, request: EmbedRequest) -> Embedded:
        """Vectors as the partner makes them; raises as `respond`."""
        if request.pooling is not None:
            raise _unheard("pooling")
        url = f"{self._base_url}/embeddings"
        body: dict[str, Any] = {"model": self._model, "encoding_format": "float"}
        body["input"] = [item if isinstance(item, str) else [*item] for item in request.inputs]
        if request.dimensions is not None:
            body["dimensions"] = request.dimensions
        try:
            async with self._session.post(url, json=body, timeout=self._limits(request)) as answer:
                if answer.status != 200:
                    raise _refusal(answer, await _first_of(answer))
                return _embedded(await answer.read(), len(body["input"]))
        except TimeoutError as fault:
            raise _unavailable(f"{url} did not answer in time ({fault})") from fault
        except aiohttp.ClientError as fault:
            raise _unavailable(f"{url} cannot be reached, or broke off: {fault}") from fault

    def _limits(self, request: ChatRequest | EmbedRequest) -> aiohttp.ClientTimeout:
        connect_s, silence_s = self._timeouts
        return aiohttp.ClientTimeout(
            total=request.deadline_s, sock_connect=connect_s, sock_read=silence_s
        )


def _refuse_unheard(request: ChatRequest) -> None:
    """What no partner is asked, because not every one of them would answer it in a stream."""
    unheard = {"echo": request.echo, "prompt_logprobs": request.prompt_logprobs is not None}
    for field, asked in unheard.items():
        if asked:
            raise _unheard(field)


def _unheard(field: str) -> InvalidInput:
    return InvalidInput(
        f"a partner's model cannot be asked for '{field}'",
        next_step="ask a model that is served here",
        param=field,
    )


async def _deltas(answer: aiohttp.ClientResponse) -> AsyncGenerator[Delta, None]:
    """Deltas of one choice. Its last words come with its counts, which follow them."""
    reason: Any = None
    usage: Usage | None = None
    async for event in _events(answer):
        if event.get("error"):
            raise _fault(event["error"], 500)
        if counts := event.get("usage"):
            usage = _usage(counts)
        for choice in event.get("choices") or ():
            reason = choice.get("finish_reason") or reason
            said = choice.get("delta") or {}
            text = choice.get("text") or said.get("content") or ""
            calls = tuple(map(_call, said.get("tool_calls") or ()))
            logprobs = _logprobs(choice.get("logprobs"))
            if text or calls or logprobs:
                yield Delta(text=text, tool_calls=calls, logprobs=logprobs)
    if reason is None:
        raise _unavailable("the partner ended this answer before it was whole")
    if usage is None:
        raise _unavailable("the partner did not say how many tokens it counted")
    ends: dict[Any, AnswerEnd] = {"length": "length", "tool_calls": "tool_calls"}
    yield Delta(finish_reason=ends.get(reason, "stop"), usage=usage)


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """Server-sent events as JSON, up to `[DONE]`. A line may be of any length up to a limit."""
    held = b""
    async for chunk in answer.content.iter_any():
        *lines, held = (held + chunk).split(b"\n")
        if len(held) > _LONGEST_EVENT_BYTES:
            raise _unavailable(f"the partner sent an event of over {len(held):,} bytes")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            yield _json(data)


def _json(data: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        shown = data[:_SHOWN_CHARS].decode(errors="replace")
        raise _unavailable(f"the partner sent what is no JSON object: {shown!r}") from fault


def _body(model: str, request: ChatRequest, limit: Limit) -> dict[str, Any]:
    body: dict[str, Any] = {"model": model, "stream": True}
    body["stream_options"] = {"include_usage": True}
    if request.prompt is None:
        body["messages"] = list(request.messages)
    else:
        body["prompt"] = request.prompt if isinstance(request.prompt, str) else [*request.prompt]
    optional = {
        "suffix": request.suffix,
        "max_tokens" if request.prompt is not None else limit: request.max_tokens,
        "stop": list(request.stop) or None,
    }
    body |= {key: value for key, value in optional.items() if value is not None}
    if request.top_logprobs is not None and request.prompt is None:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    elif request.top_logprobs is not None:
        body["logprobs"] = request.top_logprobs
    if request.constraint is not None:
        body |= _constraint(request.constraint, is_chat=request.prompt is None)
    if request.tools:
        body |= _tools(request)
    return body | _sampling(request.sampling)


def _constraint(constraint: Constraint, *, is_chat: bool) -> dict[str, Any]:
    """OpenAI's field where it has one for this, else the one of vLLM and of this house."""
    kind = constraint.kind
    value: Any = constraint.text
    if kind in ("json_schema", "choice"):
        value = msgspec.json.decode(constraint.text)
    if is_chat and kind == "json_object":
        return {"response_format": {"type": kind}}
    if is_chat and kind == "json_schema":
        schema = {"name": "answer", "strict": True, "schema": value}
        return {"response_format": {"type": kind, "json_schema": schema}}
    key = {"json_schema": "json", "lark": "grammar"}.get(kind, kind)
    return {"structured_outputs": {key: True if kind == "json_object" else value}}


def _tools(request: ChatRequest) -> dict[str, Any]:
    body: dict[str, Any] = {"tools": list(request.tools)}
    if request.tool_choice != ToolChoice():
        body["tool_choice"] = _choice(request.tool_choice)
    return body if request.parallel_tool_calls else body | {"parallel_tool_calls": False}


def _choice(choice: ToolChoice) -> Any:
    if choice.names is None:
        return choice.mode
    named = [{"type": "function", "function": {"name": name}} for name in choice.names]
    if choice.mode == "required" and len(named) == 1:
        return named[0]
    return {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode, "tools": named}}


def _call(call: dict[str, Any]) -> ToolCallDelta:
    function = call.get("function") or {}
    return ToolCallDelta(
        call.get("index", 0), call.get("id"), function.get("name"), function.get("arguments") or ""
    )


def _sampling(sampling: Sampling) -> dict[str, Any]:
    """Only what differs from the default, so that a partner is not asked for what it has not."""
    asked: Mapping[str, Any] = msgspec.structs.asdict(sampling)
    plain = msgspec.structs.asdict(Sampling())
    chosen = {key: value for key, value in asked.items() if value != plain[key]}
    if "logit_bias" in chosen:
        chosen["logit_bias"] = {str(id_): bias for id_, bias in sampling.logit_bias.items()}
    return chosen


def _embedded(raw: bytes, count: int) -> Embedded:
    try:
        found = msgspec.json.decode(raw, type=_Vectors)
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise _unavailable(f"the partner sent no list of vectors: {fault}") from fault
    by_place = {vector.index: vector.embedding for vector in found.data}
    if sorted(by_place) != list(range(count)):
        raise _unavailable(f"the partner sent {len(found.data)} vectors for {count} texts")
    return Embedded([by_place[place] for place in range(count)], found.usage.prompt_tokens)


def _usage(counts: Any) -> Usage:
    """What is impossible could not be charged, and would be held as unsettled for ever."""
    try:
        found = msgspec.convert(counts, _Counted)
    except msgspec.ValidationError as fault:
        raise _unavailable(f"the partner counted tokens as nobody can: {fault}") from fault
    written = found.completion_tokens or 0
    read_of = found.prompt_tokens_details or _Cached()
    written_of = found.completion_tokens_details or _Reasoned()
    return Usage(
        prompt_tokens=found.prompt_tokens,
        completion_tokens=written,
        cached_tokens=min(read_of.cached_tokens or 0, found.prompt_tokens),
        reasoning_tokens=min(written_of.reasoning_tokens or 0, written),
    )


def _logprobs(found: dict[str, Any] | None) -> list[TextLogprob] | None:
    """Of a chat (`content`), or of a text completion (parallel lists)."""
    if not found:
        return None
    if found.get("content") is not None:
        return [
            TextLogprob(
                token["token"],
                token["logprob"],
                _bytes(token),
                [(top["token"], top["logprob"], _bytes(top)) for top in token["top_logprobs"]],
            )
            for token in found["content"]
        ]
    tokens, values = found.get("tokens") or [], found.get("token_logprobs") or []
    tops = found.get("top_logprobs") or [{}] * len(tokens)
    return [
        TextLogprob(
            token,
            value,
            list(token.encode()),
            [(text, logprob, list(text.encode())) for text, logprob in (top or {}).items()],
        )
        for token, value, top in zip(tokens, values, tops, strict=True)
    ]


def _bytes(token: dict[str, Any]) -> list[int]:
    return token.get("bytes") or list(token["token"].encode())


async def _first_of(answer: aiohttp.ClientResponse) -> bytes:
    """An error's body; of one that does not end, the beginning."""
    body = b""
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > _LONGEST_EVENT_BYTES:
            break
    return body


def _refusal(answer: aiohttp.ClientResponse, body: bytes) -> BessemerError:
    try:
        error = msgspec.json.decode(body, type=dict[str, Any]).get("error")
    except (msgspec.DecodeError, UnicodeDecodeError):
        error = None
    if not isinstance(error, dict):
        error = {"message": body[:_SHOWN_CHARS].decode(errors="replace")}
    return _fault(error, answer.status, answer.headers.get("Retry-After"))


def _fault(error: Any, status: int, retry_after: str | None = None) -> BessemerError:
    told = error if isinstance(error, dict) else {"message": str(error)}
    message = f"the partner says: {told.get('message')}"
    code, param = told.get("code"), told.get("param")
    if code == "context_length_exceeded":
        return ContextLengthExceeded(message, param=param)
    if status == 429 or code == "engine_busy":
        return Busy(message, retry_after_s=_seconds(retry_after))
    if status == 404:
        return NotFound(message, param=param)
    # Our key is our fault and not the caller's.
    if 400 <= status < 500 and status not in (401, 403, 408):
        return InvalidInput(message, param=param)
    return _unavailable(f"{message} (status {status})")


def _seconds(retry_after: str | None) -> float:
    try:
        found = float(retry_after or DEFAULT_RETRY_S)
    except ValueError:  # an HTTP date
        return DEFAULT_RETRY_S
    return found if math.isfinite(found) and found >= 0 else DEFAULT_RETRY_S


def _unavailable(message: str) -> EngineUnavailable:
    return EngineUnavailable(message, next_step="send the request again, or ask another model")
