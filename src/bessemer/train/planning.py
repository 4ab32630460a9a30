"""What a run will take, found out before it is one: opened as the loop opens it, some steps timed.

    measure(run)      # a folder as for `loop.train`; the answer is its event `measured`

Nothing is guessed from a machine's peak: the steps are those of this network on these rows. Memory
is the most that the process had over them, and what is allocated later, which is known to the byte.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from pathlib import Path

import torch

from bessemer.core.allocator import keep_freed_memory
from bessemer.core.processes import ProcessId
from bessemer.core.recipes import load
from bessemer.core.runs import RunFolder
from bessemer.core.train_recipe import TrainRecipe
from bessemer.data.document_splits import open_tokenizer
from bessemer.train import network, precision
from bessemer.train.balancing import prepare
from bessemer.train.loop import judge, measure_step_s
from bessemer.train.memory import explained, refuse_if_too_large, snapshot_bytes, state_bytes
from bessemer.train.opening import open_schedule
from bessemer.train.task import Setting
from bessemer.train.weights import TrainedWeights

TIMED_STEPS = 5
TIMED_ROWS = 4
LIMIT_S = 20.0


def measure(run: RunFolder) -> None:
    """Tell what opening the run, a step, and a row that is only judged take.

    Raises:
        InvalidInput: the data does not fit the recipe.
        OutOfMemory: with the numbers, and the change that fits.
    """
    with contextlib.closing(run.open_log()) as log:
        # 1. The run, cut to what is timed: a pass before the first step reads no more rows.
        plan, whole = run.plan(), load(run.recipe, TrainRecipe).recipe
        rows = min(TIMED_ROWS, whole.evaluation.rows)
        update = {
            "steps": TIMED_STEPS,
            "minutes": 20 * LIMIT_S / 60,  # `measure_step_s` takes a twentieth of them
            "evaluation": whole.evaluation.model_copy(update={"rows": rows}),
        }
        recipe = whole.model_copy(update=update)
        torch.set_num_threads(int(plan["threads"]))
        torch.manual_seed(recipe.seed)
        keep_freed_memory()
        with explained(recipe):
            # 2. The network and its data, as in `loop.train`.
            base = Path(plan["model"]["path"]) if recipe.model.name else None
            tokenizer = open_tokenizer(recipe, base, run.path / "tokenizer", plan["datasets"])
            peak = precision.probe()
            chosen = peak.faster if recipe.precision == "auto" else recipe.precision
            decoder = network.start(recipe, base, tokenizer, precision.DTYPES[chosen])
            if recipe.lora is None:
                prepare(decoder, recipe.moe)
            decoder.recompute_layers(recipe.recompute == "layers")
            refuse_if_too_large(decoder, recipe)
            weights = TrainedWeights(decoder)
            setting = Setting(recipe, plan, run.path, tokenizer, log.write)
            schedule = open_schedule(setting, decoder)
            open_s = time.time() - ProcessId.current().started

            # 3. Some steps, and some rows that are only judged.
            step_s = measure_step_s(decoder, weights, schedule, recipe)
            begin_s = time.monotonic()
            judge(decoder, weights, schedule, recipe)
            judge_s = time.monotonic() - begin_s
        judged = sum(len(task.validation()) for task in schedule.tasks)
        log.write(
            "measured",
            open_s=open_s,
            step_s=step_s,
            judged_row_s=judge_s / max(1, judged),
            needs_bytes=_peak_bytes()
            + state_bytes(decoder, recipe)
            + snapshot_bytes(decoder, recipe),
            precision=chosen,
            threads=torch.get_num_threads(),
            trainable_parameters=weights.count,
            parameters=sum(p.numel() for p in decoder.parameters()),
        )


def _peak_bytes() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
