"""Runs whose story a test tells: real rows and real folders, without a process that works."""

from __future__ import annotations

import json
from typing import Any

from bessemer.app import jobs
from bessemer.app.platform import Platform
from bessemer.core.runs import RunFolder
from bessemer.core.tables import runs

RECIPE = """objective = "sft"
minutes = 2.5
seed = 0

[model]
name = "smollm2-135m-instruct"

[data]
name = "python-docs"
roles = ["assistant"]

[lora]
rank = 16
alpha = 32.0
"""

# Without a script, a page of what goes on.
RENEWED = '<noscript><meta http-equiv="refresh" content="10"></noscript>'


class ToldRun:
    """One run: `tell` writes an event. While the test lives, the run counts as alive."""

    def __init__(self, platform: Platform, kind: str, name: str, plan: dict[str, Any]) -> None:
        self._platform = platform
        person = platform.local_principal()
        self.folder: RunFolder = jobs.submit(platform, person, kind, name, RECIPE, plan)
        self.id = self.folder.run_id
        self.path = f"/runs/{self.id}"
        self._log = self.folder.open_log()

    def tell(self, kind: str, **fields: Any) -> None:
        self._log.write(kind, **fields)

    def start(self) -> None:
        taken = runs.update().where(runs.c.id == self.id).values(state="starting", attempts=1)
        with self._platform.db.write() as connection:
            connection.execute(taken)
        self.folder.claim()
        self.tell("state", state="running")

    def teach(self, steps: range, total: int, *, validate_every: int = 10) -> None:
        """Training's events for these steps: losses fall, the rest stands still."""
        for step in steps:
            left = total - step
            loss = 1.0 + 2.5 / (1 + step / 12) + 0.12 * ((step * 7919) % 13 - 6) / 6
            self.tell(
                "step", step=step, loss=loss, lr=3e-3 * left / total, grad_norm=0.8,
                tokens_s=331.4, mfu=0.423, eta_s=left * 3.1,
            )  # fmt: skip
            if step % validate_every == 0:
                self.tell("validation", step=step, loss=1.05 + 2.9 / (1 + step / 12))

    def finish(self, state: str = "succeeded", **more: Any) -> None:
        self.tell("state", state=state, **more)
        self._log.close()

    def report(self, found: dict[str, Any]) -> None:
        self.folder.output.mkdir(exist_ok=True)
        (self.folder.output / "report.json").write_text(json.dumps(found))


def train_run(platform: Platform, name: str = "teach-1", *, steps: int = 49) -> ToldRun:
    """A training run that has started and said its plan."""
    model = {"name": "smollm2-135m-instruct", "path": "/m", "digest": "sha256:" + "a" * 64}
    dataset = {"name": "python-docs", "path": "/d", "digest": "sha256:" + "d" * 64}
    run = ToldRun(platform, "train", name, {"model": model, "dataset": dataset, "threads": 2})
    run.start()
    run.tell(
        "plan", steps=steps, tokens_per_step=1024, precision="bf16",
        trainable_parameters=4_884_480, parameters=134_515_008, threads=2, peak_gflops=412.0,
    )  # fmt: skip
    return run


def eval_run(platform: Platform, name: str = "teach-1-eval") -> ToldRun:
    """An evaluation that has started and said its plan."""
    run = ToldRun(platform, "eval", name, {"threads": 2})
    run.start()
    run.tell("plan", items=128, stages=6, questions=512)
    return run


def found(sentences: list[str]) -> dict[str, Any]:
    """A report as `evals` writes it, with two comparisons."""
    interval = {
        "value": -1.4382, "low": -1.581, "high": -1.312,
        "level": 0.95, "clusters": 96, "resamples": 10_000,
    }  # fmt: skip
    comparison = {
        "metric": "nll", "baseline": "base", "candidate": "taught",
        "baseline_value": 3.9412, "candidate_value": 2.503, "difference": interval,
        "sign_test_p": None, "items": 128, "left_out": 0, "verdict": "better", "reason": "",
    }  # fmt: skip
    doubtful = {
        **comparison, "metric": "exact", "baseline": "base with 6 examples",
        "difference": {**interval, "value": 0.02, "low": -0.03, "high": 0.07},
        "verdict": "cannot tell", "reason": "the interval includes no difference",
    }  # fmt: skip
    return {
        "sentences": sentences,
        "comparisons": [comparison, doubtful],
        "values": [
            {"metric": "nll", "who": "base", "label": "base", "shots": 0, "value": 3.9412,
             "unit": "nats/token", "better": "lower", "answered": 128, "asked": 128, "weight": 9e3},
        ],
        "not_answered": [],
        "models": [{"label": "base", "name": "smollm2", "digest": "sha256:" + "a" * 64}],
        "settings": {"items": 128, "seed": 0},
    }  # fmt: skip
