"""Many questions at an engine, a few at a time, and nothing lost on the way.

A question that does not fit the model's context is a failure that is counted and named; the
engine being full is waited out; any other error ends the whole measurement, because a result on
the questions that happened to work would be a result about something else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

import msgspec

from bessemer.core.errors import Busy, ContextLengthExceeded

_TRIES_WHEN_BUSY = 20


class Failure(msgspec.Struct, frozen=True):
    """A question that got no answer, and why."""

    item: str
    message: str


class _Named(Protocol):
    @property
    def item(self) -> str: ...


Q = TypeVar("Q", bound=_Named)
A = TypeVar("A")
OnProgress = Callable[[int], None]
"""Told how many questions are done; what was answered so far is partial, not a result."""


class Asked(NamedTuple, Generic[A]):
    """The answers in the order of the questions, without those that failed."""

    answers: list[A]
    failures: list[Failure]


def ignore_progress(_done: int) -> None:
    """The listener of those who do not listen."""


async def ask_all(
    questions: Sequence[Q],
    ask: Callable[[Q], Awaitable[A]],
    *,
    in_flight: int = 16,
    alone: Sequence[int] = (),
    on_progress: OnProgress = ignore_progress,
) -> Asked[A]:
    """Ask every question, at most `in_flight` at once.

    Args:
        alone: indexes of questions to ask one by one before the others, so that what the others
            share with them is in the engine's prefix cache when they come.

    Raises:
        BessemerError: whatever `ask` raised, other than ContextLengthExceeded.
    """
    outcomes: dict[int, A | Failure] = {}

    async def work(turns: Iterator[int]) -> None:
        for index in turns:
            outcomes[index] = await _ask_one(questions[index], ask)
            on_progress(len(outcomes))

    first = dict.fromkeys(alone)
    await work(iter(first))
    # One iterator for all workers: whoever is free takes the next question.
    turns = iter([index for index in range(len(questions)) if index not in first])
    await _together([work(turns) for _ in range(in_flight)])
    ordered = [outcomes[index] for index in range(len(questions))]
    return Asked(
        [outcome for outcome in ordered if not isinstance(outcome, Failure)],
        [outcome for outcome in ordered if isinstance(outcome, Failure)],
    )


async def _ask_one(question: Q, ask: Callable[[Q], Awaitable[A]]) -> A | Failure:
    for attempt in range(1, _TRIES_WHEN_BUSY + 1):
        try:
            return await ask(question)
        except ContextLengthExceeded as fault:
            return Failure(question.item, fault.message)
        except Busy as fault:
            if attempt == _TRIES_WHEN_BUSY:
                raise
            await asyncio.sleep(fault.retry_after_s)
    raise AssertionError("unreachable: the last attempt returns or raises")


async def _together(works: Sequence[Awaitable[None]]) -> None:
    """Wait for all; when one fails, stop the others before its error goes on."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
