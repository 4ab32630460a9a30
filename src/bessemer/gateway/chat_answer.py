"""The shapes of a chat answer: `chat.completion` and `chat.completion.chunk`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from bessemer.app.metering import Kind
from bessemer.core.protocols import Delta, TextLogprob, ToolCallDelta, Usage
from bessemer.gateway.choices import Choice
from bessemer.gateway.shapes import Heading, MaybePrompt, MaybeUsage, UsageShape, prompt_shape


class TopLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: Sequence[int]


class TokenLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: Sequence[int]
    top_logprobs: list[TopLogprob]


class Logprobs(msgspec.Struct):
    content: list[TokenLogprob]
    refusal: None = None


class FunctionShape(msgspec.Struct):
    name: str | UnsetType
    arguments: str


class CallShape(msgspec.Struct):
    id: str
    function: FunctionShape
    type: Literal["function"] = "function"


class CallPiece(msgspec.Struct):
    """The first of a call has everything, with empty arguments; the others have arguments only."""

    index: int
    function: FunctionShape
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class AnswerMessage(msgspec.Struct):
    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    annotations: tuple[()] = ()
    tool_calls: list[CallShape] | UnsetType = UNSET
    function_call: FunctionShape | UnsetType = UNSET


class AnswerChoice(msgspec.Struct):
    index: int
    message: AnswerMessage
    logprobs: Logprobs | None
    finish_reason: str | None


class ChatCompletion(msgspec.Struct):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str | UnsetType
    choices: list[AnswerChoice]
    usage: UsageShape
    prompt_logprobs: MaybePrompt


class DeltaShape(msgspec.Struct, omit_defaults=True):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    refusal: UnsetType | None = UNSET
    tool_calls: list[CallPiece] | UnsetType = UNSET
    function_call: FunctionShape | UnsetType = UNSET


class ChunkChoice(msgspec.Struct):
    index: int
    delta: DeltaShape
    logprobs: Logprobs | None
    finish_reason: str | None


class ChatCompletionChunk(msgspec.Struct):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str | UnsetType
    choices: Sequence[ChunkChoice]
    usage: MaybeUsage


class ChatShape:
    """Implements `shapes.Shape`."""

    prefix = "chatcmpl"
    kind: Kind = "chat"

    def whole(self, heading: Heading, choices: Sequence[Choice], usage: Usage) -> bytes:
        answer = ChatCompletion(
            id=heading.id,
            object="chat.completion",
            created=heading.created,
            model=heading.model,
            system_fingerprint=heading.fingerprint,
            choices=[
                AnswerChoice(
                    index=index,
                    message=_message(choice, heading),
                    logprobs=_logprobs(choice.logprobs),
                    finish_reason=_end(choice.finish_reason, heading),
                )
                for index, choice in enumerate(choices)
            ],
            usage=UsageShape.of(usage),
            prompt_logprobs=prompt_shape(choices[0].prompt),
        )
        return msgspec.json.encode(answer)

    def opening(self, heading: Heading, index: int, usage: MaybeUsage) -> Iterator[bytes]:
        first = DeltaShape(role="assistant", content="", refusal=None)
        yield _chunk(heading, [ChunkChoice(index, first, None, None)], usage)

    def chunks(
        self, heading: Heading, index: int, delta: Delta, offset: int, usage: MaybeUsage
    ) -> Iterator[bytes]:
        if delta.text or delta.logprobs:
            said = DeltaShape(content=delta.text)
            logprobs = _logprobs(delta.logprobs)
            yield _chunk(heading, [ChunkChoice(index, said, logprobs, None)], usage)
        for piece in delta.tool_calls:
            called = _called(piece, heading)
            yield _chunk(heading, [ChunkChoice(index, called, None, None)], usage)
        if delta.finish_reason:
            over = ChunkChoice(index, DeltaShape(), None, _end(delta.finish_reason, heading))
            yield _chunk(heading, [over], usage)

    def usage_chunk(self, heading: Heading, usage: Usage) -> bytes:
        return _chunk(heading, (), UsageShape.of(usage))


def _end(reason: str | None, heading: Heading) -> str | None:
    return "function_call" if heading.functions and reason == "tool_calls" else reason


def _message(choice: Choice, heading: Heading) -> AnswerMessage:
    calls = [
        CallShape(call.id or "", FunctionShape(call.name or "", call.arguments))
        for call in choice.calls
    ]
    if not calls:
        return AnswerMessage(choice.text)
    if heading.functions:
        return AnswerMessage(choice.text or None, function_call=calls[0].function)
    return AnswerMessage(choice.text or None, tool_calls=calls)


def _called(piece: ToolCallDelta, heading: Heading) -> DeltaShape:
    call = _piece(piece)
    if heading.functions:
        return DeltaShape(function_call=call.function)
    return DeltaShape(tool_calls=[call])


def _piece(piece: ToolCallDelta) -> CallPiece:
    if piece.id is None:
        return CallPiece(piece.index, FunctionShape(UNSET, piece.arguments))
    function = FunctionShape(piece.name or "", piece.arguments)
    return CallPiece(piece.index, function, piece.id, "function")


def _chunk(heading: Heading, choices: Sequence[ChunkChoice], usage: MaybeUsage) -> bytes:
    chunk = ChatCompletionChunk(
        id=heading.id,
        object="chat.completion.chunk",
        created=heading.created,
        model=heading.model,
        system_fingerprint=heading.fingerprint,
        choices=choices,
        usage=usage,
    )
    return msgspec.json.encode(chunk)


def _logprobs(found: Sequence[TextLogprob] | None) -> Logprobs | None:
    if not found:
        return None
    return Logprobs(
        [
            TokenLogprob(
                token=entry.token,
                logprob=entry.logprob,
                bytes=entry.bytes,
                top_logprobs=[TopLogprob(*top) for top in entry.top],
            )
            for entry in found
        ]
    )
