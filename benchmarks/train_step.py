"""How fast is a training step? Ours beside `transformers` and a plain eager loop, in one run.

    .venv/bin/python benchmarks/train_step.py                       # about five minutes
    .venv/bin/python benchmarks/train_step.py --size 12M --rounds 5

Sizes are Llamas trained whole with AdamW, clipping included, and `lora`: adapters of rank 16 on
every linear layer of SmolLM2-135M's shape (random weights), where the peer is `peft`. All loops of
a size train the same shape on the same batch. They take turns; each is judged by its best step, so
that whatever else the machine does strikes all alike, and by the median of its time over ours in
the same round. The peak is the best square bf16 matrix product, measured between the rounds in
the same process. Floating-point operations are `bessemer.models.flops`: 6 per matrix weight and
token (4 for a frozen one), and attention's causal half. Peak memory is that of a process that
runs two steps of the one loop.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bessemer.core.allocator import keep_freed_memory
from bessemer.core.train_sections import OptimizerSection
from bessemer.data.packing import Row
from bessemer.models.config import ModelConfig
from bessemer.models.decoder import Decoder
from bessemer.models.flops import step_cost
from bessemer.models.lora import add_lora
from bessemer.train import precision
from bessemer.train.batch import MicroBatch, micro_batch
from bessemer.train.gradient import Part, accumulate
from bessemer.train.loss import LossSum, linear_cross_entropy
from bessemer.train.optimizer import Optimizer
from bessemer.train.task import Network, hidden_states
from bessemer.train.weights import TrainedWeights

LENGTH = 512
RATE = 1e-3
RANK, ALPHA = 16, 32.0


class Size(NamedTuple):
    """A network, the rows of its step, and how many of them ours takes at once."""

    config: ModelConfig
    rows: int
    rows_at_once: int
    lora: bool = False


def llama(
    hidden: int, layers: int, kv_heads: int, inner: int, vocab: int, head_dim: int = 64
) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=inner,
        layers=layers,
        heads=hidden // head_dim,
        kv_heads=kv_heads,
        head_dim=head_dim,
        context_length=LENGTH,
        tied=True,
    )


SIZES = {
    "3M": Size(llama(192, 5, 3, 512, 4096), 16, 8),
    "12M": Size(llama(384, 6, 6, 1024, 4096), 16, 8),
    "50M": Size(llama(640, 9, 10, 1728, 8192), 8, 8),
    "lora": Size(llama(576, 30, 3, 1536, 49152), 2, 2, lora=True),
}

Step = Callable[[], float]


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


def random_rows(size: Size) -> list[Row]:
    stream = np.random.default_rng(0).integers(0, size.config.vocab_size, (size.rows, LENGTH + 1))
    places = np.arange(LENGTH)
    return [Row(ids[:-1], (LENGTH,), places, ids[1:]) for ids in stream]


def decoder_of(size: Size) -> Decoder:
    decoder = Decoder(size.config).init_weights(0).to(torch.bfloat16)
    if size.lora:
        add_lora(decoder, RANK, ALPHA, seed=0)
    return decoder


def ours(size: Size) -> Step:
    """The step of `bessemer.train.loop`."""
    rows = random_rows(size)
    task: Any = NextToken()
    decoder = decoder_of(size)
    weights = TrainedWeights(decoder)
    optimizer = Optimizer(weights.masters, OptimizerSection())
    part = Part(task, rows, 1.0)

    def step() -> float:
        loss = accumulate(decoder, weights, [part], size.rows_at_once).loss
        weights.clip(1.0)
        optimizer.step(RATE)
        weights.publish()
        return loss

    return step


def plain(network: nn.Module, loss_of: Callable[[], Tensor]) -> Step:
    """Forward, backward, clip, fused AdamW, as in a tutorial."""
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, fused=True)

    def step() -> float:
        loss = loss_of()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def eager(size: Size) -> Step:
    """The same decoder with the library's attention and cross-entropy over whole logits."""
    decoder, batch = decoder_of(size), micro_batch(random_rows(size))

    def attend(_layer: int, *qkv: Tensor) -> Tensor:
        q, k, v = (x.unflatten(0, (size.rows, LENGTH)).transpose(1, 2) for x in qkv)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return mixed.transpose(1, 2).flatten(0, 1)

    def loss() -> Tensor:
        hidden_TD = decoder(batch.ids_T, batch.positions_T, attend)
        return F.cross_entropy(decoder.logits(hidden_TD).float(), batch.targets_N)

    return plain(decoder, loss)


def transformers(size: Size, dtype: torch.dtype) -> Step:
    """`LlamaForCausalLM` in bf16, or in float32 under autocast; with `peft` for LoRA."""
    from transformers import LlamaConfig, LlamaForCausalLM

    batch = micro_batch(random_rows(size))
    ids, labels_T = batch.ids_T.view(size.rows, LENGTH), batch.targets_N
    torch.manual_seed(0)
    config = LlamaConfig(**size.config.to_hf(), attn_implementation="sdpa")
    network: Any = LlamaForCausalLM(config).to(dtype)
    if size.lora:
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(r=RANK, lora_alpha=int(ALPHA), target_modules="all-linear")
        network = get_peft_model(network, lora)

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.float32):
            logits = network(input_ids=ids, use_cache=False).logits
        return F.cross_entropy(logits.float().flatten(0, 1), labels_T)

    return plain(network, loss)


LOOPS: dict[str, Callable[[Size], Step]] = {
    "bessemer": ours,
    "plain eager loop, bf16": eager,
    "transformers, bf16 weights": lambda size: transformers(size, torch.bfloat16),
    "transformers, bf16 autocast": lambda size: transformers(size, torch.float32),
}


def measure(name: str, rounds: int) -> None:
    """Print the table of one size."""
    size = SIZES[name]
    steps = {loop: make(size) for loop, make in LOOPS.items()}
    taken_s: dict[str, list[float]] = {loop: [] for loop in steps}
    losses: dict[str, list[float]] = {loop: [] for loop in steps}
    peak_gflops = 0.0
    for _ in range(rounds + 1):
        peak_gflops = max(peak_gflops, precision.probe().peak_gflops)
        for loop, step in steps.items():
            begin_s = time.perf_counter()
            losses[loop].append(step())
            taken_s[loop].append(time.perf_counter() - begin_s)

    batch = micro_batch(random_rows(size))
    decoder = decoder_of(size)
    parameters = sum(p.numel() for p in decoder.parameters())
    flops = step_cost(decoder).flops(batch.tokens, batch.targets, batch.lengths)
    del steps, decoder
    print(
        f"\n{name}: {parameters:,} parameters, {size.rows} x {LENGTH} tokens a step,"
        f" {flops / 1e9:.0f} GFLOP; peak {peak_gflops:.0f} GFLOP/s\n"
    )
    print(
        f"{'loop':28} {'tokens/s':>9} {'of peak':>8} {'time/ours':>10} {'memory GB':>10}"
        f" {'loss first, last':>18}"
    )
    for loop, all_s in taken_s.items():
        best_s = min(all_s[1:])  # the first step sets libraries up
        ratios = [s / own for s, own in zip(all_s[1:], taken_s["bessemer"][1:], strict=True)]
        print(
            f"{loop:28} {batch.tokens / best_s:9,.0f} {flops / best_s / 1e9 / peak_gflops:8.1%}"
            f" {statistics.median(ratios):10.2f} {peak_memory_gb(name, loop):10.2f}"
            f" {losses[loop][0]:9.3f} {losses[loop][-1]:8.3f}",
            flush=True,
        )


def peak_memory_gb(name: str, loop: str) -> float:
    """Of a process of its own, the libraries included."""
    command = [sys.executable, __file__, "--size", name, "--memory-of", loop]
    command += ["--threads", str(torch.get_num_threads())]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=[*SIZES, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=3, help="steps each loop takes")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--memory-of", choices=list(LOOPS), help="print that only, in GB")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    keep_freed_memory()  # for all of them: the peers gain as much
    if chosen.memory_of:
        step = LOOPS[chosen.memory_of](SIZES[chosen.size])
        step()
        step()
        status = Path("/proc/self/status").read_text()
        # Not getrusage's figure, which a new process takes over from the one that started it.
        print(int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e9)
        return
    print(f"{chosen.threads} threads, torch {torch.__version__}")
    for name in SIZES if chosen.size == "all" else [chosen.size]:
        measure(name, chosen.rounds)


if __name__ == "__main__":
    main()
