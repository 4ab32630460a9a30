"""Graders of OpenAI's fine-tuning API: one criterion, or a `multi` of them and a formula.

    grader = read_grader({"type": "string_check", "name": "right", "operation": "eq",
                          "input": "{{sample.output_text}}", "reference": "{{item.answer}}"})
    grader.grade({"item": {"answer": "42"}, "sample": sample_of("42")}).reward      # 1.0

What a criterion says of an answer is `criterion_checks`. Here are only those that need nobody
else; whoever has models or vectors to judge with hands in what they say (`app.grading`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from bessemer.core.errors import InvalidInput
from bessemer.text.criteria import (
    Criterion,
    LabelModel,
    PythonCheck,
    ScoreModel,
    StringCheck,
    TextSimilarity,
    checked,
    places_of,
)
from bessemer.text.criterion_checks import Spaces, grade
from bessemer.text.formula import Formula
from bessemer.text.grader_modules import require_modules

MOST_GRADERS = 20
_MISSING = re.compile(r"Object missing required field `(.*)`")
_KINDS = ("string_check", "text_similarity", "python", "score_model", "label_model", "multi")


class Reward(NamedTuple):
    """What an answer earns; `parts` are those of a `multi`, by name."""

    reward: float
    parts: Mapping[str, float]


class GraderObject(NamedTuple):
    """A grader that was read. `parts` has one criterion, or those of a `multi` with its formula."""

    name: str
    kind: str
    parts: Mapping[str, Criterion]
    formula: Formula | None
    spelled: Mapping[str, Any]

    @property
    def runs_code(self) -> bool:
        return any(isinstance(part, PythonCheck) for part in self.parts.values())

    def require_alone(self, where: str) -> None:
        """Raises InvalidInput unless it needs neither models nor vectors."""
        for name, part in self.parts.items():
            if needs_others(part):
                kind = part.__struct_config__.tag
                what = f"{kind} with cosine" if isinstance(part, TextSimilarity) else str(kind)
                raise InvalidInput(
                    f"the grader {name!r} is a {what}, which asks a model; no model can be asked"
                    f" {where}",
                    next_step="use string_check, text_similarity by another metric, python, or a"
                    " multi of them",
                    param="method.reinforcement.grader",
                )

    def check_item(self, item: Mapping[str, Any]) -> None:
        """Raises DataError: a field that it reads is not there."""
        for part in self.parts.values():
            for place in places_of(part):
                if place.namespace == "item":
                    place.find({"item": item})

    def grade(self, spaces: Spaces, said: Mapping[str, float] | None = None) -> Reward:
        """Judge an answer.

        Args:
            said: scores of those parts that `needs_others`, by name.

        Raises:
            DataError: a value is not there, code gives no number, the formula has no value.
            SandboxUnavailable: code is to be run, and there is nowhere to run it.
        """
        scores = dict(said or {})
        for name, part in self.parts.items():
            if isinstance(part, StringCheck | TextSimilarity | PythonCheck) and name not in scores:
                scores[name] = grade(part, spaces).score
        if self.formula is None:
            (only,) = scores.values()
            return Reward(only, {})
        return Reward(self.formula.value(scores), scores)


def needs_others(part: Criterion) -> bool:
    """Whether a model or vectors have to be asked."""
    cosine = isinstance(part, TextSimilarity) and part.evaluation_metric == "cosine"
    return cosine or isinstance(part, ScoreModel | LabelModel)


def read_grader(spelled: Mapping[str, Any], place: str = "grader") -> GraderObject:
    """Read a grader as the API spells it.

    Raises:
        InvalidInput: naming the field after `place`.
    """
    kind = spelled.get("type")
    if kind not in _KINDS or kind == "label_model":
        raise InvalidInput(
            f"'{place}.type' is {str(kind)[:100]!r}; it takes"
            f" {', '.join(known for known in _KINDS if known != 'label_model')}",
            param=f"{place}.type",
        )
    if kind == "multi":
        return _read_multi(spelled, place)
    part = _read_part(spelled, place)
    return GraderObject(part.name, str(kind), {part.name: part}, None, dict(spelled))


class _Multi(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    name: str
    graders: dict[str, Any]
    calculate_output: str


def _read_multi(spelled: Mapping[str, Any], place: str) -> GraderObject:
    multi = _convert(spelled, _Multi, place)
    named = multi.graders
    if "type" in named and not isinstance(named["type"], Mapping):
        # The specification's own spelling: one grader, not a mapping of them.
        named = {str(named.get("name")): named}
    if not 1 <= len(named) <= MOST_GRADERS:
        raise InvalidInput(
            f"'{place}.graders' has {len(named)}; it takes 1 to {MOST_GRADERS}",
            param=f"{place}.graders",
        )
    parts = {}
    for name, one in named.items():
        if not isinstance(one, Mapping):
            raise InvalidInput(f"'{place}.graders.{name[:100]}' is no grader", param=place)
        parts[name] = _read_part(one, f"{place}.graders.{name[:100]}")
    try:
        formula = Formula(multi.calculate_output)
    except InvalidInput as fault:
        raise InvalidInput(
            fault.message, next_step=fault.next_step, param=f"{place}.calculate_output"
        ) from None
    unknown = sorted(formula.names - parts.keys())
    if unknown:
        raise InvalidInput(
            f"'{place}.calculate_output' names {unknown[0][:100]!r}, and the graders are"
            f" {', '.join(sorted(parts))}",
            param=f"{place}.calculate_output",
        )
    return GraderObject(multi.name, "multi", parts, formula, dict(spelled))


def _read_part(spelled: Mapping[str, Any], place: str) -> Criterion:
    if "pass_threshold" in spelled:
        raise InvalidInput(
            "a grader gives a number; only an eval's criterion passes or fails by a threshold",
            param=f"{place}.pass_threshold",
        )
    # A criterion has to say when it passes; a grader is only asked for the number.
    threshold = {"pass_threshold": 0.0} if spelled.get("type") == "text_similarity" else {}
    if spelled.get("type") == "multi":
        raise InvalidInput("a multi grader holds no other multi", param=f"{place}.type")
    part: Criterion = _convert({**spelled, **threshold}, Criterion, place)
    part = checked(part, place)
    if isinstance(part, PythonCheck):
        require_modules(part.source, f"{place}.source")
    return part


def _convert(value: Any, kind: Any, place: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as fault:
        what, _, where = str(fault).partition(" - at `$.")
        field = f"{place}.{where.removesuffix('`')}" if where else place
        missing = _MISSING.fullmatch(what)
        if missing is not None:
            field = f"{field}.{missing[1]}"
            raise InvalidInput(f"Missing required parameter: '{field}'.", param=field) from None
        raise InvalidInput(f"Invalid value for '{field}': {what}.", param=field) from None
