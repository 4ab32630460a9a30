"""Sums and word problems with exact whole answers, made here: something to learn from rewards.

Ten kinds in three levels: sums, and word problems with one step or two. Every answer is a whole
number from 0 on, and the last number of a right answer's text ("12 - 5 = 7"). Three sums with their
answers stand before each question: with them a small instruct model is right now and then, which is
what learning from rewards needs. A question is in one split by the hash of its numbers, in whatever
order it names them.

    >>> build(Path("arithmetic"))["prompts"]                                  # doctest: +SKIP
    2865
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bessemer.data.chats import Message
from bessemer.data.corpus import Split, split_of, split_order
from bessemer.data.dataset import Row, write_dataset
from bessemer.data.prompts import Prompt
from bessemer.data.shapes import PROMPTS

NAME = "arithmetic"
LICENCE = "CC0-1.0"
PER_KIND = 400
SHOWN = ("2 + 3 = 5", "9 - 4 = 5", "3 * 6 = 18")


class Problem(NamedTuple):
    """A question, its answer, and what makes two questions the same."""

    text: str
    answer: int
    key: str


def build(folder: Path, per_kind: int = PER_KIND, seed: int = 0) -> dict[str, Any]:
    """Make the dataset in `folder`; the same arguments make the same bytes.

    Args:
        folder: new or empty.
        per_kind: problems of each kind, or as many as there are different ones.

    Returns:
        What dataset.json holds: counts by split and kind, licence, how it was made.
    """
    rows = [
        Row(split, Prompt(_asked(problem), _item(kind, problem), kind=kind), "made")
        for kind in KINDS
        for problem, split in _distinct(kind, per_kind, seed)
    ]
    rows.sort(key=lambda row: split_order(str(row.example.as_line()), seed=seed))
    return write_dataset(
        folder,
        rows,
        [{"id": "made", "source": f"{NAME}, seed {seed}", "licence": LICENCE}],
        {
            "name": NAME,
            "licence": LICENCE,
            "made_from": "nothing: numbers drawn with a seed, put into sentences",
            "made_by": "ten kinds of problems in three levels, answers computed",
            "split_by": "SHA-256 of the kind and the numbers in ascending order, 90/5/5",
        },
        PROMPTS,
    )


def _asked(problem: Problem) -> list[Message]:
    """Three sums come before, so that answers are short and say what was computed."""
    messages = []
    for shown in SHOWN:
        question = f"What is {shown.partition(' =')[0]}?"
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": shown})
    return [*messages, {"role": "user", "content": problem.text}]


def _item(kind: str, problem: Problem) -> dict[str, Any]:
    return {"answer": str(problem.answer), "level": KINDS[kind].level}


def _distinct(kind: str, count: int, seed: int) -> Iterator[tuple[Problem, Split]]:
    draw = random.Random(f"{NAME} {kind} {seed}")  # the same numbers in every version of Python
    shown = {message["content"] for message in _asked(Problem("", 0, ""))}
    seen = set(shown)
    for _ in range(count * 20):
        problem = KINDS[kind].make(draw)
        if problem.text not in seen:
            seen.add(problem.text)
            yield problem, split_of(f"{kind} {problem.key}")
        if len(seen) - len(shown) == count:
            return


def _key(*numbers: int) -> str:
    return " ".join(map(str, sorted(numbers)))


def _plus(draw: random.Random, low: int, high: int) -> Problem:
    a, b = draw.randint(low, high), draw.randint(low, high)
    return Problem(f"What is {a} + {b}?", a + b, _key(a, b))


def _minus(draw: random.Random, low: int, high: int) -> Problem:
    b, a = sorted((draw.randint(low, high), draw.randint(low, high)))
    return Problem(f"What is {a} - {b}?", a - b, _key(a, b))


def _times(draw: random.Random, low: int, high: int) -> Problem:
    a, b = draw.randint(low, high), draw.randint(2, 9)
    return Problem(f"What is {a} * {b}?", a * b, _key(a, b))


def _divide(draw: random.Random) -> Problem:
    a, b = draw.randint(2, 12), draw.randint(2, 12)
    return Problem(f"What is {a * b} / {b}?", a, _key(a * b, b))


def _chain(draw: random.Random) -> Problem:
    a, b = draw.randint(2, 20), draw.randint(2, 20)
    c = draw.randint(1, a + b)
    return Problem(f"What is {a} + {b} - {c}?", a + b - c, _key(a, b, c))


def _story(draw: random.Random, stories: Sequence[Story]) -> Problem:
    text, solve = draw.choice(stories)
    a, b, c = (draw.randint(2, 10) for _ in range(3))
    while (answer := solve(a, b, c)) < 0:
        a, b, c = (draw.randint(2, 10) for _ in range(3))
    who, what = draw.choice(PEOPLE), draw.choice(THINGS)
    told = text.format(a=a, b=b, c=c, who=who, what=what)
    # Who has what does not make another question of it, nor does a number that is not told.
    used = (number for place, number in (("{a}", a), ("{b}", b), ("{c}", c)) if place in text)
    return Problem(told, answer, f"{text} {_key(*used)}")


class Story(NamedTuple):
    """A text with places for three numbers, a person and a thing, and what it asks for."""

    text: str
    solve: Callable[[int, int, int], int]


PEOPLE = ("Ada", "Ben", "Chen", "Dina", "Emil", "Fatma", "Goran", "Hana", "Ivo", "Jun")
THINGS = ("apples", "books", "cards", "coins", "pencils", "stamps", "shells", "marbles")
ONE_STEP = (
    Story(
        "{who} has {a} {what} and buys {b} more. How many {what} does {who} have now?",
        lambda a, b, _: a + b,
    ),
    Story(
        "{who} had {a} {what} and gave {b} of them away. How many {what} are left?",
        lambda a, b, _: a - b,
    ),
    Story(
        "There are {a} boxes with {b} {what} in each. How many {what} is that?",
        lambda a, b, _: a * b,
    ),
    Story("{a} people are on a bus and {b} get off. How many are left?", lambda a, b, _: a - b),
    Story(
        "A ticket costs {a} dollars. How many dollars do {b} tickets cost?", lambda a, b, _: a * b
    ),
    Story(
        "{who} reads {a} pages on Monday and {b} on Tuesday. How many pages is that?",
        lambda a, b, _: a + b,
    ),
)
TWO_STEPS = (
    Story(
        "{who} has {a} {what}, buys {b} more and gives {c} away. How many {what} are left?",
        lambda a, b, c: a + b - c,
    ),
    Story(
        "There are {a} boxes with {b} {what} in each, and {c} {what} on the table."
        " How many {what} is that?",
        lambda a, b, c: a * b + c,
    ),
    Story(
        "{who} earns {a} dollars an hour, works for {b} hours and spends {c} dollars."
        " How many dollars are left?",
        lambda a, b, c: a * b - c,
    ),
    Story(
        "{a} people are on a train. {b} get off and {c} get on. How many are on it now?",
        lambda a, b, c: a - b + c if a >= b else -1,
    ),
)


class Kind(NamedTuple):
    """Its level, from 1 to 3, and what draws a problem."""

    level: int
    make: Callable[[random.Random], Problem]


# The numbers of one kind and the next do not overlap, so neither do the questions.
KINDS = {
    "plus-1": Kind(1, lambda draw: _plus(draw, 1, 15)),
    "minus-1": Kind(1, lambda draw: _minus(draw, 1, 20)),
    "times-1": Kind(1, lambda draw: _times(draw, 2, 12)),
    "plus-2": Kind(2, lambda draw: _plus(draw, 16, 60)),
    "minus-2": Kind(2, lambda draw: _minus(draw, 21, 60)),
    "divide": Kind(2, _divide),
    "story-1": Kind(2, lambda draw: _story(draw, ONE_STEP)),
    "times-2": Kind(3, lambda draw: _times(draw, 13, 40)),
    "chain": Kind(3, _chain),
    "story-2": Kind(3, lambda draw: _story(draw, TWO_STEPS)),
}
