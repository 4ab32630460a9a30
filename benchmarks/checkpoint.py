"""What does a checkpoint cost training? Ours beside torch's own writers, on one state.

    .venv/bin/python benchmarks/checkpoint.py            # about three minutes on two cores

The state is that of a full AdamW run: masters and two moments in float32 of a Llama of some fifty
million parameters. Each round takes steps (1 x 256 tokens), saves, takes steps until it is
committed, takes as many again, then saves and waits at once. Then torch's writers write the same
state, waited for: `HuggingFaceStorageWriter` (safetensors, hashes not included) and
`FileSystemWriter` (pickle). Printed: medians of the seconds the loop is held and until the
checkpoint is committed, memory taken meanwhile, and the steps' seconds before, during and after.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch
from fixed_tree import NextToken
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import StorageWriter

from bessemer.core.allocator import keep_freed_memory
from bessemer.core.events import EventLog, read_events
from bessemer.core.train_sections import CheckpointSection, GuardSection, OptimizerSection
from bessemer.data.packing import Row
from bessemer.models.config import ModelConfig
from bessemer.models.decoder import Decoder
from bessemer.train import storage
from bessemer.train.checkpoint import Checkpoints
from bessemer.train.gradient import Part, accumulate
from bessemer.train.guard import Guard
from bessemer.train.optimizer import Optimizer
from bessemer.train.resuming import Moving
from bessemer.train.weights import TrainedWeights

LENGTH, VOCAB = 256, 16384
CONFIG = ModelConfig(
    vocab_size=VOCAB,
    hidden_size=576,
    intermediate_size=1536,
    layers=11,
    heads=9,
    kv_heads=9,
    head_dim=64,
    context_length=LENGTH,
)


class Run:
    """A network in training, as `bessemer.train.loop` holds one."""

    def __init__(self) -> None:
        decoder = Decoder(CONFIG).init_weights(0).to(torch.bfloat16)
        weights = TrainedWeights(decoder)
        optimizer = Optimizer(weights.masters, OptimizerSection())
        self.moving = Moving(decoder, weights, optimizer, Guard(GuardSection()))
        ids = np.random.default_rng(0).integers(0, VOCAB, LENGTH + 1)
        row = Row(ids[:-1], (LENGTH,), np.arange(LENGTH), ids[1:])
        self._parts = [Part(NextToken(), [row], 1.0)]  # type: ignore[arg-type]
        self.steps = 0

    def step(self) -> float:
        """Take a step; returns its seconds."""
        network, weights, optimizer, _ = self.moving
        begin_s = time.perf_counter()
        accumulate(network, weights, self._parts, 1)  # type: ignore[arg-type]
        weights.clip(1.0)
        optimizer.step(1e-4)
        weights.publish()
        self.steps += 1
        return time.perf_counter() - begin_s


class Round(NamedTuple):
    """Seconds of one round of ours."""

    held_s: float
    committed_s: float
    waited_for_s: float
    before_s: list[float]
    during_s: list[float]
    after_s: list[float]


def one_round(run: Run, kept: Checkpoints, events: Path, steps: int) -> Round:
    before_s = [run.step() for _ in range(steps)]
    held_s = seconds_of(lambda: kept.save(run.steps, run.moving.tensors(), {}))
    during_s = []
    while kept.busy:
        during_s.append(run.step())
    after_s = [run.step() for _ in range(steps)]
    kept.wait()
    told = [e for e in read_events(events).events if e["kind"] == "checkpoint"]

    def waited() -> None:
        kept.save(run.steps, run.moving.tensors(), {})
        kept.wait()

    return Round(held_s, told[-1]["seconds"], seconds_of(waited), before_s, during_s, after_s)


def theirs(run: Run, folder: Path, writer: Callable[[str], StorageWriter]) -> tuple[float, float]:
    """Seconds and megabytes of one save by a writer of torch's."""
    state = dict(run.moving.tensors())
    with tempfile.TemporaryDirectory(dir=folder) as path, Peak() as peak:
        taken_s = seconds_of(lambda: save(state, storage_writer=writer(path), no_dist=True))
    return taken_s, peak.added_mb


class Peak:
    """The most memory that this process had within the `with`, above what it began with."""

    added_mb = 0.0

    def __enter__(self) -> Peak:
        self._begin, self._done = self._now(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_fault: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.added_mb = max(self.added_mb, (self._now() - self._begin) / 1e6)

    def _now(self) -> int:
        return int(psutil.Process().memory_info().rss)


def seconds_of(act: Callable[[], object]) -> float:
    begin_s = time.perf_counter()
    act()
    return time.perf_counter() - begin_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="before and after each checkpoint")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--nice", type=int, default=storage.NICE, help="of the writing thread")
    parser.add_argument("--folder", default=".", help="on the disk to measure")
    chosen = parser.parse_args()
    storage.NICE = chosen.nice
    torch.set_num_threads(chosen.threads)
    keep_freed_memory()
    run = Run()
    for _ in range(3):
        run.step()  # sets libraries up, makes the moments
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        events = folder / "events.jsonl"
        with closing(EventLog(events)) as log:
            kept = Checkpoints(folder, log, CheckpointSection(keep_last=1))
            first_s = seconds_of(lambda: kept.save(0, run.moving.tensors(), {}))
            kept.wait()
            with Peak() as ours:
                kept.save(0, run.moving.tensors(), {})
                kept.wait()
            rounds = [one_round(run, kept, events, chosen.steps) for _ in range(chosen.rounds)]
        makers = {"HuggingFaceStorageWriter": HuggingFaceStorageWriter,
                  "FileSystemWriter": FileSystemWriter}  # fmt: skip
        others = {
            name: [theirs(run, folder, maker) for _ in range(chosen.rounds)]
            for name, maker in makers.items()
        }
    size_bytes = sum(tensor.nbytes for tensor in run.moving.tensors().values())
    print(f"{chosen.threads} threads, nice {chosen.nice}, torch {torch.__version__}")
    print(f"{run.moving.weights.count:,} parameters, {size_bytes:,} bytes a checkpoint\n")
    middle = statistics.median
    held_s, committed_s = middle(r.held_s for r in rounds), middle(r.committed_s for r in rounds)
    waited_s = middle(r.waited_for_s for r in rounds)
    print(f"{'':34} {'held, s':>8} {'committed, s':>13} {'more MB':>8}")
    print(f"{'ours, in the background':34} {held_s:8.3f} {committed_s:13.3f} {ours.added_mb:8.0f}")
    print(f"{'ours, waited for':34} {waited_s:8.3f} {waited_s:13.3f} {ours.added_mb:8.0f}")
    for name, told in others.items():
        taken_s, added_mb = middle(s for s, _ in told), max(mb for _, mb in told)
        print(f"{name:34} {taken_s:8.3f} {taken_s:13.3f} {added_mb:8.0f}")
    print(f"\nthe first of a run, whose buffers are made, holds it {first_s:.3f} s;"
          f" they keep {size_bytes / 1e6:.0f} MB")  # fmt: skip
    parts = (("before", [s for r in rounds for s in r.before_s]),
             ("during", [s for r in rounds for s in r.during_s]),
             ("after", [s for r in rounds for s in r.after_s]))  # fmt: skip
    for name, all_s in parts:
        ratio = middle(all_s) / middle(parts[0][1])
        print(f"steps {name:7} {len(all_s):4}, median {middle(all_s):.3f} s, {ratio:.2f} times")


if __name__ == "__main__":
    main()
