"""From what a job asks to the recipe of the run that it is.

Every job trains a low-rank difference (LoRA): it is served beside its base by the base's own
engine, has a hundredth of its bytes, and a job on top of a fine-tuned model goes on with that
model's difference, so that the base stays the same one. A row of a batch holds one example, so a
step learns from exactly `batch_size` of them and `n_epochs` epochs see each line so often.

"auto", where E is the number of epochs, B of examples in a step, N of lines:

    supervised       E = 3, more below 34 lines (N E about 100, at most 25), fewer above 8,333
    dpo              E = 3, more below 17 pairs (N E about 50, at most 10), fewer above 4,166
    reinforcement    E = 1, more below 64 prompts (at most 8)
    B                4, or N / 500 where that is more, at most 256

Those of `supervised` are OpenAI's own, of before it began to choose by trial.
"""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

from bessemer.app.fine_tuning_method import (
    Dpo,
    DpoHyperparameters,
    Hyperparameters,
    Method,
    Reinforcement,
    ReinforcementHyperparameters,
    Supervised,
)
from bessemer.core.errors import DataError
from bessemer.core.train_recipe import TrainRecipe
from bessemer.data.given_splits import MEASURED_LINES

# Peak rates that a multiplier of 1 means: those of recipes/, which were chosen on validation data.
RATES = {"supervised": 2e-3, "dpo": 2e-4, "reinforcement": 1e-4}
BETA = 0.1
GROUP, MOST_GROUP = 8, 64
ANSWER_TOKENS = 128
MOST_CHECKPOINTS = 10
VALIDATION_LINES = 64
MOST_BATCH = 256
CHECKPOINT_S = 15.0

Objective = Literal["sft", "dpo", "grpo"]
_OBJECTIVES: dict[str, Objective] = {"supervised": "sft", "dpo": "dpo", "reinforcement": "grpo"}


class Measured(NamedTuple):
    """What the files hold. `longest` is the tokens of the longest line, pairs with both answers;
    `tokens` are those of all training lines, `judged` the lines there are to judge it on.
    """

    lines: int
    longest: int
    validated: bool
    tokens: int = 0
    judged: int = 0


class Start(NamedTuple):
    """Where the run starts: a model, and maybe the folder of an adapter to go on with."""

    model: str
    context_length: int
    adapter: str | None = None


class Settled(NamedTuple):
    """A recipe, and the method with numbers in place of "auto"."""

    recipe: TrainRecipe
    method: Method


def settle(method: Method, start: Start, dataset: str, measured: Measured, *, seed: int) -> Settled:
    """Choose what was left open, and write the recipe.

    Raises:
        DataError: prompts leave no room for an answer.
    """
    asked = method.section.hyperparameters
    batch = _batch_size(asked, measured.lines)
    epochs = _epochs(method, measured.lines)
    multiplier = 1.0 if asked.learning_rate_multiplier == "auto" else asked.learning_rate_multiplier
    numbers: dict[str, float] = {
        "n_epochs": epochs, "batch_size": batch, "learning_rate_multiplier": multiplier
    }  # fmt: skip
    steps = max(1, -(-measured.lines * epochs // batch))
    tree: dict[str, Any] = {
        "objective": _OBJECTIVES[method.type],
        "minutes": 60 * 24,  # of no effect, since the steps are given
        "steps": steps,
        "seed": seed,
        "model": {"name": start.model},
        "data": {"name": dataset, "over_long": "refuse"},
        "lora": {"leaves": "adapter", "snapshots": True},
        "batch": {"rows": batch, "packing": "none"},
        "optimizer": {"learning_rate": RATES[method.type] * multiplier},
        "evaluation": {
            "times": min(epochs, steps, MOST_CHECKPOINTS),
            "rows": VALIDATION_LINES if measured.validated else MEASURED_LINES,
            "sample_tokens": 0,
        },
        "checkpoints": {"every_s": CHECKPOINT_S},
    }
    if start.adapter is not None:
        tree["lora"]["adapter"] = start.adapter
    tree["batch"]["sequence_length"] = _row_tokens(measured.longest)
    match method.section:
        case Supervised():
            pass
        case Dpo(hyperparameters=dpo):
            numbers["beta"] = _beta(dpo)
            tree["dpo"] = {"beta": numbers["beta"]}
        case Reinforcement() as section:
            numbers |= _reinforce(tree, section, start, measured, steps)
    return Settled(TrainRecipe.model_validate(tree), method.settled(**numbers))


def _reinforce(
    tree: dict[str, Any], section: Reinforcement, start: Start, measured: Measured, steps: int
) -> dict[str, float]:
    """Fill in what GRPO needs; returns the numbers that were chosen."""
    room = start.context_length - measured.longest
    if room < 1:
        raise DataError(
            f"the longest prompt has {measured.longest:,} tokens, and the model reads"
            f" {start.context_length:,}: there is no room for an answer"
        )
    asked = section.hyperparameters
    compute = 1.0 if asked.compute_multiplier == "auto" else asked.compute_multiplier
    samples = MEASURED_LINES if asked.eval_samples == "auto" else asked.eval_samples
    times = tree["evaluation"]["times"]
    interval = max(1, steps // times) if asked.eval_interval == "auto" else asked.eval_interval
    answer = min(ANSWER_TOKENS, room)
    tree["batch"]["sequence_length"] = measured.longest + answer
    tree["evaluation"] |= {"times": max(1, steps // interval), "rows": samples}
    tree["schedule"] = {"shape": "constant"}
    tree["grpo"] = {
        "group": min(MOST_GROUP, max(2, round(GROUP * compute))),
        "max_tokens": answer,
        "rewards": [{"kind": "grader", "grader": json.dumps(section.grader)}],
    }
    return {"compute_multiplier": compute, "eval_interval": interval, "eval_samples": samples}


def _beta(asked: DpoHyperparameters) -> float:
    return BETA if asked.beta == "auto" else asked.beta


def _batch_size(asked: Hyperparameters, lines: int) -> int:
    wanted = asked.batch_size
    return min(lines, min(MOST_BATCH, max(4, lines // 500)) if wanted == "auto" else wanted)


def _epochs(method: Method, lines: int) -> int:
    asked = method.section.hyperparameters
    wanted = asked.n_epochs
    if wanted != "auto":
        return wanted
    if isinstance(asked, ReinforcementHyperparameters):
        return max(1, min(8, 64 // lines))
    fewest, most, epochs = (50, 12_500, 10) if isinstance(asked, DpoHyperparameters) else (
        100, 25_000, 25
    )  # fmt: skip
    if lines * 3 < fewest:
        return min(epochs, fewest // lines)
    return max(1, most // lines) if lines * 3 > most else 3


def _row_tokens(longest: int) -> int:
    """Rounded up, so that jobs of about the same length take the same shapes."""
    return max(8, -(-longest // 64) * 64)
