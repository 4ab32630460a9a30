"""Values and differences as plain sentences and as table rows, for whoever shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bessemer.core.interval import Interval
from bessemer.evals.comparing import Comparison, Value
from bessemer.evals.metrics import Metric, metric


class ValueRow(NamedTuple):
    """One line of a table of values."""

    metric: str
    model: str
    value: str
    items: str


class DifferenceRow(NamedTuple):
    """One line of a table of differences."""

    metric: str
    models: str
    difference: str
    interval: str
    verdict: str


def sentences_of(comparisons: Sequence[Comparison], values: Sequence[Value]) -> list[str]:
    """What was found. Without a comparison (one model, no examples), its bare values."""
    if comparisons:
        return [sentence(comparison) for comparison in comparisons]
    return [
        f"{_capital(value.who)}: {metric(value.metric).title} "
        f"{show(metric(value.metric), value.value)}, on {_items(value.answered, value.asked)}."
        for value in values
    ]


def sentence(found: Comparison) -> str:
    """Better, worse, or cannot tell, with the numbers."""
    kind = metric(found.metric)
    if found.verdict == "cannot tell":
        claim = f"Cannot tell whether {found.candidate} differs from {found.baseline}"
        claim += f" in {kind.title}: {found.reason}"
    else:
        claim = f"{_capital(found.candidate)} is {found.verdict} than {found.baseline}"
        claim += f" in {kind.title}"
    if found.baseline_value is None or found.candidate_value is None:
        return f"{claim}."
    numbers = f"{show(kind, found.candidate_value)} against {show(kind, found.baseline_value)}"
    return f"{claim}. {numbers} ({kind.better} is better){_evidence(kind, found)}."


def _evidence(kind: Metric, found: Comparison) -> str:
    if found.difference is None:
        return ""
    interval = found.difference
    text = f"; difference {show_difference(kind, interval.value)}"
    if interval.low is not None:
        text += f", {interval.level:.0%} interval {show_interval(kind, interval)}"
    items = _items(found.items, found.items + found.left_out)
    return f"{text}; {items} from {_count(interval.clusters, 'source')}"


def _items(answered: int, asked: int) -> str:
    if answered == asked:
        return _count(asked, "item")
    left_out = asked - answered
    return f"{answered} of {_count(asked, 'item')} ({left_out} left out: no answer to compare)"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def show(kind: Metric, value: float) -> str:
    """A value with its unit."""
    return f"{value:.1%}" if kind.unit == "share" else f"{value:.3f} {kind.unit}"


def show_difference(kind: Metric, value: float) -> str:
    """A difference with its sign; of shares in percentage points."""
    return f"{100 * value:+.1f} points" if kind.unit == "share" else f"{value:+.3f}"


def show_interval(kind: Metric, interval: Interval) -> str:
    """`-1.581 to -1.312`; a dash where there is none."""
    if interval.low is None or interval.high is None:
        return "–"
    scale, digits = (100, 1) if kind.unit == "share" else (1, 3)
    low, high = scale * interval.low, scale * interval.high
    return f"{low:+.{digits}f} to {high:+.{digits}f}"


def value_rows(values: Sequence[Value]) -> list[ValueRow]:
    """Every measured value."""
    return [
        ValueRow(
            f"{metric(value.metric).title} ({value.better} is better)",
            value.who,
            show(metric(value.metric), value.value),
            f"{value.answered} of {value.asked}",
        )
        for value in values
    ]


def difference_rows(comparisons: Sequence[Comparison]) -> list[DifferenceRow]:
    """Every comparison."""
    return [_difference_row(metric(found.metric), found) for found in comparisons]


def _difference_row(kind: Metric, found: Comparison) -> DifferenceRow:
    difference = found.difference
    return DifferenceRow(
        kind.title,
        f"{found.candidate} against {found.baseline}",
        "–" if difference is None else show_difference(kind, difference.value),
        "–" if difference is None else show_interval(kind, difference),
        found.verdict,
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
