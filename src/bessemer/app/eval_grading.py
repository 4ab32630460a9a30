"""One item of a run: sample an answer if the run does that, judge it by every criterion.

    output = await Judge(serving, run, definition).judge(line)

What fails for one item (a value that is not there, a prompt that is too long, a grader that
raises) is told in its output and counted as an error. What would fail for all of them (no such
model, no right, no budget) ends the run: it is raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import msgspec

from bessemer.app.chat import ModelNotFound, Serving
from bessemer.app.eval_answers import Answer, ask, patiently
from bessemer.app.eval_definitions import Eval
from bessemer.app.eval_plans import SampleWith
from bessemer.app.eval_runs import EvalRun, Fault, NewOutput
from bessemer.app.eval_sources import Line
from bessemer.app.eval_tally import CriterionTally, ModelTally, Tally, Verdict
from bessemer.app.judging import judging, label_said, likeness, score_said
from bessemer.app.metering import Meter
from bessemer.core.digests import sha256_bytes
from bessemer.core.errors import (
    BessemerError,
    BudgetExceeded,
    DatabaseUnavailable,
    Missing,
    ModelTooLarge,
    PermissionDenied,
    Unauthenticated,
)
from bessemer.core.protocols import ChatRequest, Message, Sampling
from bessemer.text.criteria import (
    Criterion,
    LabelModel,
    ModelCriterion,
    ScoreModel,
    TextSimilarity,
    filled,
)
from bessemer.text.criterion_checks import Grade, completed, grade, sample_of

FATAL = (
    ModelNotFound, PermissionDenied, Unauthenticated, BudgetExceeded, Missing, ModelTooLarge,
    DatabaseUnavailable,
)  # fmt: skip

Json = dict[str, Any]


class _Judged(NamedTuple):
    """A criterion's result as it is stored; `grade` is None where it could say nothing."""

    result: Json
    grade: Grade | None


class Judge:
    """Judges the items of one run, any number of them at once.

    Args:
        serving: what answers, judges and embeds; in the name of the run's own principal.
        graders: threads for criteria that need no model, which may take their time.
        meter: who counts and charges what models are asked.
        partners: which of the models are asked elsewhere.
    """

    def __init__(
        self,
        serving: Serving,
        run: EvalRun,
        definition: Eval,
        graders: Executor | None = None,
        meter: Meter | None = None,
        partners: Collection[str] = (),
    ) -> None:
        assert run.plan is not None, f"{run.id} was imported, there is nothing to do"
        self._serving, self._principal = serving, run.principal
        self._meter, self._partners = meter, partners
        self._plan, self._definition, self._graders = run.plan, definition, graders

    async def judge(self, line: Line) -> NewOutput:
        """What became of the item.

        Raises:
            BessemerError: one of `FATAL`, which every other item would meet too.
        """
        models: dict[str, ModelTally] = {}
        try:
            sample, shown = await self._sample(line, models)
        except FATAL:
            raise
        except BessemerError as fault:
            shown = _shown([], None, Fault(fault.code, fault.message), self._plan.sampling)
            return _output(line, [], [], shown, models)
        spaces = {"item": line.item, "sample": sample}
        judged = [
            await self._result(label, criterion, spaces, models)
            for label, criterion in zip(
                self._definition.labels, self._definition.criteria, strict=True
            )
        ]
        return _output(line, self._definition.labels, judged, shown, models)

    async def _sample(self, line: Line, models: dict[str, ModelTally]) -> tuple[Json, Json]:
        """The namespace `sample`, and the answer as the API shows it."""
        plan = self._plan
        if plan.model is None:
            given = completed(line.sample or {})
            return given, _given(given)
        messages = plan.prompt(line)
        how = plan.sampling
        request = ChatRequest(
            request_id="",
            messages=messages,
            max_tokens=how.max_tokens,
            sampling=Sampling(temperature=how.temperature, top_p=how.top_p, seed=how.seed),
            constraint=how.constraint,
            tools=how.tools,
        )
        answer = await self._ask(plan.model, request, models)
        sample = sample_of(answer.text, answer.tool_calls, answer.finish_reason)
        return sample, _shown(messages, answer, Fault(), how)

    async def _result(
        self,
        label: str,
        criterion: Criterion,
        spaces: Mapping[str, Any],
        models: dict[str, ModelTally],
    ) -> _Judged:
        kind = criterion.__struct_config__.tag
        try:
            found = await self._grade(criterion, spaces, models)
        except FATAL:
            raise
        except BessemerError as fault:
            result = {"name": label, "type": kind, "score": 0.0, "passed": False, "sample": None}
            error = {"code": fault.code, "message": fault.message}
            return _Judged({**result, "error": error}, None)
        result = {"name": label, "type": kind, "score": found.score, "passed": found.passed}
        return _Judged({**result, "sample": found.note}, found)

    async def _grade(
        self, criterion: Criterion, spaces: Mapping[str, Any], models: dict[str, ModelTally]
    ) -> Grade:
        if isinstance(criterion, ScoreModel | LabelModel):
            return await self._ask_judge(criterion, spaces, models)
        if isinstance(criterion, TextSimilarity) and criterion.evaluation_metric == "cosine":
            return await self._cosine(criterion, spaces, models)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._graders, grade, criterion, spaces)

    async def _ask_judge(
        self, criterion: ModelCriterion, spaces: Mapping[str, Any], models: dict[str, ModelTally]
    ) -> Grade:
        messages = filled(criterion.input, spaces)
        request = judging(criterion, messages, partners=self._partners)
        answer = await self._ask(criterion.model, request, models)
        note = _note(messages, answer, criterion.model)
        if isinstance(criterion, LabelModel):
            label = label_said(criterion, answer.text)
            passed = label in criterion.passing_labels
            return Grade(float(passed), passed, {**note, "label": label})
        score = score_said(criterion, answer.text)
        return Grade(score, score >= criterion.threshold, note)

    async def _cosine(
        self, criterion: TextSimilarity, spaces: Mapping[str, Any], models: dict[str, ModelTally]
    ) -> Grade:
        found = await patiently(
            lambda: likeness(self._serving, self._principal, criterion, spaces, self._meter)
        )
        if found.model is not None:
            _count(models, found.model, ModelTally(1, found.prompt_tokens))
        return Grade(found.score, found.score >= criterion.pass_threshold)

    async def _ask(self, model: str, request: ChatRequest, models: dict[str, ModelTally]) -> Answer:
        answer = await ask(self._serving, self._principal, model, request, self._meter)
        usage = answer.usage
        _count(
            models,
            model,
            ModelTally(1, usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens),
        )
        return answer


def _count(models: dict[str, ModelTally], model: str, part: ModelTally) -> None:
    models[model] = models.get(model, ModelTally()) + part


def _output(
    line: Line,
    labels: Sequence[str],
    judged: Sequence[_Judged],
    sample: Json,
    models: Mapping[str, ModelTally],
) -> NewOutput:
    grades = {
        label: one.grade for label, one in zip(labels, judged, strict=True) if one.grade is not None
    }
    state: Verdict = "pass" if all(found.passed for found in grades.values()) else "fail"
    if not judged or len(grades) < len(judged):
        state = "error"
    part = Tally(
        passed=int(state == "pass"),
        failed=int(state == "fail"),
        errored=int(state == "error"),
        criteria={label: _part(grades.get(label)) for label in labels},
        models=dict(models),
    )
    body = {
        "datasource_item": line.item,
        "results": [one.result for one in judged],
        "sample": sample,
    }
    verdicts = {label: found.passed for label, found in grades.items()}
    encoded = msgspec.json.encode(body)
    return NewOutput(line.number, item_digest(line.item), state, verdicts, encoded, part)


def item_digest(item: Mapping[str, Any]) -> str:
    """What makes two items of two runs the same one."""
    return sha256_bytes(msgspec.json.encode(item, order="deterministic"))


def _part(found: Grade | None) -> CriterionTally:
    if found is None:
        return CriterionTally(errored=1)
    return CriterionTally(int(found.passed), int(not found.passed), 0, found.score)


def _shown(
    messages: Sequence[Message], answer: Answer | None, error: Fault, how: SampleWith
) -> Json:
    """An answer as OpenAI's API shows it; `max_completion_tokens` 0 is no limit of the run's."""
    usage = answer.usage if answer else None
    prompt, completion = (
        (usage.prompt_tokens, usage.completion_tokens) if usage is not None else (0, 0)
    )
    return {
        "input": list(messages),
        "output": [answer.message] if answer else [],
        "finish_reason": answer.finish_reason if answer else "",
        "model": answer.model if answer else "",
        "usage": {
            "total_tokens": prompt + completion,
            "completion_tokens": completion,
            "prompt_tokens": prompt,
            "cached_tokens": usage.cached_tokens if usage is not None else 0,
        },
        "error": error,
        "temperature": how.temperature,
        "max_completion_tokens": how.max_tokens or 0,
        "top_p": how.top_p,
        "seed": how.seed,
    }


def blank_sample() -> Json:
    """The answer of an item of which none is known."""
    return _shown([], None, Fault(), SampleWith())


def _given(sample: Mapping[str, Any]) -> Json:
    """A sample that came with its item: nothing was sampled, so nothing was used."""
    text, calls = sample.get("output_text"), sample.get("output_tools")
    said: Message = {"role": "assistant", "content": text if isinstance(text, str) else ""}
    if calls:
        said["tool_calls"] = calls
    output = [said] if calls or isinstance(text, str) else []
    return {**blank_sample(), "output": output}


def _note(messages: Sequence[Message], answer: Answer, model: str) -> Json:
    """What a judge was asked and said, kept beside its result."""
    usage = answer.usage
    return {
        "input": list(messages),
        "output": [answer.message],
        "finish_reason": answer.finish_reason,
        "model": model,
        "usage": {
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            "completion_tokens": usage.completion_tokens,
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
        },
    }
