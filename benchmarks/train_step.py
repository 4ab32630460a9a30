"""How fast is a training step? Ours beside `transformers` and a plain eager loop, in one run.

    .venv/bin/python benchmarks/train_step.py            # about two minutes on two cores
    .venv/bin/python benchmarks/train_step.py --rounds 3

Every loop trains the same Llama (d 384, 6 layers, 6 heads, ffn 1024, vocab 8192) on the same batch
(16 x 512 tokens) with AdamW, clipping included. They take turns, and each is judged by its best
step, so that whatever else the machine does strikes all alike. The peak is the best square bf16
matrix product, measured between the rounds in the same process. Floating-point operations are
`bessemer.train.flops`: 6 per matrix weight and token, and attention's causal half.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bessemer.data.packing import Row
from bessemer.models.attention import positions
from bessemer.models.config import ModelConfig
from bessemer.models.decoder import Decoder
from bessemer.train import precision
from bessemer.train.allocator import keep_freed_memory
from bessemer.train.batch import MicroBatch
from bessemer.train.flops import step_cost
from bessemer.train.gradient import Part, accumulate
from bessemer.train.loss import LossSum, linear_cross_entropy
from bessemer.train.optimizer import Optimizer
from bessemer.train.recipe import OptimizerSection
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
    tied=False,
)
RATE = 1e-3

Step = Callable[[], float]


class Loop(NamedTuple):
    """A name, and a function that takes one training step and returns its loss."""

    name: str
    step: Step


def the_batch() -> MicroBatch:
    generator = torch.Generator().manual_seed(0)
    stream = torch.randint(0, VOCAB, (ROWS, LENGTH + 1), generator=generator)
    lengths = (LENGTH,) * ROWS
    ids_T, targets_T = stream[:, :-1].flatten(), stream[:, 1:].flatten()
    return MicroBatch(ids_T, positions(lengths), lengths, torch.arange(len(ids_T)), targets_T)


class NextToken:
    """As much of a task as a step needs."""

    name = "next-token"

    def weight(self, batch: MicroBatch) -> float:
        return batch.targets

    def loss(self, network: Network, batch: MicroBatch) -> LossSum:
        hidden_TD = hidden_states(network, batch)
        nats = linear_cross_entropy(
            hidden_TD, network.head_weight, batch.sources_N, batch.targets_N
        )
        return LossSum(nats, batch.targets)


def ours(batch: MicroBatch) -> Loop:
    """The step of `bessemer.train.loop`."""
    ids_RL = batch.ids_T.view(ROWS, LENGTH).numpy()
    targets_RL = batch.targets_N.view(ROWS, LENGTH).numpy()
    places = np.arange(LENGTH)
    rows = [
        Row(ids, (LENGTH,), places, targets)
        for ids, targets in zip(ids_RL, targets_RL, strict=True)
    ]
    task: Any = NextToken()
    decoder = Decoder(CONFIG).init_weights(0).to(torch.bfloat16)
    weights = TrainedWeights(decoder)
    optimizer = Optimizer(weights.masters, OptimizerSection())

    def step() -> float:
        loss = accumulate(decoder, weights, [Part(task, rows, 1.0)], ROWS).loss
        weights.clip(1.0)
        optimizer.step(RATE)
        weights.publish()
        return loss

    return Loop("bessemer, bf16, fp32 masters", step)


def plain(network: nn.Module, loss_of: Callable[[], Tensor], name: str) -> Loop:
    """Forward, backward, clip, fused AdamW, as in a tutorial."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, fused=True)

    def step() -> float:
        loss = loss_of()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return Loop(name, step)


def eager(batch: MicroBatch) -> Loop:
    """The same decoder with the library's attention and cross-entropy over whole logits."""
    decoder = Decoder(CONFIG).init_weights(0).to(torch.bfloat16)

    def attend(_layer: int, q_THD: Tensor, k_THD: Tensor, v_THD: Tensor) -> Tensor:
        q, k, v = (x.view(ROWS, LENGTH, 6, 64).transpose(1, 2) for x in (q_THD, k_THD, v_THD))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return mixed.transpose(1, 2).reshape(q_THD.shape)

    def loss() -> Tensor:
        hidden_TD = decoder(batch.ids_T, batch.positions_T, attend)
        return F.cross_entropy(decoder.logits(hidden_TD).float(), batch.targets_N)

    return plain(decoder, loss, "plain eager loop, bf16")


def peers(batch: MicroBatch) -> list[Loop]:
    """`LlamaForCausalLM` in each precision; empty where transformers is not installed."""
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        print("transformers is not installed: no peer to compare with")
        return []
    tree = CONFIG.to_hf()
    ids, labels = batch.ids_T.view(ROWS, LENGTH), batch.targets_N.view(ROWS, LENGTH)
    loops = []
    for name, dtype, autocast in (
        ("transformers, fp32", torch.float32, False),
        ("transformers, bf16 weights", torch.bfloat16, False),
        ("transformers, bf16 autocast", torch.float32, True),
    ):
        torch.manual_seed(0)
        network = LlamaForCausalLM(LlamaConfig(**tree, attn_implementation="sdpa")).to(dtype)

        def loss(network: nn.Module = network, autocast: bool = autocast) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                logits = network(input_ids=ids, use_cache=False).logits
            return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())

        loops.append(plain(network, loss, name))
    return loops


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="steps each loop takes")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    keep_freed_memory()  # for all of them: the peers gain as much

    batch = the_batch()
    loops = [ours(batch), eager(batch), *peers(batch)]
    best_s = {loop.name: float("inf") for loop in loops}
    losses: dict[str, list[float]] = {loop.name: [] for loop in loops}
    peak_gflops = 0.0
    for round_ in range(chosen.rounds + 1):
        peak_gflops = max(peak_gflops, precision.probe().peak_gflops)
        for loop in loops:
            begin_s = time.perf_counter()
            losses[loop.name].append(loop.step())
            if round_ > 0:  # the first step sets libraries up
                best_s[loop.name] = min(best_s[loop.name], time.perf_counter() - begin_s)

    flops = step_cost(Decoder(CONFIG)).flops(batch.tokens, batch.targets, batch.lengths)
    print(
        f"{chosen.threads} threads, torch {torch.__version__}; a step is {flops / 1e9:.0f} GFLOP;"
    )
    print(f"peak {peak_gflops:.0f} GFLOP/s (best square matrix product in this process)\n")
    print(f"{'loop':32} {'tokens/s':>9} {'GFLOP/s':>8} {'of peak':>8} {'loss first, last':>18}")
    for loop in loops:
        gflops = flops / best_s[loop.name] / 1e9
        first, last = losses[loop.name][0], losses[loop.name][-1]
        print(
            f"{loop.name:32} {batch.tokens / best_s[loop.name]:9,.0f} {gflops:8.0f}"
            f" {gflops / peak_gflops:8.1%} {first:9.3f} {last:8.3f}"
        )
    memory_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"\npeak memory of all loops together: {memory_gb:.1f} GB")


if __name__ == "__main__":
    main()
