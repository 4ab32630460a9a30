"""The chat page and its stream: one answer as lines of JSON, cancelled when the reader goes.

    {"text": "..."}                                   as tokens come
    {"done": {"finish_reason", "tokens", ...}}        the last line of a whole answer
    {"error": {"code", "message", "next_step"}}       the last line of one that failed

The browser speaks with its session, never with an API key.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Send

from bessemer.app.chat import CHAT_SCOPE, Reply, ServedModel, Serving, list_models, respond
from bessemer.app.metering import Meter
from bessemer.console.asker import asker
from bessemer.console.copying import ApiCall
from bessemer.console.rendering import page
from bessemer.core.errors import BessemerError, InvalidInput, PayloadTooLarge
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal
from bessemer.core.protocols import ChatRequest, Delta, Sampling

MAX_BODY_BYTES = 4_000_000

EXAMPLES = (
    "What is the capital of France?",
    "What does the Python function textwrap.shorten do?",
    "Write a Python function that reverses a string.",
    "Explain to a child why steel is stronger than iron.",
)


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: Literal["system", "user", "assistant"]
    content: str


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the page posts."""

    model: str
    messages: list[Turn]
    temperature: float = 1.0
    max_tokens: int | None = None


class ChatPages:
    """The chat's routes over one `Serving`."""

    def __init__(self, serving: Serving, meter: Meter | None = None) -> None:
        self._serving, self._meter = serving, meter

    def show(self, request: Request) -> Response:
        asker(request).require(CHAT_SCOPE)
        models = self._models(asker(request))
        return page(request, "chat.html", models=models, examples=EXAMPLES)

    def models(self, request: Request) -> Response:
        """Who can be asked now, and whether it is loaded."""
        found = self._models(asker(request))
        rows = [{"name": model.id, "state": model.state} for model in found]
        return JSONResponse({"models": rows})

    async def copied(self, request: Request) -> Response:
        """The question that the page would send, as calls from elsewhere."""
        asker(request).require(CHAT_SCOPE)
        question = _question(await _body(request))
        _chat_request(question)  # what cannot be asked is not offered
        return page(request, "copied.html", calls=[call_of(question)], fault=None)

    async def answer(self, request: Request) -> Response:
        """Stream one answer. Faults of the question are 400; later ones are a line."""
        question = _question(await _body(request))
        asked = _chat_request(question)
        reply = respond(self._serving, asker(request), question.model, asked, meter=self._meter)
        return LineStream(_lines(reply), media_type="application/x-ndjson")

    def _models(self, principal: Principal) -> list[ServedModel]:
        return list_models(self._serving, principal)


def call_of(question: Question) -> ApiCall:
    """A question as the API takes it; as a verb too where it is one message, which is its limit."""
    body = {key: each for key, each in msgspec.to_builtins(question).items() if each is not None}
    return ApiCall(
        "Ask this",
        "POST",
        "/v1/chat/completions",
        body=body,
        python="chat.completions.create",
        cli=_words(question),
    )


def _words(question: Question) -> list[str] | None:
    *before, last = question.messages
    if last.role != "user" or [turn.role for turn in before] not in ([], ["system"]):
        return None
    words = ["chat", question.model, f"--message={last.content}"]
    words += [f"--system={turn.content}" for turn in before]
    words.append(f"--temperature={question.temperature}")
    if question.max_tokens is not None:
        words.append(f"--max-tokens={question.max_tokens}")
    return [*words, "--json"]


class LineStream(StreamingResponse):
    """A stream that closes its source when it ends, however it ends."""

    async def stream_response(self, send: Send) -> None:
        source = self.body_iterator
        assert isinstance(source, AsyncGenerator)
        async with contextlib.aclosing(source):
            await super().stream_response(send)


async def _lines(reply: Reply) -> AsyncIterator[bytes]:
    began = time.perf_counter()
    first_s: float | None = None
    async with contextlib.aclosing(reply):
        try:
            async for delta in reply:
                if first_s is None:
                    first_s = time.perf_counter() - began
                if delta.text:
                    yield _line({"text": delta.text})
                if delta.finish_reason:
                    yield _line({"done": _summary(delta, first_s, time.perf_counter() - began)})
        except BessemerError as fault:
            yield _line({"error": as_json(fault)})


def _line(news: dict[str, Any]) -> bytes:
    return msgspec.json.encode(news) + b"\n"


def _summary(last: Delta, first_s: float, total_s: float) -> dict[str, Any]:
    """The figures under an answer. Speed is that of decoding: without the wait for the first."""
    tokens = last.usage.completion_tokens if last.usage else None
    decode_s = total_s - first_s
    fast = tokens is not None and tokens > 1 and decode_s > 0
    return {
        "finish_reason": last.finish_reason,
        "tokens": tokens,
        "prompt_tokens": last.usage.prompt_tokens if last.usage else None,
        "first_s": round(first_s, 3),
        "total_s": round(total_s, 3),
        "tokens_s": round((tokens - 1) / decode_s, 2) if fast and tokens else None,
    }


def as_json(fault: BessemerError) -> dict[str, Any]:
    """An error as the scripts show it."""
    return {"code": fault.code, "message": fault.message, "next_step": fault.next_step}


def _question(body: bytes) -> Question:
    try:
        return msgspec.json.decode(body, type=Question)
    except msgspec.DecodeError as fault:
        raise InvalidInput(f"the question is not what the page sends: {fault}") from None


def _chat_request(question: Question) -> ChatRequest:
    if not question.messages:
        raise InvalidInput("a question has one message or more", param="messages")
    if not 0 <= question.temperature <= 2:
        raise InvalidInput(
            f"temperature is {question.temperature}; it goes from 0 to 2", param="temperature"
        )
    if question.max_tokens is not None and question.max_tokens < 1:
        raise InvalidInput(
            f"an answer of {question.max_tokens} tokens is none; ask for 1 or more",
            param="max_tokens",
        )
    return ChatRequest(
        request_id=new_id("chat"),
        messages=[msgspec.to_builtins(turn) for turn in question.messages],
        max_tokens=question.max_tokens,
        sampling=Sampling(temperature=question.temperature),
    )


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise PayloadTooLarge(
                f"the conversation is larger than {MAX_BODY_BYTES:,} bytes",
                next_step="start a new chat",
            )
    return bytes(body)
