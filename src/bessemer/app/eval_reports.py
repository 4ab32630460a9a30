"""What a run of an eval found: pass rates with intervals, and two runs held against each other.

    report_of(run, labels).sentence     # "Complete: 46 of 50 items pass all criteria, ..."
    compare(platform, principal, eval_id, baseline_id, candidate_id).sentences

A run that did not judge all of its items says so first, and is never called complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from bessemer.app import eval_definitions, eval_runs
from bessemer.app.eval_runs import EvalRun
from bessemer.app.eval_tally import CriterionTally
from bessemer.app.platform import Platform
from bessemer.core.errors import InvalidInput
from bessemer.core.principal import Principal
from bessemer.evals.passing import ALL as ALL  # a face takes it from here
from bessemer.evals.passing import (
    Names,
    PassComparison,
    PassRate,
    changed_items,
    compare_passes,
)

MAX_CHANGED = 200


class CriterionReport(msgspec.Struct, frozen=True):
    """`mean_score` is of the items that the criterion could judge."""

    criterion: str
    pass_rate: PassRate
    errored: int
    mean_score: float | None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`complete` is every item judged by every criterion; `pass_rate` is of all of them."""

    complete: bool
    total: int
    judged: int
    errored: int
    missing: int
    pass_rate: PassRate
    criteria: Sequence[CriterionReport]
    sentence: str


Change = Literal["lost", "gained", "other"]
CHANGES: tuple[Change, ...] = ("lost", "gained", "other")
"""Passed and fails now; failed and passes now; or only single criteria say something else."""


class Changed(msgspec.Struct, frozen=True):
    """An item that came out differently: its output in each run, and what each criterion said."""

    number: int
    change: Change
    baseline_output: str
    candidate_output: str
    baseline: Mapping[str, bool]
    candidate: Mapping[str, bool]


class RunComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two runs of one eval on the items that both judged; first by all criteria together.

    `changed` are at most `MAX_CHANGED` of the `changed_count` items, those that got worse first.
    """

    eval_id: str
    baseline: str
    candidate: str
    partial: bool
    sentences: Sequence[str]
    comparisons: Sequence[PassComparison]
    changed_count: int
    changed: Sequence[Changed]
    object: str = "eval.run.comparison"


def report_of(run: EvalRun, labels: Sequence[str]) -> Report:
    """The report of a run, whatever its state.

    Args:
        labels: the eval's, so that a criterion that judged nothing is there too.
    """
    tally = run.tally
    criteria = [_criterion(label, tally.criteria.get(label)) for label in labels]
    rate = PassRate.of(tally.passed, tally.passed + tally.failed)
    return Report(
        complete=run.state == "completed" and not tally.errored and tally.done == run.total,
        total=run.total,
        judged=tally.passed + tally.failed,
        errored=tally.errored,
        missing=run.total - tally.done,
        pass_rate=rate,
        criteria=criteria,
        sentence=_sentence(run, rate),
    )


def compare(
    platform: Platform, principal: Principal, eval_id: str, baseline_id: str, candidate_id: str
) -> RunComparison:
    """Hold one run against another, item by item.

    Raises:
        NotFound: no such eval or run.
        InvalidInput: a run is held against itself.
    """
    definition = eval_definitions.get(platform, principal, eval_id)
    if baseline_id == candidate_id:
        raise InvalidInput("a run cannot be held against itself", param="with")
    runs = [
        eval_runs.get(platform, principal, eval_id, run_id)
        for run_id in (baseline_id, candidate_id)
    ]
    items = [_items_of(platform, run.id) for run in runs]
    verdicts = [{key: one.verdicts for key, one in found.items()} for found in items]
    names = _names(runs)
    comparisons = [
        compare_passes(criterion, verdicts[0], verdicts[1], names)
        for criterion in (ALL, *definition.labels)
    ]
    changed = sorted(
        changed_items(verdicts[0], verdicts[1]),
        key=lambda key: CHANGES.index(_change(verdicts[0][key], verdicts[1][key])),
    )
    partial = [run for run in runs if not report_of(run, definition.labels).complete]
    return RunComparison(
        eval_id=eval_id,
        baseline=baseline_id,
        candidate=candidate_id,
        partial=bool(partial),
        sentences=[
            *(report_of(run, definition.labels).sentence for run in partial),
            *(found.sentence for found in comparisons),
        ],
        comparisons=comparisons,
        changed_count=len(changed),
        changed=[_changed(items[0][key], items[1][key]) for key in changed[:MAX_CHANGED]],
    )


class _Item(NamedTuple):
    output_id: str
    number: int
    verdicts: Mapping[str, bool]


def _items_of(platform: Platform, run_id: str) -> dict[str, _Item]:
    """By an item's digest; where an item is there twice, its second is a key of its own."""
    found: dict[str, _Item] = {}
    seen: dict[str, int] = {}
    for output_id, number, digest, state, verdicts in eval_runs.verdicts_of(platform, run_id):
        seen[digest] = seen.get(digest, 0) + 1
        whole = {} if state == "error" else {ALL: state == "pass"}
        found[f"{digest} {seen[digest]}"] = _Item(output_id, number, {**whole, **verdicts})
    return found


def _changed(before: _Item, after: _Item) -> Changed:
    change = _change(before.verdicts, after.verdicts)
    outputs = before.output_id, after.output_id
    return Changed(after.number, change, *outputs, before.verdicts, after.verdicts)


def _change(before: Mapping[str, bool], after: Mapping[str, bool]) -> Change:
    passed, passes = before.get(ALL), after.get(ALL)
    if passed is None or passes is None or passed == passes:
        return "other"
    return "lost" if passed else "gained"


def _names(runs: Sequence[EvalRun]) -> Names:
    """What people call them, with ids only where that is needed to tell them apart."""
    before, after = (run.name for run in runs)
    if before == after:
        before, after = (f"{run.name} ({run.id})" for run in runs)
    return Names(before, after)


def _criterion(label: str, found: CriterionTally | None) -> CriterionReport:
    found = found or CriterionTally()
    mean = found.score / found.judged if found.judged else None
    return CriterionReport(label, PassRate.of(found.passed, found.judged), found.errored, mean)


def _sentence(run: EvalRun, rate: PassRate) -> str:
    faults = list(_faults(run))
    head = f"Partial ({'; '.join(faults)})" if faults else "Complete"
    if rate.value is None:
        return f"{head}: {rate}."
    return f"{head}: {rate} of the judged items pass all criteria."


def _faults(run: EvalRun) -> Iterator[str]:
    """Why a run is less than it was asked to be."""
    if run.state != "completed":
        reason = f": {run.error.message}" if run.error.message else ""
        yield f"the run {run.name} is {run.state.replace('_', ' ')}{reason}"
    if missing := run.total - run.tally.done:
        yield f"{missing} of {run.total} items have no output"
    if errored := run.tally.errored:
        yield f"{errored} of {run.total} items could not be judged"
