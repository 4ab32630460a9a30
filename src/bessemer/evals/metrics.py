"""What is read out of measured rows, and which way is better.

Every metric is a ratio over items: the sum of what each item contributes over the sum of its
weights. Loss per token and the share of right answers are the same kind of number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from bessemer.core.interval import Share
from bessemer.evals.likelihood import Likelihood
from bessemer.evals.naming import Naming

Row = Likelihood | Naming
Stage = Literal["answers", "names", "unrelated"]
MetricName = Literal["loss", "exact_match", "contains_name", "unrelated_loss"]


@dataclass(frozen=True)
class Metric:
    """One number about a model.

    Attributes:
        name: as in reports and events.
        title: in words, for a sentence.
        unit: of its value; "share" is shown as percent.
        better: which way.
        stage: whose rows it reads.
        negligible: a difference below this says nothing: the same model in other batches can
            differ by as much, through rounding.
    """

    name: MetricName
    title: str
    unit: Literal["nats per token", "share"]
    better: Literal["lower", "higher"]
    stage: Stage
    share_of: Callable[[Row], Share]
    negligible: float = 0.0


def _loss(row: Row) -> Share:
    assert isinstance(row, Likelihood), row
    return Share(row.nll_nats, row.tokens)


def _exact(row: Row) -> Share:
    assert isinstance(row, Naming), row
    return Share(float(row.exact), 1.0)


def _contains(row: Row) -> Share:
    assert isinstance(row, Naming), row
    return Share(float(row.contains), 1.0)


METRICS: tuple[Metric, ...] = (
    Metric("loss", "held-out loss", "nats per token", "lower", "answers", _loss, 1e-3),
    Metric("exact_match", "names exactly right", "share", "higher", "names", _exact),
    Metric("contains_name", "answers with the name in them", "share", "higher", "names", _contains),
    Metric(
        "unrelated_loss",
        "loss on unrelated text",
        "nats per token",
        "lower",
        "unrelated",
        _loss,
        1e-3,
    ),
)


def metric(name: MetricName) -> Metric:
    """The metric of this name."""
    return next(metric for metric in METRICS if metric.name == name)
