"""The rewards of a run: `text.graders`, and what a reward model says of an answer.

All but raw scores of a model lie between 0 and 1. Which of them a run uses, and how much each
counts, its recipe says (`core.reward_sections`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from bessemer.core.errors import InvalidInput
from bessemer.core.reward_sections import ModelPart, RewardPart
from bessemer.data.chats import as_context
from bessemer.models.reward_model import load_reward_model
from bessemer.text.chat_encoding import encode_chat
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.graders import Answer, Grader, open_grader
from bessemer.text.tokenizer import Tokenizer
from bessemer.train.objectives.reward_model import reward_of
from bessemer.train.task import Setting


def open_rewards(parts: Sequence[RewardPart], setting: Setting) -> list[tuple[Grader, float]]:
    """The rewards of a recipe with their weights. A second one of a kind is called `exact-2`.

    Raises:
        InvalidInput: a pattern that RE2 cannot read, or a model that gives no scores.
        SandboxUnavailable: code is to be judged, and cannot be run here.
    """
    opened: list[tuple[Grader, float]] = []
    kinds: list[str] = []
    for part in parts:
        if isinstance(part, ModelPart):
            grader: Grader = ModelGrader(part, setting.model_path(part.model))
        else:
            grader = open_grader(part, setting.tokenizer)
        kinds.append(part.kind)
        if kinds.count(part.kind) > 1:
            grader.name = f"{part.kind}-{kinds.count(part.kind)}"
        opened.append((grader, part.weight))
    return opened


class ModelGrader:
    """What a reward model thinks, with its own tokenizer and template."""

    def __init__(self, part: ModelPart, folder: Path) -> None:
        self.name: str = part.kind
        self._part = part
        self._model = load_reward_model(folder).eval()
        self._tokenizer, self._template = Tokenizer.load(folder), ChatTemplate.load(folder)

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        scores = reward_of(self._model, [self._encode(answer) for answer in answers])
        if self._part.score == "raw":
            return scores
        return [1 / (1 + math.exp(-max(score, -700.0))) for score in scores]

    def _encode(self, answer: Answer) -> list[int]:
        said = {"role": "assistant", "content": answer.text}
        # As in the pairs it learned from.
        chat = [*as_context(answer.messages), said]
        ids = encode_chat(chat, self._tokenizer, self._template).ids
        longest = self._model.config.context_length
        if len(ids) > longest:
            raise InvalidInput(
                f"an answer and its prompt have {len(ids):,} tokens; {self._part.model} reads"
                f" {longest:,}",
                next_step="let answers be shorter, or name another reward model",
            )
        return ids
