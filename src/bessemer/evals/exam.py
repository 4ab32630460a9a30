"""Everything an evaluation will ask, put together before anything is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from bessemer.core.protocols import Message
from bessemer.data.corpus import Document
from bessemer.data.dataset import Dataset
from bessemer.evals.items import Item, choose_items
from bessemer.evals.likelihood import passages_of_chats
from bessemer.evals.measuring import Subject, Task
from bessemer.evals.naming import questions_of
from bessemer.evals.recipe import EvalRecipe
from bessemer.evals.shots import choose_shots
from bessemer.evals.unrelated import unrelated_passages

Shots = Mapping[str, Sequence[Message]]


class Exam(NamedTuple):
    """The chosen test chats, and for each model what it is asked."""

    items: list[Item]
    tasks: list[list[Task]]


def set_exam(
    subjects: Sequence[Subject],
    dataset: Dataset,
    unrelated: Iterable[Document],
    recipe: EvalRecipe,
    *,
    context_length: int,
) -> Exam:
    """The same items for every model; the first, the base, also with examples before them.

    Args:
        unrelated: documents that nobody was taught; none leaves that stage out.
        context_length: the shortest among the models', in tokens.

    Raises:
        InvalidInput: the test split is empty, or the train split has too few examples.
    """
    items = choose_items(dataset.split("test"), recipe.items, recipe.seed)
    shots = _shots(items, dataset, recipe) if recipe.shots else {}
    documents = list(unrelated)
    tasks = []
    for number, subject in enumerate(subjects):
        asked = _chat_tasks(subject, items, {}, recipe)
        if shots and number == 0:
            asked += _chat_tasks(subject, items, shots, recipe)
        asked += _unrelated_task(subject, documents, recipe, context_length)
        tasks.append([task for task in asked if task.questions])
    return Exam(items, tasks)


def _shots(items: Sequence[Item], dataset: Dataset, recipe: EvalRecipe) -> Shots:
    train = dataset.split("train")
    kinds = sorted({item.kind for item in items})
    return {kind: choose_shots(train, kind, recipe.shots, recipe.seed) for kind in kinds}


def _chat_tasks(
    subject: Subject, items: Sequence[Item], shots: Shots, recipe: EvalRecipe
) -> list[Task]:
    """Loss on every item, and the answers to those that ask for a name."""
    passages = passages_of_chats(items, shots, subject.tokenizer, subject.template)
    questions = questions_of(items, shots, subject.tokenizer, subject.template)
    # The first item of each kind puts the examples of its kind into the engine's prefix cache.
    first = {item.kind: index for index, item in reversed(list(enumerate(items)))}
    count = recipe.shots if shots else 0
    return [
        Task(subject, "answers", count, passages, sorted(first.values()) if shots else ()),
        Task(subject, "names", count, questions, (0,) if shots else (), recipe.answer_tokens),
    ]


def _unrelated_task(
    subject: Subject, documents: Sequence[Document], recipe: EvalRecipe, context_length: int
) -> list[Task]:
    passages = unrelated_passages(
        documents,
        subject.tokenizer,
        chunk_tokens=min(recipe.chunk_tokens, context_length),
        total_tokens=recipe.unrelated_tokens,
        seed=recipe.seed,
    )
    return [Task(subject, "unrelated", 0, passages, ())]
