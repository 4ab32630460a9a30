"""What answers have in common in OpenAI's API: usage, and how an answer is written.

Fields are always there, null where there is nothing, except those that OpenAI leaves out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from bessemer.app.metering import Kind
from bessemer.core.protocols import Delta, PromptRead, PromptToken, Usage
from bessemer.gateway.choices import Choice


class PromptDetails(msgspec.Struct):
    cached_tokens: int


class CompletionDetails(msgspec.Struct):
    """A model of this house thinks aloud; a partner's may think apart from what it says."""

    reasoning_tokens: int


class UsageShape(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails

    @classmethod
    def of(cls, usage: Usage) -> UsageShape:
        total = usage.prompt_tokens + usage.completion_tokens
        read = PromptDetails(usage.cached_tokens)
        written = CompletionDetails(usage.reasoning_tokens)
        return cls(usage.prompt_tokens, usage.completion_tokens, total, read, written)


MaybeUsage = UsageShape | None | msgspec.UnsetType


class PromptLogprobShape(msgspec.Struct):
    """As vLLM tells of a token that is, or might have been, in a prompt."""

    logprob: float
    rank: int
    decoded_token: str


MaybePrompt = list[dict[str, PromptLogprobShape] | None] | msgspec.UnsetType


def prompt_shape(prompt: PromptRead | None) -> MaybePrompt:
    """For each token of a prompt, by ids: the likeliest in its place, and itself."""
    if prompt is None or prompt.echoed:
        return msgspec.UNSET
    return [_prompt_token(token) for token in prompt.tokens]


def _prompt_token(token: PromptToken) -> dict[str, PromptLogprobShape] | None:
    if token.logprob is None or token.rank is None:
        return None
    found = {str(token.id): PromptLogprobShape(token.logprob, token.rank, token.token)}
    for rank, (id_, text, logprob) in enumerate(token.top, 1):
        found.setdefault(str(id_), PromptLogprobShape(logprob, rank, text))
    return found


class Heading(msgspec.Struct, frozen=True):
    """What every piece of one answer says again.

    `fingerprint` names the exact bytes that answered; `functions` as `parameters.Ask` has it.
    """

    id: str
    created: int
    model: str
    fingerprint: str | msgspec.UnsetType
    functions: bool = False

    @classmethod
    def new(
        cls, prefix: str, request_id: str, model: str, digest: str | None, functions: bool = False
    ) -> Heading:
        """The answer's id ends like the request's, so that either of them finds the other."""
        name = f"{prefix}-{request_id.rpartition('_')[2]}"
        return cls(name, int(time.time()), model, fingerprint_of(digest), functions)


class Shape(Protocol):
    """How one kind of answer is written: whole, or in chunks."""

    prefix: str
    kind: Kind

    def whole(self, heading: Heading, choices: Sequence[Choice], usage: Usage) -> bytes:
        """The JSON of a whole answer."""
        ...

    def opening(self, heading: Heading, index: int, usage: MaybeUsage) -> Iterator[bytes]:
        """What a choice's stream says before its first delta."""
        ...

    def chunks(
        self, heading: Heading, index: int, delta: Delta, offset: int, usage: MaybeUsage
    ) -> Iterator[bytes]:
        """A delta; `offset` is the length of the choice's text before it."""
        ...

    def usage_chunk(self, heading: Heading, usage: Usage) -> bytes:
        """The last chunk, without choices, for who asked for it."""
        ...


def fingerprint_of(digest: str | None) -> str | msgspec.UnsetType:
    return msgspec.UNSET if digest is None else "fp_" + digest.rpartition(":")[2][:12]
