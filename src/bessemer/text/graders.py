"""What an answer is worth: each grader is a function from answers to numbers between 0 and 1.

    exact    is the answer the one in the dataset?          code     do its unit tests pass?
    format   does the text match a pattern?                 length   is it short enough?
    grader   what a grader of OpenAI's API says (`grader_objects`), as a job of its own names one

How one judges is said by its section of a recipe (`core.reward_sections`). An item that lacks the
field to judge by is an error: a 0 for it would say that every answer is wrong. Not here: what a
network thinks of an answer (`train.rewards`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

from bessemer.core.errors import DataError
from bessemer.core.protocols import Message
from bessemer.core.reward_sections import (
    CodePart,
    ExactPart,
    FormatPart,
    GraderPart,
    LengthPart,
)
from bessemer.core.sandbox import Limits, require_sandbox
from bessemer.core.unit_tests import passed
from bessemer.text.answers import code_in, in_box, in_tag, is_same, last_number
from bessemer.text.criterion_checks import sample_of
from bessemer.text.grader_objects import GraderObject, read_grader
from bessemer.text.patterns import Pattern
from bessemer.text.tokenizer import Tokenizer

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


class Grader(Protocol):
    """`name` is what its scores are called."""

    name: str

    def __call__(self, answers: Sequence[Answer]) -> list[float]: ...


def open_grader(
    part: ExactPart | FormatPart | CodePart | LengthPart | GraderPart, tokenizer: Tokenizer
) -> Grader:
    """The grader of a recipe's section.

    Args:
        tokenizer: whose tokens are counted where a length is.

    Raises:
        InvalidInput: a pattern that RE2 cannot read.
        SandboxUnavailable: code is to be judged, and cannot be run here.
    """
    match part:
        case ExactPart():
            return ExactGrader(part)
        case FormatPart():
            return FormatGrader(part)
        case CodePart():
            require_sandbox()
            return CodeGrader(part)
        case LengthPart():
            return LengthGrader(part, tokenizer)
        case GraderPart():
            return ObjectGrader(part)


class ExactGrader:
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


class FormatGrader:
    """1 where the whole text matches."""

    def __init__(self, part: FormatPart) -> None:
        self.name: str = part.kind
        self._pattern = Pattern(rf"(?s)\A(?:{part.pattern})\z")

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        return [float(self._pattern.matches(answer.text)) for answer in answers]


class CodeGrader:
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


class LengthGrader:
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


class ObjectGrader:
    """What a grader of OpenAI's API gives. A line without a field it reads is an error.

    An answer that cannot be judged (no JSON where JSON is read, an exception in the grader's
    Python) earns 0: such an answer is what the grader is there to discourage.
    """

    def __init__(self, part: GraderPart) -> None:
        self.name: str = part.kind
        self._grader: GraderObject = read_grader(json.loads(part.grader))
        self._grader.require_alone("in a run")
        if self._grader.runs_code:
            require_sandbox()

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        with ThreadPoolExecutor(JUDGES) as pool:
            return list(pool.map(self._score, answers))

    def _score(self, answer: Answer) -> float:
        self._grader.check_item(answer.item)
        finish = "stop" if answer.finished else "length"
        spaces = {"item": answer.item, "sample": sample_of(answer.text, finish_reason=finish)}
        try:
            return self._grader.grade(spaces).reward
        except DataError:
            return 0.0


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
