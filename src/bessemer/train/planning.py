"""What a run will take, found out before it is one: opened as the loop opens it, some steps timed.

    measure(run)      # a folder as for `loop.train`; the answer is its event `measured`

Nothing is guessed from a machine's peak: the steps are those of this network on these rows. Memory
is the most that the process had over them, and what is allocated later, which is known to the byte.

A run that samples its answers takes as long as these are, and training changes that. So there is a
step more in which no answer ends before it must: the most that a step of it can take. The peak of
memory is that one's.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from typing import Any

from bessemer.core.processes import ProcessId
from bessemer.core.protocols import EngineMaker
from bessemer.core.recipes import load
from bessemer.core.runs import RunFolder
from bessemer.core.train_recipe import TrainRecipe
from bessemer.train.loop import gradient_of, judge, measure_step_s
from bessemer.train.memory import explained, snapshot_bytes, state_bytes
from bessemer.train.objectives.grpo import GrpoTask
from bessemer.train.opening import Opened, open_run

TIMED_STEPS = 5
TIMED_ROWS = 4
# Answers come from an engine that takes this many side by side: fewer would cost too much each.
TIMED_ANSWERS = 32
LIMIT_S = 20.0


def measure(run: RunFolder, engine_of: EngineMaker | None = None) -> None:
    """Tell what opening the run, a step, and a row that is only judged take.

    Args:
        engine_of: as for `loop.train`.

    Raises:
        InvalidInput: the data does not fit the recipe.
        OutOfMemory: with the numbers, and the change that fits.
    """
    with contextlib.closing(run.open_log()) as log:
        whole = load(run.recipe, TrainRecipe).recipe
        recipe = _cut(whole)
        share = recipe.batch.rows / whole.batch.rows
        with explained(recipe):
            opened = open_run(run, recipe, log.write, engine_of)
            open_s = time.time() - ProcessId.current().started
            decoder, weights, schedule = opened.network, opened.weights, opened.schedule
            told: dict[str, Any] = {
                "step_s": measure_step_s(decoder, weights, schedule, recipe) / share,
                "judged_row_s": _judged_row_s(opened, recipe),
            }
            if (task := schedule.sampling) is not None:
                told |= _of_answers(run, "rollouts")
                told["judged"] = _of_answers(run, "judged")
                longest = _of_longest(opened, task, recipe, share)
                told["at_most"] = {name: max(told[name], longest[name]) for name in longest}
        state, snapshot = state_bytes(decoder, recipe), snapshot_bytes(decoder, recipe)
        log.write(
            "measured",
            open_s=open_s,
            needs_bytes=_peak_bytes() + state + snapshot,
            **told,
            **opened.facts,
        )


def _cut(whole: TrainRecipe) -> TrainRecipe:
    """The run as far as it is timed: a pass before the first step reads no more rows."""
    timed, batch = TIMED_ROWS, whole.batch
    if whole.grpo is not None:
        timed = TIMED_ANSWERS
        # Twice what the engine takes at once, and no less than goes through the network at once.
        enough = max(whole.rows_at_once, -(-2 * TIMED_ANSWERS // whole.grpo.group))
        batch = batch.model_copy(update={"rows": min(batch.rows, enough)})
    rows = min(timed, whole.evaluation.rows)
    update = {
        "steps": TIMED_STEPS,
        "minutes": 20 * LIMIT_S / 60,  # `measure_step_s` takes a twentieth of them
        "batch": batch,
        "evaluation": whole.evaluation.model_copy(update={"rows": rows}),
    }
    return whole.model_copy(update=update)


def _judged_row_s(opened: Opened, recipe: TrainRecipe) -> float:
    begin_s = time.monotonic()
    judge(opened.network, opened.weights, opened.schedule, recipe)
    spent_s = time.monotonic() - begin_s
    if (task := opened.schedule.sampling) is not None:  # several answers share a row
        return spent_s / int(task.facts["validation_prompts"])
    return spent_s / max(1, sum(len(task.validation()) for task in opened.schedule.tasks))


def _of_answers(run: RunFolder, kind: str) -> dict[str, float]:
    """How long answers and their prompts were in the mean, and how much of these was cached."""
    told = [event for event in run.read() if event["kind"] == kind]
    answers, tokens, prompts, cached = (
        sum(event[name] for event in told)
        for name in ("answers", "tokens", "prompt_tokens", "cached_tokens")
    )
    return {
        "answer_tokens": tokens / answers,
        "prompt_tokens": prompts / answers,
        "cached_share": cached / prompts,
    }


def _of_longest(
    opened: Opened, task: GrpoTask, recipe: TrainRecipe, share: float
) -> dict[str, float]:
    """What a step and a judged row take if no answer ends before it must."""
    task.stop_ids = ()  # the first step's answers are sampled anew: later ones came since
    begin_s = time.monotonic()
    gradient_of(1, opened.network, opened.weights, opened.schedule, recipe)
    step_s = (time.monotonic() - begin_s) / share
    return {"step_s": step_s, "judged_row_s": _judged_row_s(opened, recipe)}


def _peak_bytes() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
