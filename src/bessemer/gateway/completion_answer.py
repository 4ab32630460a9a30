"""The shape of a text completion: `text_completion`, whole and in chunks alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from bessemer.app.metering import Kind
from bessemer.core.protocols import Delta, PromptRead, PromptToken, TextLogprob, Usage
from bessemer.gateway.choices import Choice
from bessemer.gateway.shapes import Heading, MaybePrompt, MaybeUsage, UsageShape, prompt_shape


class Logprobs(msgspec.Struct):
    """Parallel lists over the tokens; offsets count characters of this choice's text. The first
    token of an echoed prompt has no log-probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(msgspec.Struct):
    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: str | None
    prompt_logprobs: MaybePrompt = msgspec.UNSET


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
    kind: Kind = "completion"

    def whole(self, heading: Heading, choices: Sequence[Choice], usage: Usage) -> bytes:
        said = [
            CompletionChoice(
                index=index,
                text=choice.text,
                logprobs=_logprobs(choice.prompt, choice.logprobs, 0),
                finish_reason=choice.finish_reason,
                prompt_logprobs=prompt_shape(choice.prompt),
            )
            for index, choice in enumerate(choices)
        ]
        return _completion(heading, said, UsageShape.of(usage))

    def opening(self, heading: Heading, index: int, usage: MaybeUsage) -> Iterator[bytes]:
        return iter(())

    def chunks(
        self, heading: Heading, index: int, delta: Delta, offset: int, usage: MaybeUsage
    ) -> Iterator[bytes]:
        logprobs = _logprobs(delta.prompt, delta.logprobs, offset)
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


def _logprobs(
    prompt: PromptRead | None, found: Sequence[TextLogprob] | None, offset: int
) -> Logprobs | None:
    echoed = prompt.tokens if prompt is not None and prompt.echoed else ()
    told: list[PromptToken | TextLogprob] = [*echoed, *(found or ())]
    if not told:
        return None
    offsets = []
    for entry in told:
        offsets.append(offset)
        # By first bytes of characters, because a token may be only a part of one.
        offset += sum(byte & 0xC0 != 0x80 for byte in entry.bytes)
    return Logprobs(
        tokens=[entry.token for entry in told],
        token_logprobs=[entry.logprob for entry in told],
        top_logprobs=[_top(entry) for entry in told],
        text_offset=offsets,
    )


def _top(entry: PromptToken | TextLogprob) -> dict[str, float] | None:
    """The likeliest tokens and the chosen one. Of parts of characters that look alike as text,
    the likeliest stays."""
    if entry.logprob is None:
        return None
    if isinstance(entry, PromptToken):
        ranked = {token: logprob for _, token, logprob in reversed(entry.top)}
    else:
        ranked = {token: logprob for token, logprob, _ in reversed(entry.top)}
    return {entry.token: entry.logprob} | ranked
