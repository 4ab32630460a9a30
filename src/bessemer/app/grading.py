"""One grader, one answer: what `graders/run` does, and what a job's rewards are made of.

Criteria that need nobody else are `text.grader_objects`' work. Here models are asked for a score or
a label, each held to an answer that can be read, and an embedding model for the vectors of
`cosine`. A grader that cannot judge this answer gives 0, and `Errors` says why.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from bessemer.app.chat import Serving, respond
from bessemer.app.judging import judging, label_said, likeness, partners_of, score_said
from bessemer.app.metering import Meter
from bessemer.core.errors import BessemerError, DataError
from bessemer.core.ids import new_id
from bessemer.core.principal import Principal
from bessemer.core.protocols import ChatRequest
from bessemer.text.criteria import (
    Criterion,
    LabelModel,
    PythonCheck,
    ScoreModel,
    TextSimilarity,
    filled,
    places_of,
)
from bessemer.text.criterion_checks import Spaces, grade, sample_of
from bessemer.text.grader_objects import GraderObject, read_grader

SCOPE = "runs:write"


class Errors(msgspec.Struct):
    """What kept a grader from judging, in the words of OpenAI's API."""

    formula_parse_error: bool = False
    sample_parse_error: bool = False
    truncated_observation_error: bool = False
    unresponsive_reward_error: bool = False
    invalid_variable_error: bool = False
    other_error: bool = False
    python_grader_server_error: bool = False
    python_grader_server_error_type: str | None = None
    python_grader_runtime_error: bool = False
    python_grader_runtime_error_details: str | None = None
    model_grader_server_error: bool = False
    model_grader_refusal_error: bool = False
    model_grader_parse_error: bool = False
    model_grader_server_error_details: str | None = None


class Graded(NamedTuple):
    """`scores` are of every criterion by name; `tokens` what each model was asked and said."""

    grader: GraderObject
    reward: float
    scores: Mapping[str, float]
    errors: Errors
    tokens: Mapping[str, int]
    seconds: float


def validate(principal: Principal, spelled: Mapping[str, Any]) -> GraderObject:
    """Read a grader. Raises InvalidInput, naming the field."""
    principal.require(SCOPE)
    return read_grader(spelled)


async def run_grader(
    serving: Serving | None,
    principal: Principal,
    spelled: Mapping[str, Any],
    item: Mapping[str, Any],
    answer: str,
    meter: Meter | None = None,
) -> Graded:
    """Judge an answer.

    Args:
        serving: what is asked by graders that ask models.
        meter: who counts and charges that.

    Raises:
        InvalidInput: the grader cannot be read.
        ModelNotFound: it asks a model that is not served.
        SandboxUnavailable: it runs code, and there is nowhere to run it.
    """
    grader = validate(principal, spelled)
    return await _Run(serving, principal, grader, meter).grade(
        {"item": item, "sample": sample_of(answer)}
    )


class _Run:
    """One grader at one answer."""

    def __init__(
        self,
        serving: Serving | None,
        principal: Principal,
        grader: GraderObject,
        meter: Meter | None,
    ) -> None:
        self._serving, self._principal, self._grader = serving, principal, grader
        self._meter = meter
        self._errors, self._tokens = Errors(), dict[str, int]()

    async def grade(self, spaces: Spaces) -> Graded:
        began_s = time.monotonic()
        scores = {
            name: await self._score(part, spaces) for name, part in self._grader.parts.items()
        }
        reward = 0.0
        try:
            reward = self._grader.grade(spaces, scores).reward
        except DataError:  # every part has its score, so it is the formula
            self._errors.formula_parse_error = True
        seconds = time.monotonic() - began_s
        return Graded(self._grader, reward, scores, self._errors, self._tokens, seconds)

    async def _score(self, part: Criterion, spaces: Spaces) -> float:
        """0 where it cannot judge; why is noted."""
        if not self._finds(part, spaces):
            return 0.0
        try:
            if isinstance(part, ScoreModel | LabelModel):
                return await self._asked(part, spaces)
            if isinstance(part, TextSimilarity) and part.evaluation_metric == "cosine":
                return await self._cosine(part, spaces)
            return (await asyncio.to_thread(grade, part, spaces)).score
        except DataError as fault:
            self._note(part, fault)
            return 0.0

    def _finds(self, part: Criterion, spaces: Spaces) -> bool:
        """Whether everything that it reads is there."""
        for place in places_of(part):
            try:
                place.find(spaces)
            except DataError:
                if place.namespace == "sample":
                    self._errors.sample_parse_error = True
                else:
                    self._errors.invalid_variable_error = True
                return False
        return True

    def _note(self, part: Criterion, fault: BessemerError) -> None:
        if isinstance(part, PythonCheck):
            self._errors.python_grader_runtime_error = True
            self._errors.python_grader_runtime_error_details = fault.message
        elif isinstance(part, ScoreModel | LabelModel):
            self._errors.model_grader_parse_error = True
        else:
            self._errors.other_error = True

    async def _asked(self, part: ScoreModel | LabelModel, spaces: Spaces) -> float:
        assert self._serving is not None, "a grader that asks models needs somebody to ask"
        partners = await asyncio.to_thread(partners_of, self._serving, self._principal)
        messages = filled(part.input, spaces)
        request = judging(part, messages, new_id("grader"), partners=partners)
        return _read(part, await self._ask(part.model, request))

    async def _ask(self, model: str, request: ChatRequest) -> str:
        assert self._serving is not None, "a grader that asks models needs somebody to ask"
        said = ""
        reply = respond(
            self._serving, self._principal, model, request,
            whole=True, meter=self._meter, kind="evaluation",
        )  # fmt: skip
        async for delta in reply:
            said += delta.text
            if delta.usage is not None:
                used = delta.usage.prompt_tokens + delta.usage.completion_tokens
                self._tokens[model] = self._tokens.get(model, 0) + used
        return said.strip()

    async def _cosine(self, part: TextSimilarity, spaces: Spaces) -> float:
        assert self._serving is not None, "a grader that asks models needs somebody to ask"
        found = await likeness(self._serving, self._principal, part, spaces, self._meter)
        if found.model is not None:
            self._tokens[found.model] = self._tokens.get(found.model, 0) + found.prompt_tokens
        return found.score


def _read(part: ScoreModel | LabelModel, said: str) -> float:
    """Raises DataError: the judge did not say what it was to say."""
    if isinstance(part, LabelModel):
        return float(label_said(part, said) in part.passing_labels)
    return score_said(part, said)
