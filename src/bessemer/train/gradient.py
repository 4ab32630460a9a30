"""The gradient of a step: the mean loss over everything in it, in one of two orders of summing.

`accumulate` adds micro-batches as they come. `accumulate_in_tree` divides the step into a fixed
number of virtual shards and adds their gradients pairwise along one fixed tree. Floating-point
sums depend on their order, so only the second gives the same bits however the shards are spread
over processes; `benchmarks/fixed_tree.py` prints what it costs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from bessemer.data.packing import Row
from bessemer.models.experts import recorded, routers
from bessemer.train.balancing import with_routing
from bessemer.train.batch import MicroBatch, micro_batches
from bessemer.train.loss import LossSum, Mean
from bessemer.train.task import Network, Task
from bessemer.train.weights import TrainedWeights

Gradient = dict[str, Tensor]


class Part(NamedTuple):
    """The rows of one task in a step, and the task's share of the step's loss."""

    task: Task
    rows: Sequence[Row]
    share: float


class Measured(NamedTuple):
    """What a step (or a validation) came to; `metrics` are means by name."""

    loss: float
    metrics: dict[str, float]
    batches: list[MicroBatch]


class _Piece(NamedTuple):
    """One forward and backward pass: a micro-batch and the factor of its loss."""

    part: int
    task: Task
    batch: MicroBatch
    factor: float


def accumulate(
    network: Network, weights: TrainedWeights, parts: Sequence[Part], rows_at_once: int
) -> Measured:
    """Leave the gradient of the step's loss in the masters.

    A task's loss is the mean over its whole weight in the step (target tokens, pairs), not over
    each micro-batch; the step's loss is the sum of its tasks' by their shares.
    """
    pieces = _pieces(parts, rows_at_once)
    sums = []
    for piece in pieces:
        sums.append(_backward(network, piece))
        weights.collect()
    return _measured(parts, pieces, sums)


def accumulate_in_tree(
    network: Network,
    weights: TrainedWeights,
    parts: Sequence[Part],
    rows_at_once: int,
    shards: int,
    order: Iterable[int] | None = None,
) -> Measured:
    """The same, summed so that neither order nor number of processes changes a bit.

    Args:
        shards: leaves of the tree. Micro-batches go to them in turn.
        order: in which the shards are evaluated; any order gives the same bits.
    """
    pieces = _pieces(parts, rows_at_once, shards)
    leaves = [pieces[shard::shards] for shard in range(shards)]
    sums: dict[int, list[LossSum]] = {}
    tree = TreeSum(shards)
    for shard in order if order is not None else range(shards):
        sums[shard] = []
        for piece in leaves[shard]:
            sums[shard].append(_backward(network, piece))
            weights.collect()
        tree.add(shard, weights.take_gradients())
    weights.give_gradients(tree.total())
    in_turn = [sums[number % shards][number // shards] for number in range(len(pieces))]
    return _measured(parts, pieces, in_turn)


class TreeSum:
    """Sums of named tensors along one fixed binary tree, whatever order the leaves come in.

    Leaf 0 and 1 are added, 2 and 3, then those two sums, and so on: the bits depend on the number
    of leaves alone. In order, at most log2(leaves) + 1 sums are held at once.
    """

    def __init__(self, leaves: int) -> None:
        assert leaves > 0, leaves
        self._widths = [leaves]
        while self._widths[-1] > 1:
            self._widths.append((self._widths[-1] + 1) // 2)
        self._waiting: dict[tuple[int, int], Gradient] = {}
        self.most_held = 0

    def add(self, leaf: int, gradient: Gradient) -> None:
        """Take one leaf; its tensors are not used by the caller again."""
        level, index = 0, leaf
        while level + 1 < len(self._widths):
            sibling = index ^ 1
            if sibling < self._widths[level]:
                if (level, sibling) not in self._waiting:
                    break
                gradient = _sum(index, gradient, self._waiting.pop((level, sibling)))
            level, index = level + 1, index // 2
        assert (level, index) not in self._waiting, f"leaf {leaf} came twice"
        self._waiting[level, index] = gradient
        self.most_held = max(self.most_held, len(self._waiting))

    def total(self) -> Gradient:
        """The sum of all leaves."""
        top = (len(self._widths) - 1, 0)
        assert set(self._waiting) == {top}, f"leaves are missing: {sorted(self._waiting)}"
        return self._waiting[top]


def _sum(index: int, own: Gradient, sibling: Gradient) -> Gradient:
    left, right = (sibling, own) if index % 2 else (own, sibling)
    for name, tensor in right.items():
        left[name] = left[name].add_(tensor) if name in left else tensor
    return left


def _pieces(parts: Sequence[Part], rows_at_once: int, shards: int = 1) -> list[_Piece]:
    pieces = []
    for number, part in enumerate(parts):
        at_once = min(rows_at_once, math.ceil(len(part.rows) / shards))
        batches = micro_batches(part.rows, at_once)
        weight = sum(part.task.weight(batch) for batch in batches)
        factor = part.share / weight if weight else 0.0
        pieces += [_Piece(number, part.task, batch, factor) for batch in batches]
    return pieces


def _backward(network: Network, piece: _Piece) -> LossSum:
    with recorded(network) as routing:
        loss = piece.task.loss(network, piece.batch)
    if routing is not None:
        loss = with_routing(loss, routing, routers(network)[0].loss_rate)
    (loss.total * piece.factor).backward()  # type: ignore[no-untyped-call]
    return loss._replace(total=loss.total.detach())


def _measured(parts: Sequence[Part], pieces: Sequence[_Piece], sums: Sequence[LossSum]) -> Measured:
    of_parts = [
        add_up([loss for piece, loss in zip(pieces, sums, strict=True) if piece.part == number])
        for number in range(len(parts))
    ]
    total, metrics = combine(
        [(part.task.name, part.share, said) for part, said in zip(parts, of_parts, strict=True)]
    )
    return Measured(total, metrics, [piece.batch for piece in pieces])


def add_up(sums: Sequence[LossSum]) -> dict[str, float]:
    """`loss` and every metric of one task, as means over several micro-batches."""
    weight = sum(loss.weight for loss in sums)
    means = {"loss": math.fsum(loss.total.item() for loss in sums) / weight if weight else 0.0}
    for name in dict.fromkeys(name for loss in sums for name in loss.metrics):
        parts = [loss.metrics.get(name, Mean(0.0, 0.0)) for loss in sums]
        over = math.fsum(part.weight for part in parts)
        if over:
            means[name] = math.fsum(part.total for part in parts) / over
    return means


def combine(
    of_tasks: Sequence[tuple[str, float, Mapping[str, float]]],
) -> tuple[float, dict[str, float]]:
    """The step's loss and all its metrics; those of several tasks carry the tasks' names."""
    total = math.fsum(share * means["loss"] for _, share, means in of_tasks)
    if len(of_tasks) == 1:
        means = of_tasks[0][2]
        return total, {name: value for name, value in means.items() if name != "loss"}
    return total, {
        f"{task}/{name}": value for task, _, means in of_tasks for name, value in means.items()
    }
