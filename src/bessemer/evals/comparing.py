"""Measurements side by side: every value, every difference with its interval, a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

from bessemer.core.interval import (
    FEWEST_CLUSTERS,
    Interval,
    Pair,
    Share,
    paired_interval,
    sign_test,
)
from bessemer.evals.measuring import Measurement, describe_model
from bessemer.evals.metrics import METRICS, Metric, MetricName
from bessemer.evals.recipe import EvalRecipe

Verdict = Literal["better", "worse", "cannot tell"]


class Measured(NamedTuple):
    """A measurement and what the report calls its model."""

    label: str
    measurement: Measurement

    @property
    def who(self) -> str:
        return describe_model(self.label, self.measurement.shots)


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one model. `answered` of the `asked` items count in it."""

    metric: MetricName
    who: str
    label: str
    shots: int
    value: float
    unit: str
    better: Literal["lower", "higher"]
    answered: int
    asked: int
    weight: float


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Candidate against baseline on the items both answered.

    Without such items, or when the models cut text into different tokens, there is no
    difference; `reason` says why a verdict is "cannot tell".
    """

    metric: MetricName
    baseline: str
    candidate: str
    baseline_value: float | None
    candidate_value: float | None
    difference: Interval | None
    sign_test_p: float | None
    items: int
    left_out: int
    verdict: Verdict
    reason: str = ""


def values_of(measured: Measured) -> list[Value]:
    """Every metric that this measurement's rows give; none if it answered nothing."""
    measurement = measured.measurement
    return [
        _value(metric, measured)
        for metric in METRICS
        if metric.stage == measurement.stage and measurement.rows
    ]


def _value(metric: Metric, measured: Measured) -> Value:
    measurement = measured.measurement
    shares = [metric.share_of(row) for row in measurement.rows]
    return Value(
        metric=metric.name,
        who=measured.who,
        label=measured.label,
        shots=measurement.shots,
        value=_ratio(shares),
        unit=metric.unit,
        better=metric.better,
        answered=len(measurement.rows),
        asked=measurement.asked,
        weight=sum(share.weight for share in shares),
    )


def comparisons_of(measured: Sequence[Measured], recipe: EvalRecipe) -> list[Comparison]:
    """Each measurement against those that it is fair to hold it against, in reading order.

    The first label is the base. Another model, without examples, is held against the base
    without and with examples; the base with examples against itself without.
    """
    base = measured[0].label
    rank = {"answers": 0, "names": 1, "unrelated": 2}
    pairs = [
        (baseline, candidate)
        for candidate in measured
        for baseline in measured
        if baseline.label == base
        and baseline.measurement.stage == candidate.measurement.stage
        and (candidate.label != base or candidate.measurement.shots > baseline.measurement.shots)
    ]
    pairs.sort(key=lambda pair: (pair[1].label == base, rank[pair[0].measurement.stage]))
    return [
        compare(metric, baseline, candidate, recipe)
        for baseline, candidate in pairs
        for metric in METRICS
        if metric.stage == baseline.measurement.stage
    ]


def compare(
    metric: Metric, baseline: Measured, candidate: Measured, recipe: EvalRecipe
) -> Comparison:
    """Candidate minus baseline on the items that both answered."""
    pairs = list(_pairs(metric, baseline.measurement, candidate.measurement))
    difference = sign_test_p = None
    reason = _incomparable(metric, pairs)
    if not reason:
        difference = paired_interval(
            pairs, resamples=recipe.resamples, level=recipe.level, seed=recipe.seed
        )
        sign_test_p = sign_test(pairs) if metric.unit == "share" else None
        reason = _doubt(metric, difference, sign_test_p)
    asked = max(baseline.measurement.asked, candidate.measurement.asked)
    return Comparison(
        metric=metric.name,
        baseline=baseline.who,
        candidate=candidate.who,
        baseline_value=_ratio([pair.baseline for pair in pairs]) if pairs else None,
        candidate_value=_ratio([pair.candidate for pair in pairs]) if pairs else None,
        difference=difference,
        sign_test_p=sign_test_p,
        items=len(pairs),
        left_out=asked - len(pairs),
        verdict="cannot tell" if reason or difference is None else _sided(metric, difference),
        reason=reason,
    )


def _pairs(metric: Metric, baseline: Measurement, candidate: Measurement) -> Iterator[Pair]:
    answered = candidate.by_item()
    for row in baseline.rows:
        if row.item in answered:
            other = answered[row.item]
            yield Pair(row.cluster, metric.share_of(row), metric.share_of(other))


def _incomparable(metric: Metric, pairs: Sequence[Pair]) -> str:
    if not pairs:
        return "no item was answered by both"
    if any(pair.baseline.weight != pair.candidate.weight for pair in pairs):
        return "the models cut text into different tokens, so losses per token do not compare"
    return ""


def _doubt(metric: Metric, found: Interval, sign_test_p: float | None) -> str:
    """Why this difference is no evidence; empty if it is."""
    if found.clusters < FEWEST_CLUSTERS or found.low is None or found.high is None:
        return f"{found.clusters} sources are too few; {FEWEST_CLUSTERS} or more can tell"
    if found.low <= 0 <= found.high:
        return "the interval includes no difference"
    if abs(found.value) < metric.negligible:
        return f"a difference below {metric.negligible:g} can be rounding"
    if sign_test_p is not None and sign_test_p > 1 - found.level:
        return f"too few answers differ (exact sign test: p = {sign_test_p:.2f})"
    return ""


def _sided(metric: Metric, found: Interval) -> Verdict:
    is_lower = found.value < 0
    return "better" if is_lower == (metric.better == "lower") else "worse"


def _ratio(shares: Sequence[Share]) -> float:
    return sum(share.amount for share in shares) / sum(share.weight for share in shares)
