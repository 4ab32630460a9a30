"""Minutes to a fixed validation loss on Python's standard library: AdamW beside Muon.

    .venv/bin/python benchmarks/time_to_loss.py            # three seeds each, in turns
    .venv/bin/python benchmarks/time_to_loss.py --tune     # how the rates were found

Every run is a run process with the recipe below, as `bessemer train` would start it. Minutes are
those of the optimizer's steps; where the loss passes the target is interpolated between two
validations. The rate is constant after the warm-up, so that the time does not depend on where the
run was planned to end. Each optimizer has its own rate: the best of `RATES` by the bits per byte
of seed 0 after the last step.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from bessemer.core.runs import RunFolder

RECIPE = """
objective = "pretrain"
minutes = 1
steps = {steps}
seed = {seed}
model.depth = 4
model.vocab_size = 4096
data.name = "python-stdlib"
batch.sequence_length = 512
batch.rows = 4
optimizer.kind = "{optimizer}"
optimizer.learning_rate = {rate}
optimizer.betas = [0.9, 0.95]
optimizer.weight_decay = 0.1
schedule.shape = "constant"
schedule.warmup_steps = 20
evaluation.times = 20
evaluation.rows = 32
evaluation.sample_tokens = 0
checkpoints.every_s = 3600
"""
STEPS = 600
TARGET = 1.9  # bits per byte
TUNED = {"adamw": 1.5e-3, "muon": 3e-3}
RATES = (1.5e-3, 3e-3, 6e-3, 1.2e-2)


class Point(NamedTuple):
    minutes: float
    bits_per_byte: float


def curve(folder: Path, optimizer: str, rate: float, seed: int, shared: Path | None) -> list[Point]:
    """The validations of one run, by minutes of steps.

    Args:
        shared: a run whose tokenizer and tokens are taken over.
    """
    recipe = RECIPE.format(steps=STEPS, seed=seed, optimizer=optimizer, rate=rate)
    plan: dict[str, Any] = {"kind": "train", "model": None, "datasets": {}, "models": {}}
    plan["threads"] = os.cpu_count()
    run = RunFolder.create(folder, recipe, plan)
    if shared is not None:
        for part in ("tokenizer", "tokens"):
            shutil.copytree(shared / part, folder / part)
    subprocess.run([sys.executable, "-m", "bessemer.app.run_process", str(folder)], check=True)
    points, minutes = [], 0.0
    for event in run.read():
        if event["kind"] == "step":
            minutes += 4 * 512 / event["tokens_s"] / 60
        elif event["kind"] == "validation":
            points.append(Point(minutes, event["bits_per_byte"]))
    return points


def minutes_to(target: float, points: list[Point]) -> float:
    """When the curve first passes the target; infinite if it never does."""
    for before, after in itertools.pairwise(points):
        if after.bits_per_byte <= target:
            part = (before.bits_per_byte - target) / (before.bits_per_byte - after.bits_per_byte)
            return before.minutes + part * (after.minutes - before.minutes)
    return float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tune", action="store_true", help="seed 0 at every rate")
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    if chosen.tune:
        asked = [(optimizer, rate, 0) for rate in RATES for optimizer in TUNED]
    else:
        asked = [(o, rate, seed) for seed in range(chosen.seeds) for o, rate in TUNED.items()]
    taken: dict[str, list[float]] = {optimizer: [] for optimizer in TUNED}
    with tempfile.TemporaryDirectory() as scratch:
        shared = None
        for number, (optimizer, rate, seed) in enumerate(asked):
            folder = Path(scratch) / f"run-{number}"
            points = curve(folder, optimizer, rate, seed, shared)
            shared = shared or folder
            taken[optimizer].append(minutes_to(TARGET, points))
            print(
                f"{optimizer:6} rate {rate:g} seed {seed}: {TARGET} bits per byte after"
                f" {taken[optimizer][-1]:.2f} minutes; {points[-1].bits_per_byte:.3f} after"
                f" {points[-1].minutes:.2f} minutes, {STEPS} steps",
                flush=True,
            )
    if chosen.tune:
        return
    print(f"\n{'optimizer':10} {'rate':>8} {'minutes: mean':>14} {'lowest':>7} {'highest':>8}")
    for optimizer, minutes in taken.items():
        mean, low, high = statistics.mean(minutes), min(minutes), max(minutes)
        print(f"{optimizer:10} {TUNED[optimizer]:8g} {mean:14.2f} {low:7.2f} {high:8.2f}")


if __name__ == "__main__":
    main()
