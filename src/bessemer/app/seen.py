"""Which steps of a training run saw a document: those taken, and those still to come.

Computed from the run's folder and its data by inverting the data order (`app.tracing`), once for
each epoch; no step is replayed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from bessemer.app import jobs
from bessemer.app.platform import Platform
from bessemer.core.errors import Conflict, InvalidInput, NotFound
from bessemer.core.principal import Principal
from bessemer.core.recipes import load
from bessemer.core.runs import RunFolder

if TYPE_CHECKING:
    from bessemer.app.tracing import Trace
    from bessemer.core.train_recipe import TrainRecipe

MOST_SUGGESTIONS = 5


@dataclass(frozen=True)
class SeenBy:
    """What one task of a run has to do with a document.

    Attributes:
        task: the objective, in a mixture with its number: `0-sft`.
        dataset: by the recipe's name for it.
        split: of the document; only "train" is learned from. "" when its chats are in several.
        pieces: chats or pairs made from it that are learned from; of a text, 1 or 0.
        too_long: chats or pairs made from it that are left out.
        tokens: of its text; None for chats.
        taken: steps that saw it, counted from 1, ascending.
        left_out: steps that would have, had the guard not left their batch out.
        to_come: steps that will.
        epochs: how often the whole run goes through the task's data.
    """

    task: str
    dataset: str
    split: str
    pieces: int
    too_long: int
    tokens: int | None
    taken: list[int]
    left_out: list[int]
    to_come: list[int]
    epochs: float


@dataclass(frozen=True)
class Seen:
    """The answer for a run, whose last step so far is `last_step` of `steps`."""

    run_id: str
    document: str
    last_step: int
    steps: int
    by: list[SeenBy]


def seen(platform: Platform, principal: Principal, run_id: str, document: str) -> Seen:
    """Which steps of a run saw a document, and which will.

    Args:
        document: an id of the run's table of tokens, or of the documents that its chats or pairs
            were made from.

    Raises:
        NotFound: there is no such run, or no such document, with the ids that are near.
        InvalidInput: the run is no training, or draws its data in an order without an inverse.
        Conflict: it has not begun, so that its number of steps is not known.
    """
    from bessemer.app.tracing import trace

    run = jobs.get_run(platform, principal, run_id)
    if run.kind != "train":
        raise InvalidInput(f"{run_id} is a run of kind {run.kind}; only training sees documents")
    recipe = _resolved(run.folder)
    assert recipe.steps is not None
    rows = recipe.batch.rows
    found = trace(recipe, run.folder.plan(), run.folder.path, document, recipe.steps * rows)
    if not found.traces:
        raise _unknown(document, found.known)
    done = progress(run.folder)
    by = [_seen_by(each, rows, done) for each in found.traces]
    return Seen(run_id, document, done.last_step, recipe.steps, by)


class Progress(NamedTuple):
    """How far a run has come, and the steps whose batches were left out."""

    last_step: int
    left_out: frozenset[int]


def progress(run: RunFolder) -> Progress:
    """By its events; what was done after the checkpoint that it was resumed from does not count."""
    last, left_out = 0, set[int]()
    for event in run.read():
        if event["kind"] in ("step", "skipped", "resumed"):
            step = int(event["step"])
            kept = step if event["kind"] == "resumed" else step - 1
            if step < last:  # from a checkpoint, or from the beginning
                left_out = {each for each in left_out if each <= kept}
            if event["kind"] == "skipped":
                left_out.add(step)
            last = step
    return Progress(last, frozenset(left_out))


def ranges(steps: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending steps as first and last of each unbroken stretch.

    >>> ranges([3, 4, 5, 9])
    [(3, 5), (9, 9)]
    """
    found: list[tuple[int, int]] = []
    for step in steps:
        if found and step == found[-1][1] + 1:
            found[-1] = (found[-1][0], step)
        else:
            found.append((step, step))
    return found


def _resolved(run: RunFolder) -> TrainRecipe:
    from bessemer.core.train_recipe import TrainRecipe

    path = run.path / "resolved.toml"
    if not path.exists():
        raise Conflict(
            f"{run.run_id} has not begun, so its number of steps is not known yet",
            next_step=f"bessemer runs {run.run_id} --follow",
        )
    return load(path, TrainRecipe).recipe


def _seen_by(found: Trace, rows: int, done: Progress) -> SeenBy:
    seen_at = sorted({int(position) // rows + 1 for position in found.positions})
    past = [step for step in seen_at if step <= done.last_step]
    return SeenBy(
        task=found.task,
        dataset=found.dataset,
        split=found.split,
        pieces=found.pieces,
        too_long=found.too_long,
        tokens=found.tokens,
        taken=[step for step in past if step not in done.left_out],
        left_out=[step for step in past if step in done.left_out],
        to_come=seen_at[len(past) :],
        epochs=found.rows / found.rows_per_epoch,
    )


def _unknown(document: str, known: list[str]) -> NotFound:
    near = [id_ for id_ in known if document.lower() in id_.lower()]
    near = near or difflib.get_close_matches(document, known[:50_000], n=MOST_SUGGESTIONS)
    meant = f"; near it: {', '.join(near[:MOST_SUGGESTIONS])}" if near else ""
    return NotFound(
        f"none of the {len(known):,} documents of this run is called {document!r}{meant}",
        next_step="give the id of a document of its data",
    )
