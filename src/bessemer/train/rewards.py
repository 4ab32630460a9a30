"""What sampled answers are worth: each reward is a function from answers to numbers.

    exact    is the answer the one in the dataset?          code     do its unit tests pass?
    format   does the text match a pattern?                 model    what a reward model says
    length   is it short enough?

All but raw scores of a model lie between 0 and 1. Which of them a run uses, and how much each
counts, its recipe says (`sections.RewardPart`). An item that lacks the field to judge by stops the
run: a reward of 0 for it would teach that every answer is wrong.

Patterns come from recipes and meet whatever a model says, so they are matched by RE2 (through
pyarrow), which takes linear time whatever the pattern; see decision 0006.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bessemer.core.errors import DataError, InvalidInput
from bessemer.core.sandbox import Limits, require_sandbox
from bessemer.core.unit_tests import passed
from bessemer.data.chats import Message
from bessemer.models.reward_model import load_reward_model
from bessemer.text.answers import code_in, in_box, in_tag, is_same, last_number
from bessemer.text.chat_encoding import encode_chat
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer
from bessemer.train.objectives.reward_model import reward_of
from bessemer.train.sections import (
    CodePart,
    ExactPart,
    FormatPart,
    LengthPart,
    ModelPart,
    RewardPart,
)
from bessemer.train.task import Setting

JUDGES = 2  # sandboxes at once


class Answer(NamedTuple):
    """One sampled answer to judge.

    Attributes:
        messages: the prompt, as OpenAI spells it.
        text: what the model said, without the token that ends its turn.
        item: the other fields of the dataset's line.
        finished: False where the limit of tokens cut it off.
    """

    messages: Sequence[Message]
    text: str
    item: Mapping[str, Any]
    finished: bool


class Reward(Protocol):
    """`name` is what its metric is called."""

    name: str

    def __call__(self, answers: Sequence[Answer]) -> list[float]: ...


def open_rewards(parts: Sequence[RewardPart], setting: Setting) -> list[tuple[Reward, float]]:
    """The rewards of a recipe with their weights. A second one of a kind is called `exact-2`.

    Raises:
        InvalidInput: a pattern that RE2 cannot read, or a model that gives no scores.
        SandboxUnavailable: code is to be judged, and cannot be run here.
    """
    opened: list[tuple[Reward, float]] = []
    kinds: list[str] = []
    for part in parts:
        reward = _open(part, setting)
        kinds.append(part.kind)
        if kinds.count(part.kind) > 1:
            reward.name = f"{part.kind}-{kinds.count(part.kind)}"
        opened.append((reward, part.weight))
    return opened


def _open(part: RewardPart, setting: Setting) -> Reward:
    match part:
        case ExactPart():
            return ExactReward(part)
        case FormatPart():
            return FormatReward(part)
        case CodePart():
            require_sandbox()
            return CodeReward(part)
        case ModelPart():
            return ModelReward(part, setting.model_path(part.model))
        case LengthPart():
            return LengthReward(part, setting.tokenizer)


class ExactReward:
    """1 where the answer, taken out of the text, equals the dataset's."""

    def __init__(self, part: ExactPart) -> None:
        self.name: str = part.kind
        self._part = part
        self._extract = _extractor(part)

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        return [float(self._is_right(answer)) for answer in answers]

    def _is_right(self, answer: Answer) -> bool:
        wanted = field_of(answer.item, self._part.field)
        said = self._extract(answer.text)
        return said is not None and is_same(said, wanted, folded=self._part.text == "folded")


def _extractor(part: ExactPart) -> Callable[[str], str | None]:
    match part.extract:
        case "whole":
            return str
        case "last-number":
            return last_number
        case "boxed":
            return in_box
        case "tag":
            return lambda text: in_tag(text, part.tag)
        case "pattern":
            return Pattern(part.pattern or "", "answer").group


class FormatReward:
    """1 where the whole text matches."""

    def __init__(self, part: FormatPart) -> None:
        self.name: str = part.kind
        self._pattern = Pattern(rf"(?s)\A(?:{part.pattern})\z")

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        return [float(self._pattern.matches(answer.text)) for answer in answers]


class CodeReward:
    """The share of the item's tests that the answer's code passes; a single text is one test."""

    def __init__(self, part: CodePart) -> None:
        self.name: str = part.kind
        self._field = part.field
        cpu_s = math.ceil(part.wall_s)
        self._limits = Limits(wall_s=part.wall_s, cpu_s=cpu_s, memory_bytes=part.memory_bytes)

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        with ThreadPoolExecutor(JUDGES) as pool:
            return list(pool.map(self._share, answers))

    def _share(self, answer: Answer) -> float:
        tests = _tests(field_of(answer.item, self._field), self._field)
        found = passed(code_in(answer.text), tests, self._limits)
        return sum(found) / len(found)


class ModelReward:
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
        # As in the pairs it learned from: answers given before are context.
        before = [m | {"weight": 0} if m["role"] == "assistant" else m for m in answer.messages]
        said = {"role": "assistant", "content": answer.text}
        ids = encode_chat([*before, said], self._tokenizer, self._template).ids
        longest = self._model.config.context_length
        if len(ids) > longest:
            raise InvalidInput(
                f"an answer and its prompt have {len(ids):,} tokens; {self._part.model} reads"
                f" {longest:,}",
                next_step="let answers be shorter, or name another reward model",
            )
        return ids


class LengthReward:
    """1 up to `free` tokens or characters, falling to 0 at `most`."""

    def __init__(self, part: LengthPart, tokenizer: Tokenizer) -> None:
        self.name: str = part.kind
        self._part, self._tokenizer = part, tokenizer

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        free, most = self._part.free, self._part.most
        lengths = (self._length(answer.text) for answer in answers)
        return [min(1.0, max(0.0, (most - length) / (most - free))) for length in lengths]

    def _length(self, text: str) -> int:
        if self._part.unit == "characters":
            return len(text)
        return len(self._tokenizer.encode_continuation(text, parse_special=False))


class Pattern:
    """An RE2 expression.

    Args:
        group: the one group that it must have; None for any or none.

    Raises:
        InvalidInput: RE2 cannot read it, or it lacks the group.
    """

    def __init__(self, expression: str, group: str | None = None) -> None:
        self._expression, self._group = expression, group
        try:
            self.group("") if group else self.matches("")
        except (ValueError, KeyError) as fault:
            raise InvalidInput(
                f"the pattern {expression!r} cannot be used: {fault}",
                next_step="write it as RE2 has it: no look-around, no back-references"
                + (f", one group (?P<{group}>...)" if group else ""),
            ) from None

    def matches(self, text: str) -> bool:
        """Whether it matches anywhere in a text."""
        import pyarrow.compute

        found = pyarrow.compute.match_substring_regex(_scalar(text), pattern=self._expression)
        return bool(found.as_py())

    def group(self, text: str) -> str | None:
        """What its group holds where it first matches."""
        import pyarrow.compute

        found = pyarrow.compute.extract_regex(_scalar(text), pattern=self._expression)
        found.type.field(self._group)  # KeyError: there is no such group
        return (found.as_py() or {}).get(self._group)


def field_of(item: Mapping[str, Any], name: str) -> Any:
    """The field of an item; `a.b` is the field b inside of a.

    Raises:
        DataError: it is not there.
    """
    found: Any = item
    for key in name.split("."):
        if not isinstance(found, Mapping) or key not in found:
            raise DataError(
                f"a prompt has no field {name!r} to judge answers by; its fields: {sorted(item)}",
                next_step="name one of them as the reward's `field`, or add it to every line",
            )
        found = found[key]
    return found


def _tests(found: Any, name: str) -> list[str]:
    tests = [found] if isinstance(found, str) else found
    if not isinstance(tests, list) or not tests or not all(isinstance(t, str) for t in tests):
        raise DataError(f"the field {name!r} is neither Python text nor a list of it: {found!r}")
    for number, test in enumerate(tests):
        try:
            compile(test, name, "exec")
        except (SyntaxError, ValueError) as fault:
            raise DataError(f"{name}[{number}] is no Python: {fault} ({test!r})") from None
    return tests


def _scalar(text: str) -> Any:
    import pyarrow

    return pyarrow.scalar(text.encode("utf-8", "replace").decode())
