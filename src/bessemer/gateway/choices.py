"""Many answers to one request, side by side: their deltas as they come, and their sum.

`n` choices are `n` requests to the responder; an engine that batches works on all of them at once.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import NamedTuple

from bessemer.app.chat import Reply
from bessemer.core.protocols import AnswerEnd, Delta, PromptRead, TextLogprob, ToolCallDelta, Usage


class Piece(NamedTuple):
    """News of choice number `choice`."""

    choice: int
    delta: Delta


@dataclass
class Choice:
    """All that one choice has said."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[TextLogprob] = field(default_factory=list)
    finish_reason: AnswerEnd | None = None
    usage: Usage | None = None
    pieces: list[ToolCallDelta] = field(default_factory=list)
    prompt: PromptRead | None = None
    mean_logprob: float | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def calls(self) -> list[ToolCallDelta]:
        """Its calls, each with its arguments in one piece."""
        opened = [piece for piece in self.pieces if piece.id is not None]
        return [
            ToolCallDelta(
                call.index,
                call.id,
                call.name,
                "".join(piece.arguments for piece in self.pieces if piece.index == call.index),
            )
            for call in opened
        ]

    def take(self, delta: Delta) -> None:
        self.texts.append(delta.text)
        self.pieces.extend(delta.tool_calls)
        self.logprobs.extend(delta.logprobs or ())
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.usage = delta.usage or self.usage
        self.prompt = delta.prompt or self.prompt
        if delta.mean_logprob is not None:
            self.mean_logprob = delta.mean_logprob


def best_of(choices: Sequence[Choice], n: int, candidates: int) -> list[Choice]:
    """Of each prompt's candidates the `n` with the highest log-probability per token, best first.

    An answer without a single token is the last; equal ones keep their order.
    """
    if candidates == n:
        return list(choices)
    best: list[Choice] = []
    for start in range(0, len(choices), candidates):
        ranked = sorted(choices[start : start + candidates], key=_logprob, reverse=True)
        best += ranked[:n]
    return best


def _logprob(choice: Choice) -> float:
    return -math.inf if choice.mean_logprob is None else choice.mean_logprob


def total_usage(choices: Sequence[Choice], n: int) -> Usage:
    """The usage of the whole request: a prompt that `n` choices share counts once."""
    found = [choice.usage or Usage(prompt_tokens=0, completion_tokens=0) for choice in choices]
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in found[::n]),
        completion_tokens=sum(usage.completion_tokens for usage in found),
        cached_tokens=sum(usage.cached_tokens for usage in found[::n]),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in found),
    )


async def interleave(replies: Sequence[Reply]) -> AsyncGenerator[Piece, None]:
    """The deltas of all replies, each as it comes; the first error ends them all.

    At most one delta of each waits here: who reads slowly slows all of them down. Closing the
    iterator closes every reply before it returns.
    """
    if len(replies) == 1:
        async with aclosing(replies[0]) as reply:
            async for delta in reply:
                yield Piece(0, delta)
        return
    news: asyncio.Queue[Piece | _Ended] = asyncio.Queue(maxsize=len(replies))
    pumps = [asyncio.create_task(_pump(i, reply, news)) for i, reply in enumerate(replies)]
    try:
        running = len(pumps)
        while running:
            item = await news.get()
            if isinstance(item, Piece):
                yield item
                continue
            if item.error is not None:
                raise item.error
            running -= 1
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.wait(pumps)
        for reply in replies:  # a pump that was canceled before its first step closes nothing
            await reply.aclose()


class _Ended(NamedTuple):
    error: Exception | None


async def _pump(index: int, reply: Reply, news: asyncio.Queue[Piece | _Ended]) -> None:
    error: Exception | None = None
    try:
        async with aclosing(reply):
            async for delta in reply:
                await news.put(Piece(index, delta))
    except Exception as fault:  # handed to the reader, who raises it
        error = fault
    await news.put(_Ended(error))
