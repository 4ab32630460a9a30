"""What one evaluation found, as values and as JSON.

The JSON says everything that the sentences say, and `items.jsonl` (see `item_rows`) holds every
question and answer, so that anybody can compute the values again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from bessemer.evals.comparing import Comparison, Measured, Value, comparisons_of, values_of
from bessemer.evals.items import Item
from bessemer.evals.likelihood import Likelihood
from bessemer.evals.metrics import Row
from bessemer.evals.recipe import EvalRecipe
from bessemer.evals.wording import sentences_of


class NotAnswered(msgspec.Struct, frozen=True):
    """A question a model did not answer, and why."""

    who: str
    stage: str
    item: str
    message: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What one evaluation found. `sentences` is the whole of it in words."""

    sentences: list[str]
    comparisons: list[Comparison]
    values: list[Value]
    not_answered: list[NotAnswered]
    models: list[dict[str, str]]
    dataset: dict[str, str]
    settings: dict[str, Any]

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1)

    @classmethod
    def from_json(cls, data: bytes) -> Report:
        """Raises msgspec.ValidationError for what is not a report."""
        return msgspec.json.decode(data, type=cls)


def make_report(
    measured: Sequence[Measured],
    recipe: EvalRecipe,
    *,
    models: Sequence[Mapping[str, str]],
    dataset: Mapping[str, str],
) -> Report:
    """Every value and every fair comparison. The first of `measured` is of the base.

    Args:
        models: label, name and digest of each; no paths, which mean nothing elsewhere.
        dataset: name and digest.
    """
    values = [value for one in measured for value in values_of(one)]
    comparisons = comparisons_of(measured, recipe)
    return Report(
        sentences=sentences_of(comparisons, values),
        comparisons=comparisons,
        values=values,
        not_answered=_not_answered(measured),
        models=[dict(model) for model in models],
        dataset=dict(dataset),
        settings=recipe.model_dump(),
    )


def _not_answered(measured: Sequence[Measured]) -> list[NotAnswered]:
    return [
        NotAnswered(one.who, one.measurement.stage, failure.item, failure.message)
        for one in measured
        for failure in one.measurement.failures
    ]


def item_rows(items: Sequence[Item], measured: Sequence[Measured]) -> Iterator[dict[str, Any]]:
    """One row an item: what was asked, what was wanted, and what each model made of it.

    The passages of unrelated text, which their ids name, follow the chats.
    """
    results: dict[str, dict[str, dict[str, Any]]] = {}
    for one in measured:
        for row in one.measurement.rows:
            results.setdefault(row.item, {}).setdefault(one.who, {}).update(_facts(row))
        for failure in one.measurement.failures:
            error = {"error": failure.message}
            results.setdefault(failure.item, {}).setdefault(one.who, {}).update(error)
    for item in items:
        yield {
            "item": item.id,
            "kind": item.kind,
            "cluster": item.cluster,
            "asked": list(item.asked),
            "expected": item.expected,
            "results": results.pop(item.id, {}),
        }
    for passage, found in results.items():
        yield {"item": passage, "kind": "unrelated", "results": found}


def _facts(row: Row) -> dict[str, Any]:
    if isinstance(row, Likelihood):
        return {"nll_nats": row.nll_nats, "tokens": row.tokens}
    return {"answer": row.answer, "exact": row.exact, "contains": row.contains}
