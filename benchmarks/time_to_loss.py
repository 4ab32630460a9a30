"""Minutes to a fixed validation loss on Python's standard library: AdamW beside Muon.

    .venv/bin/python benchmarks/time_to_loss.py            # three seeds each, in turns
    .venv/bin/python benchmarks/time_to_loss.py --tune     # how the rates were found

Every run is a run process with the recipe below, as `bessemer train` would start it. Where the loss
passes the target is interpolated between two validations. Minutes are the steps until there times
the optimizer's step, which is the 10th percentile of all its steps: other work on the machine
disturbs some of them, and one optimizer's more than the other's. The rate is constant after the
warm-up, so that nothing depends on where the run was planned to end. Each optimizer has its own
rate: the best of `RATES` by the bits per byte of seed 0 after the last step.
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
TOKENS = 4 * 512  # of a step
TUNED = {"adamw": 7.5e-4, "muon": 1.5e-3}
RATES = (3.75e-4, 7.5e-4, 1.5e-3, 3e-3, 6e-3, 1.2e-2)


class Curve(NamedTuple):
    """The validations of a run, (step, bits per byte), and how long each step took."""

    points: list[tuple[int, float]]
    steps_s: list[float]

    @property
    def steps_to_target(self) -> float:
        """When the curve first passes the target; infinite if it never does."""
        for (step, before), (next_step, after) in itertools.pairwise(self.points):
            if after <= TARGET:
                return step + (before - TARGET) / (before - after) * (next_step - step)
        return float("inf")


def run(folder: Path, optimizer: str, rate: float, seed: int, shared: Path | None) -> Curve:
    """Train in `folder`; tokenizer and tokens are those of the run in `shared`, if there is one."""
    recipe = RECIPE.format(steps=STEPS, seed=seed, optimizer=optimizer, rate=rate)
    plan: dict[str, Any] = {"kind": "train", "model": None, "datasets": {}, "models": {}}
    plan["threads"] = os.cpu_count()
    made = RunFolder.create(folder, recipe, plan)
    if shared is not None:
        for part in ("tokenizer", "tokens"):
            shutil.copytree(shared / part, folder / part)
    subprocess.run([sys.executable, "-m", "bessemer.app.run_process", str(folder)], check=True)
    events = made.read()
    return Curve(
        [(e["step"], e["bits_per_byte"]) for e in events if e["kind"] == "validation"],
        [TOKENS / e["tokens_s"] for e in events if e["kind"] == "step"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tune", action="store_true", help="seed 0 at every rate")
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    if chosen.tune:
        asked = [(optimizer, rate, 0) for rate in RATES for optimizer in TUNED]
    else:
        asked = [(o, rate, seed) for seed in range(chosen.seeds) for o, rate in TUNED.items()]
    curves: dict[str, list[Curve]] = {optimizer: [] for optimizer in TUNED}
    with tempfile.TemporaryDirectory() as scratch:
        shared = None
        for number, (optimizer, rate, seed) in enumerate(asked):
            folder = Path(scratch) / f"run-{number}"
            curve = run(folder, optimizer, rate, seed, shared)
            shared = shared or folder
            curves[optimizer].append(curve)
            print(
                f"{optimizer:6} rate {rate:g} seed {seed}: {TARGET} bits per byte after"
                f" {curve.steps_to_target:.0f} steps; {curve.points[-1][1]:.3f} after {STEPS}",
                flush=True,
            )
    if not chosen.tune:
        tell(curves)


def tell(curves: dict[str, list[Curve]]) -> None:
    """Print the table."""
    print(
        f"\n{'optimizer':10} {'rate':>7} {'step ms':>8} {'steps: mean':>12} {'spread':>12}"
        f" {'minutes: mean':>14} {'spread':>12}"
    )
    for optimizer, runs in curves.items():
        step_s = statistics.quantiles([s for each in runs for s in each.steps_s], n=10)[0]
        steps = [each.steps_to_target for each in runs]
        low, mean, high = min(steps), statistics.mean(steps), max(steps)
        minutes = step_s / 60
        print(
            f"{optimizer:10} {TUNED[optimizer]:7g} {1000 * step_s:8.1f} {mean:12.0f}"
            f" {f'{low:.0f} to {high:.0f}':>12} {mean * minutes:14.2f}"
            f" {f'{low * minutes:.2f} to {high * minutes:.2f}':>12}"
        )


if __name__ == "__main__":
    main()
