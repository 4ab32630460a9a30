"""What the outputs of a run add up to: counts by verdict, by criterion and by model.

tally = tally + part        # the part of one output
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar

import msgspec

Verdict = Literal["pass", "fail", "error"]


class CriterionTally(msgspec.Struct, frozen=True):
    """`errored` are items of which the criterion could say nothing; `score` is a sum."""

    passed: int = 0
    failed: int = 0
    errored: int = 0
    score: float = 0.0

    def __add__(self, other: CriterionTally) -> CriterionTally:
        return CriterionTally(
            self.passed + other.passed,
            self.failed + other.failed,
            self.errored + other.errored,
            self.score + other.score,
        )

    @property
    def judged(self) -> int:
        return self.passed + self.failed


class ModelTally(msgspec.Struct, frozen=True):
    """Calls of one model, sampling and judging, by its own count of tokens."""

    invocations: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def __add__(self, other: ModelTally) -> ModelTally:
        return ModelTally(
            self.invocations + other.invocations,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
        )


class Tally(msgspec.Struct, frozen=True):
    """Items by verdict; `criteria` by label and `models` by name."""

    passed: int = 0
    failed: int = 0
    errored: int = 0
    criteria: Mapping[str, CriterionTally] = {}
    models: Mapping[str, ModelTally] = {}

    @property
    def done(self) -> int:
        return self.passed + self.failed + self.errored

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.passed + other.passed,
            self.failed + other.failed,
            self.errored + other.errored,
            _merged(self.criteria, other.criteria, CriterionTally()),
            _merged(self.models, other.models, ModelTally()),
        )


T = TypeVar("T", CriterionTally, ModelTally)


def _merged(first: Mapping[str, T], second: Mapping[str, T], none: T) -> dict[str, T]:
    names = dict.fromkeys([*first, *second])
    return {name: first.get(name, none) + second.get(name, none) for name in names}
