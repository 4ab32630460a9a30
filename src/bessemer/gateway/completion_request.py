"""The body of `POST /v1/completions`, and the `Ask` it means."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from bessemer.core.errors import InvalidInput
from bessemer.core.protocols import ChatRequest
from bessemer.gateway.constraints import constraint_of
from bessemer.gateway.decoding import decode
from bessemer.gateway.parameters import (
    MAX_CHOICES,
    Ask,
    Choices,
    Parameters,
)

# OpenAI's default, kept for the clients that count on it.
DEFAULT_MAX_TOKENS = 16

Prompt = str | list[int]


class CompletionBody(Parameters, kw_only=True, forbid_unknown_fields=True):
    """Null for a prompt is the beginning of a document, as the empty text is."""

    prompt: str | list[str | int | list[int]] | None
    suffix: str | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    max_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    echo: bool | None = None
    best_of: Choices | None = None


_decoder = msgspec.json.Decoder(CompletionBody)


def parse_completion(raw: bytes, request_id: str) -> Ask:
    """Raises InvalidInput (and its kinds): what is wrong, and in which field."""
    body = decode(_decoder, raw)
    include_usage = body.include_usage()
    body.check_prompt_logprobs()
    _check_echo(body)
    n, candidates = body.n or 1, _candidates(body)
    constraint = constraint_of(body.structured_outputs)
    prompt = "" if body.prompt is None else body.prompt
    prompts = [p for p in _prompts(prompt, candidates) for _ in range(candidates)]
    ranked = candidates > n
    requests = [
        ChatRequest(
            request_id=f"{request_id}-{index}",
            prompt=prompt,
            suffix=body.suffix or None,
            max_tokens=DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens,
            sampling=body.sampling(index % candidates),
            stop=body.stops(),
            top_logprobs=0 if ranked and body.logprobs is None else body.logprobs,
            constraint=constraint,
            echo=bool(body.echo),
            prompt_logprobs=body.logprobs if body.echo else body.prompt_logprobs,
            deadline_s=body.timeout,
        )
        for index, prompt in enumerate(prompts)
    ]
    return Ask(
        body.model,
        requests,
        n,
        bool(body.stream),
        include_usage,
        candidates=candidates,
        says_logprobs=body.logprobs is not None,
    )


def _candidates(body: CompletionBody) -> int:
    """How many answers are made for each prompt.

    Raises:
        InvalidInput: fewer than are to be returned, or a stream: which is best is known at the end.
    """
    n = body.n or 1
    if body.best_of is None or body.best_of == n:
        return n
    if body.best_of < n:
        raise InvalidInput(
            f"'best_of' is {body.best_of}, and n = {n} answers are to be returned: it must be at"
            " least n.",
            param="best_of",
        )
    if body.stream:
        raise InvalidInput(
            f"'best_of' = {body.best_of} of n = {n} cannot be streamed: which answers are the best"
            " is known at the end.",
            param="best_of",
        )
    return body.best_of


def _check_echo(body: CompletionBody) -> None:
    """Raises InvalidInput for what 'echo' does not go with, and for no tokens at all without it."""
    if body.echo and body.suffix:
        raise InvalidInput("'echo' does not go with 'suffix'.", param="echo")
    if body.echo and body.prompt_logprobs is not None:
        raise InvalidInput(
            "'echo' with 'logprobs' tells of the prompt's tokens; leave out 'prompt_logprobs'.",
            param="prompt_logprobs",
        )
    reads = body.prompt_logprobs is not None or (body.echo and body.logprobs is not None)
    if body.max_tokens == 0 and not reads:
        raise InvalidInput(
            "'max_tokens' 0 is for who reads the prompt: with 'echo' and 'logprobs', or with"
            " 'prompt_logprobs'.",
            param="max_tokens",
        )


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
            f"{len(prompt)} prompts with {n} each are {len(prompt) * n} answers; "
            f"the limit is {MAX_CHOICES} a request.",
            param="prompt",
        )
    return [item for item in prompt if not isinstance(item, int)]
