"""Naming: questions with one right answer, a name, answered greedily.

Strict means equal after `normalize_name`; case counts. "Contains" means the name stands somewhere
in the answer as a whole word (`join` is in "use `os.path.join`." and not in "joined").
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from bessemer.core.ids import new_id
from bessemer.core.protocols import Engine, GenerateRequest, Message, Sampling
from bessemer.evals.asking import Asked, OnProgress, ask_all, ignore_progress
from bessemer.evals.items import Item
from bessemer.evals.shots import after_shots
from bessemer.text.chat_encoding import encode_prompt
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer

NAME_KIND = "name"


class Question(NamedTuple):
    """A prompt, generation prompt included, and the name it asks for."""

    item: str
    cluster: str
    ids: list[int]
    expected: str


class Naming(msgspec.Struct, frozen=True, tag="naming"):
    """What the model answered, word for word, and whether that was right."""

    item: str
    cluster: str
    answer: str
    exact: bool
    contains: bool


def questions_of(
    items: Sequence[Item],
    shots: Mapping[str, Sequence[Message]],
    tokenizer: Tokenizer,
    template: ChatTemplate,
) -> list[Question]:
    """The items of kind `name` as prompts, after the examples of that kind."""
    return [
        _question(item, shots.get(item.kind, ()), tokenizer, template)
        for item in items
        if item.kind == NAME_KIND
    ]


def _question(
    item: Item, shots: Sequence[Message], tokenizer: Tokenizer, template: ChatTemplate
) -> Question:
    messages = after_shots(shots, item.asked)
    ids = encode_prompt(messages, tokenizer, template, tools=item.tools or None)
    return Question(item.id, item.cluster, ids, item.expected)


async def answer_questions(
    engine: Engine,
    questions: Sequence[Question],
    tokenizer: Tokenizer,
    *,
    answer_tokens: int,
    in_flight: int = 16,
    alone: Sequence[int] = (),
    on_progress: OnProgress = ignore_progress,
) -> Asked[Naming]:
    """Ask the engine for every name, greedily, at most `answer_tokens` long."""

    async def ask(question: Question) -> Naming:
        ids = await _generate(engine, question.ids, tokenizer, answer_tokens)
        answer = tokenizer.decode(ids)
        return Naming(
            question.item,
            question.cluster,
            answer,
            exact=is_exact(answer, question.expected),
            contains=contains_name(answer, question.expected),
        )

    return await ask_all(questions, ask, in_flight=in_flight, alone=alone, on_progress=on_progress)


async def _generate(
    engine: Engine, prompt_ids: list[int], tokenizer: Tokenizer, answer_tokens: int
) -> list[int]:
    request = GenerateRequest(
        request_id=new_id("eval"),
        prompt_ids=prompt_ids,
        max_tokens=answer_tokens,
        sampling=Sampling(temperature=0.0),
        stop_ids=sorted(tokenizer.eos_ids),
    )
    return [id_ async for chunk in engine.generate(request) for id_ in chunk.ids]


def normalize_name(text: str) -> str:
    """A name without what people put around it.

    Taken off, again and again until nothing changes: white space at both ends, backticks and
    quotes at both ends, a call's parentheses with whatever is in them at the end, and trailing
    `. , : ; ! ?`. What is inside (dots of a dotted name, underscores, case) stays.

    >>> normalize_name(" `parse_qs(query)`.")
    'parse_qs'
    """
    before = None
    while text != before:
        before = text
        text = text.strip().strip("`'\"").rstrip(".,:;!?")
        text = re.sub(r"\([^()]*\)$", "", text)
    return text


def is_exact(answer: str, expected: str) -> bool:
    """Whether answer and name are the same once normalized."""
    return normalize_name(answer) == normalize_name(expected)


def contains_name(answer: str, expected: str) -> bool:
    """Whether the name stands in the answer as a whole word."""
    name = re.escape(normalize_name(expected))
    return re.search(rf"(?<!\w){name}(?!\w)", answer) is not None
