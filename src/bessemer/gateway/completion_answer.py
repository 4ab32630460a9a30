"""The shape of a text completion: `text_completion`, whole and in chunks alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from bessemer.core.protocols import Delta, TextLogprob, Usage
from bessemer.gateway.choices import Choice
from bessemer.gateway.shapes import Heading, MaybeUsage, UsageShape


class Logprobs(msgspec.Struct):
    """Parallel lists over the tokens; offsets count characters of this choice's text."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(msgspec.Struct):
    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: str | None


class Completion(msgspec.Struct):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str | msgspec.UnsetType
    choices: Sequence[CompletionChoice]
    usage: MaybeUsage


class CompletionShape:
    """Implements `shapes.Shape`."""

    prefix = "cmpl"

    def whole(self, heading: Heading, choices: Sequence[Choice], usage: Usage) -> bytes:
        said = [
            CompletionChoice(
                index=index,
                text=choice.text,
                logprobs=_logprobs(choice.logprobs, 0),
                finish_reason=choice.finish_reason,
            )
            for index, choice in enumerate(choices)
        ]
        return _completion(heading, said, UsageShape.of(usage))

    def opening(self, heading: Heading, index: int, usage: MaybeUsage) -> Iterator[bytes]:
        return iter(())

    def chunks(
        self, heading: Heading, index: int, delta: Delta, offset: int, usage: MaybeUsage
    ) -> Iterator[bytes]:
        logprobs = _logprobs(delta.logprobs, offset)
        said = CompletionChoice(index, delta.text, logprobs, delta.finish_reason)
        yield _completion(heading, [said], usage)

    def usage_chunk(self, heading: Heading, usage: Usage) -> bytes:
        return _completion(heading, (), UsageShape.of(usage))


def _completion(heading: Heading, choices: Sequence[CompletionChoice], usage: MaybeUsage) -> bytes:
    answer = Completion(
        id=heading.id,
        object="text_completion",
        created=heading.created,
        model=heading.model,
        system_fingerprint=heading.fingerprint,
        choices=choices,
        usage=usage,
    )
    return msgspec.json.encode(answer)


def _logprobs(found: Sequence[TextLogprob] | None, offset: int) -> Logprobs | None:
    if not found:
        return None
    offsets = []
    for entry in found:
        offsets.append(offset)
        # By first bytes of characters, because a token may be only a part of one.
        offset += sum(byte & 0xC0 != 0x80 for byte in entry.bytes)
    return Logprobs(
        tokens=[entry.token for entry in found],
        token_logprobs=[entry.logprob for entry in found],
        top_logprobs=[_top(entry) for entry in found],
        text_offset=offsets,
    )


def _top(entry: TextLogprob) -> dict[str, float]:
    """The likeliest tokens and the chosen one. Of parts of characters that look alike as text,
    the likeliest stays."""
    ranked = {token: logprob for token, logprob, _ in reversed(entry.top)}
    return {entry.token: entry.logprob} | ranked
