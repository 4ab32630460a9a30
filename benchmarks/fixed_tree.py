"""What does `deterministic = "any-world-size"` cost? A step with it beside one without, in turns.

    .venv/bin/python benchmarks/fixed_tree.py            # about a minute on two cores

The model is a Llama of 16.9M parameters; a step is 16 rows of 512 tokens, in virtual
shards of the sizes named. The plain step takes the same rows at once, and all of them at once.
Printed: median seconds of forward, backward and summing, the ratio to the plain step, and how
many gradients (of 4 bytes a parameter) were held at the most.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from bessemer.core.allocator import keep_freed_memory
from bessemer.data.packing import Row
from bessemer.models.config import ModelConfig
from bessemer.models.decoder import Decoder
from bessemer.train.batch import MicroBatch
from bessemer.train.gradient import Part, accumulate, accumulate_in_tree
from bessemer.train.loss import LossSum, linear_cross_entropy
from bessemer.train.task import Network, hidden_states
from bessemer.train.weights import TrainedWeights

ROWS, LENGTH, VOCAB = 16, 512, 8192
CONFIG = ModelConfig(
    vocab_size=VOCAB,
    hidden_size=384,
    intermediate_size=1024,
    layers=6,
    heads=6,
    kv_heads=6,
    head_dim=64,
    context_length=LENGTH,
)


class NextToken:
    """As much of a task as a step needs."""

    name, measure = "next-token", "loss"

    def weight(self, batch: MicroBatch) -> float:
        return batch.targets

    def loss(self, network: Network, batch: MicroBatch) -> LossSum:
        hidden_TD = hidden_states(network, batch)
        nats = linear_cross_entropy(
            hidden_TD, network.head_weight, batch.sources_N, batch.targets_N
        )
        return LossSum(nats, batch.targets)


def random_rows() -> list[Row]:
    generator = np.random.default_rng(0)
    stream = generator.integers(0, VOCAB, (ROWS, LENGTH + 1))
    places = np.arange(LENGTH)
    return [Row(ids[:-1], (LENGTH,), places, ids[1:]) for ids in stream]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    keep_freed_memory()

    decoder = Decoder(CONFIG).init_weights(0).to(torch.bfloat16)
    weights = TrainedWeights(decoder)
    parts: Sequence[Part] = [Part(NextToken(), random_rows(), 1.0)]  # type: ignore[arg-type]
    variants: dict[str, Callable[[], object]] = {
        "plain, 16 rows at once": lambda: accumulate(decoder, weights, parts, 16),
        "plain, 4 rows at once": lambda: accumulate(decoder, weights, parts, 4),
        "plain, 2 rows at once": lambda: accumulate(decoder, weights, parts, 2),
        "4 shards of 4 rows": lambda: accumulate_in_tree(decoder, weights, parts, 16, 4),
        "8 shards of 2 rows": lambda: accumulate_in_tree(decoder, weights, parts, 16, 8),
    }
    taken_s: dict[str, list[float]] = {name: [] for name in variants}
    for _round in range(chosen.rounds + 1):
        for name, take in variants.items():
            begin_s = time.perf_counter()
            take()
            taken_s[name].append(time.perf_counter() - begin_s)
            weights.forget_gradients()
    first = statistics.median(taken_s["plain, 16 rows at once"][1:])
    print(f"{chosen.threads} threads, torch {torch.__version__}\n")
    print(f"{'':26} {'median s':>9} {'ratio':>6}")
    for name, all_s in taken_s.items():
        median_s = statistics.median(all_s[1:])  # the first one sets libraries up
        print(f"{name:26} {median_s:9.3f} {median_s / first:6.2f}")
    held_mb = 4 * weights.count / 1e6
    print(f"\na gradient is {held_mb:.0f} MB; 8 shards in order hold at most 4 of them")


if __name__ == "__main__":
    main()
