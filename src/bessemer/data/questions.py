"""Prompts in tokens, and what their answers are judged by."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from bessemer.core.train_recipe import TrainRecipe
from bessemer.data.corpus import Split
from bessemer.data.dataset import Dataset
from bessemer.data.pieces import LEARNED, Fitting, check_fitting, fitting
from bessemer.data.prompts import Prompt
from bessemer.text.chat_encoding import encode_prompt
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer


class Question(NamedTuple):
    """A prompt in tokens, and which of its split it is, from 0."""

    number: int
    ids: list[int]
    asked: Prompt


def questions(
    recipe: TrainRecipe, dataset: Path, model: Path, context_length: int
) -> dict[Split, list[Question]]:
    """The prompts of each split that leave room for an answer, as the model at `model` has them.

    Args:
        context_length: of the model, in tokens.

    Raises:
        InvalidInput: a split has none, or some do not and the recipe says refuse.
    """
    assert recipe.grpo is not None
    opened = Dataset.open(dataset)
    tokenizer, template = Tokenizer.load(model), ChatTemplate.load(model)
    longest = min(recipe.batch.sequence_length, context_length) - recipe.grpo.max_tokens
    found: dict[Split, Fitting[Question]] = {}
    for split in LEARNED:
        every = [
            Question(n, encode_prompt(p.messages, tokenizer, template, p.tools), p)
            for n, p in enumerate(opened.prompts(split))
        ]
        found[split] = fitting(every, (len(question.ids) for question in every), longest)
    check_fitting(
        recipe,
        found,
        one="prompt",
        longest=longest,
        too_long=f"leave no room for {recipe.grpo.max_tokens} tokens of answer",
        remedy="grpo.max_tokens lower",
    )
    return {
        "train": found["train"].kept,
        "validation": found["validation"].kept[: recipe.evaluation.rows],
    }
