"""Reptile: meta-learning by ordinary steps on one task at a time (Nichol et al., 2018).

A task is a group of chats that belong together. One step of the run, on each of `batch.rows` tasks:

    phi = theta; inner_steps times: phi -= inner_rate * gradient of the loss on `shots` chats
    gradient of the step = mean over tasks of (theta - phi) / inner_rate

and the run's optimizer moves theta along it (section 3 of the paper; with plain SGD that is its
algorithm 1). What it is for is judged on tasks that are kept out of training: adapt to each from
`shots` chats with the same inner steps, then measure the loss on its other chats, in nats per
token. The same is measured of plain fine-tuning: same start, same chats in the same order, same
number of gradients. The difference of the two comes with a paired interval over the tasks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bessemer.core.errors import InvalidInput
from bessemer.core.interval import Pair, Share, paired_interval
from bessemer.core.train_recipe import TrainRecipe
from bessemer.core.train_sections import ReptileSection
from bessemer.data.chats import Chat
from bessemer.data.dataset import Dataset
from bessemer.data.packing import Piece, Row, join
from bessemer.data.pieces import digest_of, encode_chats
from bessemer.text.chat_template import ChatTemplate
from bessemer.train.batch import MicroBatch, micro_batch
from bessemer.train.gradient import Measured, Part, accumulate, add_up
from bessemer.train.loss import LossSum, linear_cross_entropy
from bessemer.train.optimizer import Optimizer
from bessemer.train.schedule import learning_rate
from bessemer.train.task import Network, Setting, hidden_states
from bessemer.train.weights import TrainedWeights

FEWEST_TASKS = 2


class Adapted(NamedTuple):
    """One held-out task: its loss before and after adapting to it, over the same chats."""

    before: LossSum
    after: LossSum


class ReptileTask:
    """Episodes: the row numbers of a step are tasks, each with the chats of its inner steps."""

    def __init__(self, groups: dict[str, list[Piece]], setting: Setting, network: nn.Module):
        recipe = setting.recipe
        self.name, self.measure = "reptile", "loss"
        self.settings = recipe.reptile
        self.tokenizer = setting.tokenizer
        self.prompt: Sequence[int] = []
        # The start, for plain fine-tuning to begin from as well.
        self.start = {
            n: p.detach().float().clone() for n, p in network.named_parameters() if p.requires_grad
        }
        held_out, train = _split(groups, recipe)
        self.held_out = [groups[name] for name in held_out]
        self._train = [groups[name] for name in train]
        self._seed = recipe.seed
        self.digest = digest_of(piece.ids for group in groups.values() for piece in group)
        self.facts: Mapping[str, Any] = {"tasks": len(train), "held_out_tasks": len(held_out)}

    def rows(self, positions: Sequence[int]) -> list[Row]:
        """`inner_steps` rows for each position."""
        return [row for position in positions for row in self._episode(position)]

    def validation(self) -> list[Row]:
        """The chats of every held-out task that are asked after adapting to it."""
        return [row for group in self.held_out for row in self._asked(group)]

    def weight(self, batch: MicroBatch) -> float:
        return batch.targets

    def loss(self, network: Network, batch: MicroBatch) -> LossSum:
        hidden_TD = hidden_states(network, batch)
        nats = linear_cross_entropy(
            hidden_TD, network.head_weight, batch.sources_N, batch.targets_N
        )
        return LossSum(nats, batch.targets)

    def episodes(self, rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
        """The rows of a step, task by task."""
        steps = self.settings.inner_steps
        for first in range(0, len(rows), steps):
            yield rows[first : first + steps]

    def adaptations(self) -> Iterator[tuple[list[Row], list[Row]]]:
        """Of each held-out task: the row of each inner step, and the rows that are asked."""
        for group in self.held_out:
            shown = join(group[: self.settings.shots])
            yield [shown] * self.settings.inner_steps, self._asked(group)

    def _asked(self, group: list[Piece]) -> list[Row]:
        return [join([piece]) for piece in group[self.settings.shots :][:ASKED]]

    def _episode(self, position: int) -> list[Row]:
        turn, index = divmod(position, len(self._train))
        order = _shuffled(len(self._train), f"{self._seed}/tasks/{turn}")
        group, shots = self._train[order[index]], self.settings.shots
        chats = _shuffled(len(group), f"{self._seed}/chats/{position}")
        wanted = [chats[i % len(chats)] for i in range(self.settings.inner_steps * shots)]
        return [
            join([group[i] for i in wanted[first : first + shots]])
            for first in range(0, len(wanted), shots)
        ]


# Chats of a held-out task that are asked, at most: enough to know it, few enough to be quick.
ASKED = 16


def open_reptile(setting: Setting, network: nn.Module) -> ReptileTask:
    """Group the chats of a dataset into tasks.

    Raises:
        InvalidInput: too few groups have enough chats.
    """
    settings = setting.recipe.reptile
    dataset = Dataset.open(setting.dataset_path())
    chats = [chat for split in ("train", "validation") for chat in dataset.iterate(split)]
    template = ChatTemplate.load(setting.model_path())
    pieces = encode_chats(chats, setting.tokenizer, template, setting.recipe.sft.roles)
    groups: dict[str, list[Piece]] = {}
    for chat, piece in zip(chats, pieces, strict=True):
        if len(piece.ids) <= setting.recipe.batch.sequence_length:
            groups.setdefault(_task_of(chat, settings), []).append(piece)
    groups = {n: group for n, group in groups.items() if len(group) >= 2 * settings.shots}
    needed = settings.held_out + FEWEST_TASKS
    if len(groups) < needed:
        raise InvalidInput(
            f"by {settings.tasks_by}, the dataset has {len(groups)} tasks of {2 * settings.shots}"
            f" chats or more; {settings.held_out} to hold out and {FEWEST_TASKS} to learn from"
            f" make {needed}",
            next_step="set reptile.tasks_by, reptile.shots or reptile.held_out otherwise",
        )
    return ReptileTask(groups, setting, network)


def inner_gradient(
    network: Network, weights: TrainedWeights, task: ReptileTask, rows: Sequence[Row]
) -> Measured:
    """Leave the mean of (theta - phi) / inner_rate over the tasks of `rows` in the masters.

    The loss told is that of each task's first inner step, before it was adapted to; `adapted_loss`
    is that of the last one.
    """
    episodes = list(task.episodes(rows))
    first, last, batches = [], [], []
    total: dict[str, Tensor] = {}
    for episode in episodes:
        with _borrowed(weights) as start:
            losses = [_inner_step(network, weights, task, row) for row in episode]
            scale = 1 / (task.settings.inner_rate * len(episodes))
            for name, master in weights.masters.items():
                moved = (start[name] - master.detach()) * scale
                total[name] = total[name].add_(moved) if name in total else moved
        first.append(losses[0])
        last.append(losses[-1])
        batches += [micro_batch([row]) for row in episode]
    weights.give_gradients(total)
    return Measured(add_up(first)["loss"], {"adapted_loss": add_up(last)["loss"]}, batches)


def validate_adapted(
    network: Network, weights: TrainedWeights, task: ReptileTask
) -> dict[str, float]:
    """`loss` after adapting to each held-out task, and `unadapted_loss`, nats per token."""
    found = adapt(network, weights, task)
    return {
        "loss": add_up([each.after for each in found])["loss"],
        "unadapted_loss": add_up([each.before for each in found])["loss"],
    }


def adapt(network: Network, weights: TrainedWeights, task: ReptileTask) -> list[Adapted]:
    """Adapt to each held-out task from its shots, measure, and go back."""
    found = []
    for shown, asked in task.adaptations():
        batch = micro_batch(asked)
        with torch.no_grad():
            before = task.loss(network, batch)
        with _borrowed(weights):
            for row in shown:
                _inner_step(network, weights, task, row)
            with torch.no_grad():
                found.append(Adapted(before, task.loss(network, batch)))
    return found


def against_plain(
    network: Network, weights: TrainedWeights, task: ReptileTask, recipe: TrainRecipe
) -> dict[str, float | int | None]:
    """The held-out tasks after adapting, Reptile less plain fine-tuning, with an interval.

    Plain fine-tuning starts where Reptile started and sees the same chats in the same order. It
    takes a step for each row that Reptile took an inner one for, as many as Reptile has tasks in a
    step at once, by the same optimizer and schedule. The weights are as they were afterwards.
    """
    meta = adapt(network, weights, task)
    with _borrowed(weights):
        weights.load(task.start)
        _fine_tune(network, weights, task, recipe)
        plain = adapt(network, weights, task)
    pairs = [
        Pair(number, *(Share(each.after.total.item(), each.after.weight) for each in both))
        for number, both in enumerate(zip(plain, meta, strict=True))
    ]
    found = paired_interval(pairs, seed=recipe.seed)
    return {
        "reptile_loss": add_up([each.after for each in meta])["loss"],
        "plain_loss": add_up([each.after for each in plain])["loss"],
        "difference": found.value,
        "low": found.low,
        "high": found.high,
        "level": found.level,
        "held_out_tasks": len(meta),
    }


def _fine_tune(
    network: Network, weights: TrainedWeights, task: ReptileTask, recipe: TrainRecipe
) -> None:
    assert recipe.steps is not None
    optimizer = Optimizer(weights.masters, recipe.optimizer)
    inner, rows_a_step = task.settings.inner_steps, recipe.batch.rows
    steps = recipe.steps * inner
    for step in range(1, steps + 1):
        outer, turn = divmod(step - 1, inner)
        episodes = task.episodes(task.rows(range(outer * rows_a_step, (outer + 1) * rows_a_step)))
        rows = [episode[turn] for episode in episodes]
        accumulate(network, weights, [Part(task, rows, 1.0)], recipe.rows_at_once)
        weights.clip(recipe.optimizer.clip)
        optimizer.step(learning_rate(step, steps, recipe.optimizer.learning_rate, recipe.schedule))
        weights.publish()


def _inner_step(network: Network, weights: TrainedWeights, task: ReptileTask, row: Row) -> LossSum:
    batch = micro_batch([row])
    loss = task.loss(network, batch)
    (loss.total / loss.weight).backward()  # type: ignore[no-untyped-call]
    weights.collect()
    with torch.no_grad():
        for master in weights.masters.values():
            if master.grad is not None:
                master.sub_(master.grad, alpha=task.settings.inner_rate)
    weights.publish()
    return loss._replace(total=loss.total.detach())


@contextmanager
def _borrowed(weights: TrainedWeights) -> Iterator[dict[str, Tensor]]:
    """Move the weights within the `with`; they are what they were after it."""
    start = {name: master.detach().clone() for name, master in weights.masters.items()}
    try:
        yield start
    finally:
        weights.load(start)


def _split(groups: dict[str, list[Piece]], recipe: TrainRecipe) -> tuple[list[str], list[str]]:
    """Tasks to hold out, by hash, and tasks to learn from."""
    names = list(groups)
    order = [names[i] for i in _shuffled(len(names), "held-out")]
    return order[: recipe.reptile.held_out], order[recipe.reptile.held_out :]


def _task_of(chat: Chat, settings: ReptileSection) -> str:
    if settings.tasks_by == "kind":
        return chat.kind or ""
    if settings.tasks_by == "module":
        return (chat.symbol or "").partition(".")[0]
    first = chat.messages[0]
    return str(first["content"]) if first["role"] == "system" else ""


def _shuffled(count: int, key: str) -> list[int]:
    """A permutation of range(count) that is the same on every machine."""
    keys = [hashlib.sha256(f"{key}/{i}".encode()).digest() for i in range(count)]
    return sorted(range(count), key=keys.__getitem__)
