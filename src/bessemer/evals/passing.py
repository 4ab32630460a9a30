"""Pass rates of criteria, and of two runs over the same items: with intervals and in sentences.

A rate is of the items that were judged; its interval is Wilson's. Two runs are compared on the
items both judged, pair by pair (`core.interval`): better and worse need an interval that excludes
no difference and an exact sign test that agrees, everything else is "cannot tell".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from bessemer.core.interval import (
    FEWEST_CLUSTERS,
    LEVEL,
    Interval,
    Pair,
    Share,
    paired_interval,
    sign_test,
    wilson,
)

Verdict = Literal["better", "worse", "cannot tell"]
ALL = "all criteria"


class PassRate(msgspec.Struct, frozen=True):
    """`value` is passed / judged, and None (with its bounds) where nothing was judged yet."""

    passed: int
    judged: int
    value: float | None
    low: float | None
    high: float | None
    level: float = LEVEL

    @classmethod
    def of(cls, passed: int, judged: int) -> PassRate:
        if not judged:
            return cls(0, 0, None, None, None)
        low, high, level = wilson(passed, judged)
        return cls(passed, judged, passed / judged, low, high, level)

    def __str__(self) -> str:
        if self.value is None or self.low is None or self.high is None:
            return "nothing was judged yet"
        return (
            f"{self.value:.1%} ({self.passed} of {self.judged}),"
            f" {self.level:.0%} interval {self.low:.1%} to {self.high:.1%}"
        )


class PassComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Candidate against baseline by one criterion, on the `items` that both judged.

    `gained` and `lost` are the items that only the candidate, or only the baseline, passes.
    """

    criterion: str
    baseline: PassRate
    candidate: PassRate
    difference: Interval | None
    sign_test_p: float | None
    items: int
    gained: int
    lost: int
    verdict: Verdict
    reason: str
    sentence: str


class Names(NamedTuple):
    """What sentences call the two runs."""

    baseline: str
    candidate: str


Verdicts = Mapping[str, Mapping[str, bool]]
"""For each item, by its key, what its criteria said; `ALL` is among them."""


def compare_passes(
    criterion: str, baseline: Verdicts, candidate: Verdicts, names: Names
) -> PassComparison:
    """Hold two runs against each other by one criterion."""
    both = [
        (key, verdicts[criterion], candidate[key][criterion])
        for key, verdicts in baseline.items()
        if criterion in verdicts and criterion in candidate.get(key, {})
    ]
    pairs = [
        Pair(key, Share(float(before), 1.0), Share(float(after), 1.0))
        for key, before, after in both
    ]
    difference = paired_interval(pairs) if pairs else None
    p = sign_test(pairs) if pairs else None
    reason = _doubt(difference, p)
    verdict: Verdict = "cannot tell"
    if not reason and difference is not None:
        verdict = "better" if difference.value > 0 else "worse"
    rates = (
        PassRate.of(sum(before for _, before, _ in both), len(both)),
        PassRate.of(sum(after for _, _, after in both), len(both)),
    )
    return PassComparison(
        criterion=criterion,
        baseline=rates[0],
        candidate=rates[1],
        difference=difference,
        sign_test_p=p,
        items=len(both),
        gained=sum(after and not before for _, before, after in both),
        lost=sum(before and not after for _, before, after in both),
        verdict=verdict,
        reason=reason,
        sentence=_sentence(criterion, rates, difference, verdict, reason, names),
    )


def changed_items(baseline: Verdicts, candidate: Verdicts) -> list[str]:
    """The keys of items of which any criterion says something else now."""
    return [
        key
        for key, verdicts in baseline.items()
        if key in candidate
        and any(candidate[key].get(name, passed) != passed for name, passed in verdicts.items())
    ]


def _doubt(found: Interval | None, p: float | None) -> str:
    """Why a difference is no evidence; empty if it is."""
    if found is None or p is None:
        return "no item was judged in both runs"
    if found.clusters < FEWEST_CLUSTERS or found.low is None or found.high is None:
        return f"{_count(found.clusters)} are too few; {FEWEST_CLUSTERS} or more can tell"
    if found.low <= 0 <= found.high:
        return "the interval includes no difference"
    if p > 1 - found.level:
        return f"too few items differ (exact sign test: p = {p:.2f})"
    return ""


def _sentence(
    criterion: str,
    rates: Sequence[PassRate],
    difference: Interval | None,
    verdict: Verdict,
    reason: str,
    names: Names,
) -> str:
    if verdict == "cannot tell":
        claim = f"Cannot tell whether {names.candidate} differs from {names.baseline}"
        claim += f" in {criterion}: {reason}."
    else:
        claim = f"{names.candidate} is {verdict} than {names.baseline} in {criterion}."
    before, after = rates
    if difference is None or before.value is None or after.value is None:
        return claim
    numbers = f" {after.value:.1%} pass against {before.value:.1%}"
    numbers += f"; difference {100 * difference.value:+.1f} points"
    if difference.low is not None and difference.high is not None:
        numbers += f", {difference.level:.0%} interval"
        numbers += f" {100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
    return f"{claim}{numbers}; {_count(difference.clusters)} judged in both."


def _count(number: int) -> str:
    return f"{number} item" if number == 1 else f"{number} items"
