"""Many questions, a few at a time, and nothing lost."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import pytest

from bessemer.core.errors import Busy, ContextLengthExceeded, EngineUnavailable
from bessemer.evals.asking import ask_all


class Question(NamedTuple):
    item: str
    number: int


QUESTIONS = [Question(f"q{number}", number) for number in range(40)]


class Clerk:
    """Answers a number with its square; counts who is inside at once."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.inside = self.most_inside = 0

    async def __call__(self, question: Question) -> int:
        self.asked.append(question.number)
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        # Later questions are done earlier.
        for _ in range(50 - question.number):
            await asyncio.sleep(0)
        self.inside -= 1
        return question.number**2


def test_answers_come_in_the_order_of_the_questions_and_no_more_than_allowed_at_once() -> None:
    clerk = Clerk()
    asked = asyncio.run(ask_all(QUESTIONS, clerk, in_flight=7))
    assert asked.answers == [number**2 for number in range(40)]
    assert asked.failures == []
    assert clerk.most_inside == 7


def test_what_must_be_asked_alone_is_asked_first_and_alone() -> None:
    clerk = Clerk()
    most_inside_at: list[int] = []

    def note(_done: int) -> None:
        most_inside_at.append(clerk.most_inside)

    asyncio.run(ask_all(QUESTIONS, clerk, in_flight=5, alone=[9, 3], on_progress=note))
    assert clerk.asked[:2] == [9, 3]
    assert most_inside_at[:2] == [1, 1]
    assert sorted(clerk.asked) == list(range(40))


def test_progress_counts_up_to_the_total() -> None:
    seen: list[int] = []
    asyncio.run(ask_all(QUESTIONS[:4], Clerk(), in_flight=3, on_progress=seen.append))
    assert seen == [1, 2, 3, 4]


def test_a_question_that_does_not_fit_is_counted_and_named() -> None:
    async def ask(question: Question) -> int:
        if question.number == 5:
            raise ContextLengthExceeded("9000 tokens; the context is 8192")
        return question.number

    asked = asyncio.run(ask_all(QUESTIONS, ask))
    assert len(asked.answers) == 39
    assert [(f.item, f.message) for f in asked.failures] == [
        ("q5", "9000 tokens; the context is 8192")
    ]


def test_a_full_engine_is_asked_again() -> None:
    refusals = [Busy("full", retry_after_s=0.0)] * 3

    async def ask(question: Question) -> int:
        if refusals:
            raise refusals.pop()
        return question.number

    asked = asyncio.run(ask_all(QUESTIONS, ask))
    assert asked.answers == list(range(40))


def test_an_engine_that_stays_full_is_an_error() -> None:
    async def ask(question: Question) -> int:
        raise Busy("full", retry_after_s=0.0)

    with pytest.raises(Busy):
        asyncio.run(ask_all(QUESTIONS, ask))


def test_an_engine_that_dies_ends_everything_and_leaves_no_task_behind() -> None:
    clerk = Clerk()

    async def ask(question: Question) -> int:
        if question.number == 10:
            raise EngineUnavailable("died")
        return await clerk(question)

    async def watch() -> int:
        with pytest.raises(EngineUnavailable):
            await ask_all(QUESTIONS, ask, in_flight=4)
        return len(asyncio.all_tasks())

    assert asyncio.run(watch()) == 1
    assert len(clerk.asked) < 40


def test_no_questions_are_no_answers() -> None:
    assert asyncio.run(ask_all([], Clerk())) == ([], [])
