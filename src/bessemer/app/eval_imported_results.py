"""Results as OpenAI's API tells them, as results of here: of one item, and of a whole run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from bessemer.app.eval_exports import Json, said
from bessemer.app.eval_grading import blank_sample, item_digest
from bessemer.app.eval_runs import NewOutput
from bessemer.app.eval_tally import CriterionTally, ModelTally, Tally, Verdict

ToLabels = Callable[[Sequence[str]], list[str]]

_STATES: dict[Any, Verdict] = {"pass": "pass", "fail": "fail"}


def tally_of(run: Json, labels: Sequence[str], to_labels: ToLabels) -> Tally:
    """What a run says of itself, for as long as its results are not here."""
    counts = run.get("result_counts") or {}
    told = run.get("per_testing_criteria_results") or []
    names = to_labels([str(one.get("testing_criteria")) for one in told])
    return Tally(
        passed=int(counts.get("passed") or 0),
        failed=int(counts.get("failed") or 0),
        errored=int(counts.get("errored") or 0),
        criteria={
            name: CriterionTally(int(one.get("passed") or 0), int(one.get("failed") or 0))
            for name, one in zip(names, told, strict=True)
            if name in labels
        },
        models={
            str(one.get("model_name")): ModelTally(
                int(one.get("invocation_count") or 0),
                int(one.get("prompt_tokens") or 0),
                int(one.get("completion_tokens") or 0),
                int(one.get("cached_tokens") or 0),
            )
            for one in run.get("per_model_usage") or []
        },
    )


def made_ms(sent: Json) -> int | None:
    """When an object was made, Unix milliseconds; None where it does not say."""
    seconds = sent.get("created_at")
    if not isinstance(seconds, int | float) or not 0 < seconds < 2**36:
        return None
    return int(seconds) * 1000


def usage_of(tally: Tally) -> Tally:
    """Only what models used."""
    return Tally(models=tally.models)


def output_of(sent: Json, labels: Sequence[str], to_labels: ToLabels) -> NewOutput | None:
    """One item's result; None where it says neither which item nor its number."""
    item, number = sent.get("datasource_item"), sent.get("datasource_item_id")
    if not isinstance(item, dict) or not isinstance(number, int):
        return None
    told = [one for one in sent.get("results") or [] if isinstance(one, dict)]
    names = to_labels([str(one.get("name")) for one in told])
    results = [{**_blank(one), **one, "name": name} for one, name in zip(told, names, strict=True)]
    state = _STATES.get(sent.get("status"), "error")
    judged = {
        name: one
        for name, one in zip(names, told, strict=True)
        if name in labels and isinstance(one.get("passed"), bool) and not _has_error(one)
    }
    unsaid = [name for name, one in zip(names, told, strict=True) if _has_error(one)]
    part = Tally(
        passed=int(state == "pass"),
        failed=int(state == "fail"),
        errored=int(state == "error"),
        criteria={
            **{name: CriterionTally(errored=1) for name in unsaid if name in labels},
            **{name: _part(one) for name, one in judged.items()},
        },
    )
    sample = _sample(sent.get("sample") or {})
    body = {"datasource_item": item, "results": results, "sample": sample}
    verdicts = {name: bool(one["passed"]) for name, one in judged.items()}
    encoded = msgspec.json.encode(body)
    created_ms = made_ms(sent)
    return NewOutput(number, item_digest(item), state, verdicts, encoded, part, created_ms)


def _sample(sent: Json) -> dict[str, Any]:
    """With every field that the API promises: what was not said is what nothing says here."""
    found = {**blank_sample(), **said(sent)}
    for side in ("input", "output"):
        found[side] = [{"content": "", **one} for one in found[side] if isinstance(one, dict)]
    return found


def _has_error(result: Json) -> bool:
    """Whether its criterion could say nothing; a judge's error is in what the judge said."""
    sample = result.get("sample")
    return bool(result.get("error") or (isinstance(sample, dict) and sample.get("error")))


def _blank(result: Json) -> dict[str, Any]:
    """What a criterion leaves out that could say nothing."""
    return {"score": float(result.get("passed") is True), "passed": False}


def _part(result: Json) -> CriterionTally:
    passed, score = bool(result["passed"]), result.get("score")
    number = float(score) if isinstance(score, int | float) else float(passed)
    return CriterionTally(int(passed), int(not passed), 0, number)
