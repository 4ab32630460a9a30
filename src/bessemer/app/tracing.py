"""Which positions of a run's order hold a document: by inverting the order, never by scanning it.

What is read is what the run reads: its resolved recipe, its plan, its data. Chats and pairs are
tokenized again, since which of them fit into a row, and how they are packed, follows from their
lengths. Nothing is written, and no torch is needed but for pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bessemer.core.errors import InvalidInput
from bessemer.core.train_recipe import TrainRecipe
from bessemer.data.corpus import Split
from bessemer.data.dataset import Dataset
from bessemer.data.dictation import answers_folder, read_answered
from bessemer.data.document_splits import CORPUS, find_documents
from bessemer.data.interleaving import Interleaving
from bessemer.data.jsonl import read_lines
from bessemer.data.material import fitting_chats
from bessemer.data.order import Order
from bessemer.data.packing import ChatRows, DocumentRows, Ids
from bessemer.data.pairs import pair_material
from bessemer.data.questions import questions
from bessemer.data.tokenizing import TokenDataset
from bessemer.models.config import ModelConfig
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer


class Trace(NamedTuple):
    """Where one task of a run has a document.

    Attributes:
        task: the objective; in a mixture with its number before it: `0-sft`.
        dataset: the name that the recipe has for it.
        split: the document's; only those of "train" are learned from. "" when parts of it are in
            several.
        pieces: chats or pairs made from it that are learned from; for a text, 1 or 0.
        too_long: chats or pairs made from it that fit into no row.
        tokens: of its text; None for chats.
        rows_per_epoch: of the task.
        rows: of the task, that the positions looked at have.
        positions: of the run's order, ascending.
    """

    task: str
    dataset: str
    split: str
    pieces: int
    too_long: int
    tokens: int | None
    rows_per_epoch: int
    rows: int
    positions: Ids


class Traced(NamedTuple):
    """What was found, and the ids that could have been meant where nothing was."""

    traces: list[Trace]
    known: list[str]


class _Found(NamedTuple):
    """A document in one task: `positions(end)` are those of the task's own order."""

    split: str
    pieces: int
    too_long: int
    tokens: int | None
    rows_per_epoch: int
    positions: Callable[[int], Ids]


@dataclass(frozen=True)
class _Run:
    """One task's recipe, and the run it is of."""

    recipe: TrainRecipe
    plan: Mapping[str, Any]
    folder: Path

    def dataset_path(self) -> Path:
        return Path(self.plan["datasets"][self.recipe.dataset.name]["path"])


def trace(
    recipe: TrainRecipe, plan: Mapping[str, Any], folder: Path, document: str, end: int
) -> Traced:
    """Find a document in every task of a run.

    Args:
        recipe: as the run resolved it.
        plan, folder: the run's own.
        document: its id in the table of tokens, or in a dataset's index.
        end: positions of the run's order; those below it are told.

    Raises:
        InvalidInput: a task draws its data in an order that cannot be inverted.
        NotFound, IntegrityError: the data is not what it was.
    """
    turns = Interleaving([part.weight for part in recipe.parts] or [1])
    traces, known = [], []
    for number, run in enumerate(_tasks(recipe, plan, folder)):
        found, more = _find(run, document)
        known += more
        if found is not None:
            rows = turns.count(number, end)
            positions = turns.positions(number, found.positions(rows))
            task = f"{number}-{run.recipe.objective}" if recipe.parts else recipe.objective
            facts = found[:-1]
            traces.append(Trace(task, run.recipe.dataset.name, *facts, rows, positions))
    return Traced(traces, known)


def _tasks(recipe: TrainRecipe, plan: Mapping[str, Any], folder: Path) -> Iterator[_Run]:
    if not recipe.parts:
        yield _Run(recipe, plan, folder)
    for number, part in enumerate(recipe.parts):
        yield _Run(recipe.of_part(part), plan, folder / f"task-{number}")


def _find(run: _Run, document: str) -> tuple[_Found | None, list[str]]:
    finder = _FINDERS.get(run.recipe.objective)
    if finder is None:
        raise InvalidInput(
            f"{run.recipe.objective} draws its data anew in each step; its order has no inverse",
            next_step=f"traced are: {', '.join(_FINDERS)}",
        )
    return finder(run, document)


def _find_text(run: _Run, document: str) -> tuple[_Found | None, list[str]]:
    """A document of the token shards."""
    documents = find_documents(run.recipe, run.plan["datasets"], run.folder)
    rows = DocumentRows(documents.train, run.recipe.batch.sequence_length, run.recipe.seed)
    number = documents.train.documents.find(document)
    if number is not None:
        tokens = documents.train.documents[number].length
        positions = partial(rows.positions, number)
        return _Found("train", 1, 0, tokens, rows.rows_per_epoch, positions), []
    known = documents.train.documents.ids()
    shards = {"validation": documents.validation}
    if run.recipe.dataset.name != CORPUS:
        shards["test"] = TokenDataset.open(run.dataset_path()).split("test")
    for split, held_out in shards.items():
        number = held_out.documents.find(document)
        if number is not None:
            tokens = held_out.documents[number].length
            return _Found(split, 0, 0, tokens, rows.rows_per_epoch, _nowhere), []
        known += held_out.documents.ids()
    return None, known


def _find_chats(run: _Run, document: str) -> tuple[_Found | None, list[str]]:
    """The chats that a dataset's index says were made from a document."""
    index = _Index(run.dataset_path(), document)
    if not index.lines:
        return None, index.known
    model = Path(run.plan["model"]["path"])
    chats = Dataset.open(run.dataset_path()).split("train")
    lines: Sequence[int] = range(len(chats))
    distill = run.recipe.distill if run.recipe.objective == "distill" else None
    if distill is not None and distill.signal == "text":
        folder = answers_folder(run.folder, run.recipe, run.plan)
        chats, lines, _ = read_answered(folder, "train", chats)
    tokenizer, template = Tokenizer.load(model), ChatTemplate.load(model)
    fitting = fitting_chats(run.recipe, chats, tokenizer, template)
    batch = run.recipe.batch
    rows = ChatRows(fitting.kept, batch.sequence_length, run.recipe.seed, packing=batch.packing)
    taught = [lines[place] for place in fitting.lines]
    return index.found(taught, rows.rows_per_epoch, rows.positions), []


def _find_pairs(run: _Run, document: str) -> tuple[_Found | None, list[str]]:
    """The same for preferences."""
    from bessemer.train.reference import covered_rows

    index = _Index(run.dataset_path(), document)
    if not index.lines:
        return None, index.known
    made = pair_material(run.recipe, run.dataset_path(), Path(run.plan["model"]["path"]))
    covered = covered_rows(run.folder, made.train)

    def positions(pairs: Sequence[int], end: int) -> Ids:
        if covered == made.train.rows_per_epoch:
            return made.train.positions(pairs, end)
        rounds = np.arange(0, end, covered)[:, None]
        again = (rounds + made.train.positions(pairs, covered)).ravel()
        return again[again < end]

    return index.found(made.train_lines, covered, positions), []


def _find_prompts(run: _Run, document: str) -> tuple[_Found | None, list[str]]:
    """The same for prompts, each of which is asked once and learned from in several steps."""
    index = _Index(run.dataset_path(), document)
    if not index.lines:
        return None, index.known
    model, grpo = Path(run.plan["model"]["path"]), run.recipe.grpo
    assert grpo is not None
    context_length = ModelConfig.from_folder(model).context_length
    asked = questions(run.recipe, run.dataset_path(), model, context_length)["train"]
    order, rows, updates = Order(len(asked), run.recipe.seed), run.recipe.batch.rows, grpo.updates

    def positions(prompts: Sequence[int], end: int) -> Ids:
        batches = -(-end // (rows * updates))
        batch_P, place_P = np.divmod(order.positions(prompts, batches * rows), rows)
        steps_PU = batch_P[:, None] * updates + np.arange(updates)
        every = np.sort((steps_PU * rows + place_P[:, None]).ravel())
        return every[every < end]

    numbers = [question.number for question in asked]
    return index.found(numbers, len(asked) * updates, positions), []


class _Index:
    """A dataset's index.jsonl: the lines made from one document, from 0, by split.

    `known` are all documents, as long as this one was not met.
    """

    def __init__(self, dataset: Path, document: str) -> None:
        self.lines: dict[Split, list[int]] = {}
        known: dict[str, None] = {}
        for line in read_lines(dataset / "index.jsonl"):
            if line.value["document"] == document:
                self.lines.setdefault(line.value["split"], []).append(line.value["line"] - 1)
            else:
                known[line.value["document"]] = None
        self.known = [] if self.lines else list(known)

    def found(
        self,
        fitting: Sequence[int],
        rows_per_epoch: int,
        positions: Callable[[Sequence[int], int], Ids],
    ) -> _Found:
        """`fitting` are the lines of the training split that rows are made of, in their order."""
        place_of = {line: place for place, line in enumerate(fitting)}
        wanted = self.lines.get("train", [])
        places = [place_of[line] for line in wanted if line in place_of]
        split = next(iter(self.lines)) if len(self.lines) == 1 else ""
        return _Found(
            split,
            len(places),
            len(wanted) - len(places),
            None,
            rows_per_epoch,
            partial(positions, places),
        )


def _nowhere(_end: int) -> Ids:
    return np.zeros(0, dtype=np.int64)


_FINDERS: Mapping[str, Callable[[_Run, str], tuple[_Found | None, list[str]]]] = {
    "pretrain": _find_text,
    "sft": _find_chats,
    "distill": _find_chats,
    "dpo": _find_pairs,
    "reward": _find_pairs,
    "grpo": _find_prompts,
}
