"""The body of `POST /v1/completions`, and the `Ask` it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from bessemer.core.errors import InvalidInput
from bessemer.core.protocols import ChatRequest
from bessemer.gateway.constraints import constraint_of
from bessemer.gateway.decoding import decode
from bessemer.gateway.parameters import (
    MAX_CHOICES,
    Ask,
    Parameters,
    refuse_unless_neutral,
)

# OpenAI's default, kept for the clients that count on it.
DEFAULT_MAX_TOKENS = 16

Prompt = str | list[int]


class CompletionBody(Parameters, kw_only=True, forbid_unknown_fields=True):
    prompt: str | list[str | int | list[int]]
    suffix: str | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    # They would change the answer.
    echo: bool | None = None
    best_of: int | None = None


_NEUTRAL: Mapping[str, Sequence[Any]] = {
    "echo": (False,),
    "best_of": (1,),
}

_decoder = msgspec.json.Decoder(CompletionBody)


def parse_completion(raw: bytes, request_id: str) -> Ask:
    """Raises InvalidInput (and its kinds): what is wrong, and in which field."""
    body = decode(_decoder, raw)
    refuse_unless_neutral(body, _NEUTRAL)
    include_usage = body.include_usage()
    n = body.n or 1
    constraint = constraint_of(body.structured_outputs)
    prompts = [prompt for prompt in _prompts(body.prompt, n) for _ in range(n)]
    requests = [
        ChatRequest(
            request_id=f"{request_id}-{index}",
            prompt=prompt,
            suffix=body.suffix or None,
            max_tokens=body.max_tokens or DEFAULT_MAX_TOKENS,
            sampling=body.sampling(index % n),
            stop=body.stops(),
            top_logprobs=body.logprobs,
            constraint=constraint,
        )
        for index, prompt in enumerate(prompts)
    ]
    return Ask(body.model, requests, n, bool(body.stream), include_usage)


def _prompts(prompt: str | list[str | int | list[int]], n: int) -> list[Prompt]:
    """One text, one list of ids, or a list of either kind."""
    if isinstance(prompt, str):
        return [prompt]
    kinds = {type(item) for item in prompt}
    if kinds == {int}:
        return [[item for item in prompt if isinstance(item, int)]]
    if len(kinds) != 1:
        what = "a mixture of kinds" if kinds else "an empty list"
        raise InvalidInput(
            f"'prompt' is {what}; it is a string, a list of strings, a list of token ids, "
            "or a list of such lists.",
            param="prompt",
        )
    if len(prompt) * n > MAX_CHOICES:
        raise InvalidInput(
            f"{len(prompt)} prompts with n = {n} are {len(prompt) * n} answers; "
            f"the limit is {MAX_CHOICES} a request.",
            param="prompt",
        )
    return [item for item in prompt if not isinstance(item, int)]
