"""Runs of evals and their outputs as the templates read them. The words of a result are `app`'s."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from bessemer.app.eval_definitions import Eval
from bessemer.app.eval_reports import ALL, Changed, report_of
from bessemer.app.eval_runs import OPEN, EvalRun, Output
from bessemer.console import wording
from bessemer.console.file_view import ShownText


class CriterionView(NamedTuple):
    """A criterion: its label, its type, and what it asks for in short."""

    label: str
    kind: str
    asks: str


class EvalRunView:
    """A run with its report."""

    def __init__(self, run: EvalRun, labels: list[str]) -> None:
        self.run, self.report = run, report_of(run, labels)
        self.created_s = run.created_ms / 1000
        self.is_live = run.state in OPEN
        self.share = run.tally.done / run.total if run.total else 0.0
        self.items = [
            ("pass", run.tally.passed), ("fail", run.tally.failed), ("error", run.tally.errored)
        ]  # fmt: skip

    @property
    def progress_text(self) -> str:
        """`12 of 50 items · 20 s left`."""
        done, total = self.run.tally.done, self.run.total
        text = f"{done:,} of {total:,} items"
        if not self.is_live:
            ended = self.run.ended_ms
            took = "" if ended is None else wording.duration((ended - self.run.created_ms) / 1000)
            return f"{text} in {took}" if took else text
        if self.run.state == "queued":
            return f"{text} · waiting for its turn"
        spent_s = time.time() - self.created_s
        return (
            f"{text} · {wording.duration(spent_s * (total - done) / done)} left" if done else text
        )


class ResultView(NamedTuple):
    """What one criterion said of an item. `said` is the judge's answer, where a model judged."""

    name: str
    passed: bool
    score: str
    said: str
    fault: str


class OutputView:
    """What became of one item: the item, the answer, and each criterion's result."""

    def __init__(self, output: Output) -> None:
        self.id, self.number, self.state = output.id, output.number, output.state
        body = {name: msgspec.json.decode(raw) for name, raw in output.body.items()}
        sample = body.get("sample") or {}
        self.item = ShownText.of(_pretty(body.get("datasource_item")))
        self.answer = ShownText.of("\n".join(map(_said, sample.get("output") or [])))
        self.fault = _fault(sample)
        self.results = [_result(one) for one in body.get("results") or []]


class ChangedView(NamedTuple):
    """An item that came out differently, with both answers, and which criteria said otherwise."""

    kind: str
    number: int
    before: OutputView
    after: OutputView
    flips: list[tuple[str, bool]]


def criteria_of(definition: Eval) -> list[CriterionView]:
    found = []
    for label, criterion in zip(definition.labels, definition.criteria, strict=True):
        told = msgspec.to_builtins(criterion)
        asked = {key: value for key, value in told.items() if key not in ("type", "name")}
        found.append(CriterionView(label, told["type"].replace("_", " "), _in_short(asked)))
    return found


def flips_of(changed: Changed) -> list[tuple[str, bool]]:
    """The criteria that say something else now, and whether it is a pass."""
    return [
        (name, changed.candidate[name])
        for name, passed in changed.baseline.items()
        if name != ALL and changed.candidate.get(name, passed) != passed
    ]


def _result(told: Mapping[str, Any]) -> ResultView:
    sample = told.get("sample") or {}
    said = "\n".join(map(_said, sample.get("output") or [])) if isinstance(sample, dict) else ""
    fault = told.get("error") or (_fault(sample) if isinstance(sample, dict) else "")
    score = told.get("score")
    return ResultView(
        str(told.get("name", "")),
        bool(told.get("passed")),
        wording.setting(score),
        said[:500],
        fault if isinstance(fault, str) else str(fault.get("message", "")),
    )


def _said(message: Any) -> str:
    if not isinstance(message, dict):
        return str(message)
    calls = [
        f"{call['function'].get('name')}({call['function'].get('arguments', '')})"
        for call in message.get("tool_calls") or []
        if isinstance(call, dict) and isinstance(call.get("function"), dict)
    ]
    content = message.get("content")
    text = content if isinstance(content, str) else "" if content is None else _pretty(content)
    return "\n".join(part for part in (text, *calls) if part)


def _fault(sample: Mapping[str, Any]) -> str:
    error = sample.get("error")
    return str(error.get("message") or "") if isinstance(error, dict) else ""


def _in_short(asked: Mapping[str, Any]) -> str:
    told = (f"{key}: {value if isinstance(value, str) else json.dumps(value)}" for key, value in
            asked.items())  # fmt: skip
    return "; ".join(told)[:400]


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)
