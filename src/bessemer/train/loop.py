"""The training loop, top to bottom: `train(run)` does one run, from its folder to its model.

The run's folder says everything: `plan.json` and `recipe.toml` what to do, `resolved.toml` what
was decided at the start, `checkpoints/` where to continue. The same call starts a run and resumes
one. Progress is told in events and nowhere else. What there is to learn is a `task`.

What decides a step's result is fixed before the first one: the number of steps (so the schedule
does not follow the clock), precision, threads, and the order of the data, which is a function of
(seed, position). A run that is killed and resumed on the same machine ends with the same bits.
"""

from __future__ import annotations

import contextlib
import statistics
import time

import torch

from bessemer.core.errors import RunFailed
from bessemer.core.protocols import EngineMaker
from bessemer.core.recipes import dumps, load
from bessemer.core.runs import RunFolder, StopRequested, write_atomically
from bessemer.core.space import refuse_if_read_only
from bessemer.core.stopping import StopFlag
from bessemer.core.train_recipe import TrainRecipe
from bessemer.core.watchdog import Watchdog
from bessemer.models.flops import StepCost, step_cost
from bessemer.train.balancing import balance
from bessemer.train.checkpoint import Checkpoints
from bessemer.train.gradient import Measured, accumulate, accumulate_in_tree
from bessemer.train.guard import Fault, Guard
from bessemer.train.memory import explained
from bessemer.train.network import Trained
from bessemer.train.objectives import reptile
from bessemer.train.opening import Schedule, open_run
from bessemer.train.optimizer import Optimizer
from bessemer.train.output import write_output, write_snapshot
from bessemer.train.resuming import Moving, resume
from bessemer.train.sample import write_sample
from bessemer.train.schedule import learning_rate
from bessemer.train.task import Network, evaluating
from bessemer.train.weights import TrainedWeights


def train(run: RunFolder, engine_of: EngineMaker | None = None) -> None:
    """Do the run, or what is left of it, and write `output/`.

    Args:
        engine_of: what objectives that let a network speak make engines with.

    Raises:
        InvalidInput: the data does not fit the recipe.
        OutOfSpace: a checkpoint or the model does not fit on the disk; the last one is whole.
        OutOfMemory: with the numbers, and the change that fits.
        RunFailed: a gradient is not finite or the loss jumped, and the recipe says to stop; or the
            folder cannot be written.
        StopRequested: after a checkpoint, when SIGTERM came.
    """
    refuse_if_read_only(run.checkpoints)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(contextlib.closing(run.open_log()))
        # 1. What was asked, or decided when this run first started.
        plan = run.plan()
        resolved = run.path / "resolved.toml"
        recipe = load(resolved if resolved.exists() else run.recipe, TrainRecipe).recipe
        stack.enter_context(explained(recipe))

        # 2. The network, what it learns, and from what.
        opened = open_run(run, recipe, log.write, engine_of)
        decoder, weights, schedule = opened.network, opened.weights, opened.schedule
        optimizer = Optimizer(weights.masters, recipe.optimizer)
        cost, peak = step_cost(decoder), opened.peak

        # 3. The number of steps, from a measured speed; from here on nothing is decided again.
        step_s = None
        if recipe.steps is None:
            step_s = measure_step_s(decoder, weights, schedule, recipe)
        steps = recipe.steps or max(1, int(recipe.minutes * 60 / (step_s or 1.0)))
        recipe = recipe.model_copy(update={"steps": steps, "precision": opened.precision})
        if not resolved.exists():
            write_atomically(resolved, dumps(recipe).encode())
        log.write(
            "plan",
            objective=recipe.objective,
            measure=schedule.measure,
            steps=steps,
            tokens_per_step=recipe.tokens_per_step,
            **opened.facts,
            peak_gflops=round(peak.peak_gflops, 1),
            bf16_gflops=round(peak.bf16_gflops, 1),
            fp32_gflops=round(peak.fp32_gflops, 1),
            measured_step_s=step_s,
            data_digest=schedule.digest,
            **schedule.facts,
        )

        # 4. Where to continue.
        guard = Guard(recipe.guard)
        moving = Moving(decoder, weights, optimizer, guard)
        done = resume(run, log, schedule.digest, moving)
        if done == 0:
            log.write("validation", step=0, **judge(decoder, weights, schedule, recipe))

        # 5. The steps.
        validated = recipe.validated_steps
        last_saved_s = time.monotonic()
        durations_s: list[float] = []
        watchdog = stack.enter_context(Watchdog(log, run.run_id, recipe.guard.hang_s))
        kept = stack.enter_context(Checkpoints(run.checkpoints, log, recipe.checkpoints))
        with StopFlag(log) as stop:
            for step in range(done + 1, steps + 1):
                kept.check()
                begin_s = time.monotonic()
                measured = gradient_of(step, decoder, weights, schedule, recipe)
                grad_norm = weights.clip(recipe.optimizer.clip)
                rate = learning_rate(step, steps, recipe.optimizer.learning_rate, recipe.schedule)
                fault = guard.judge(measured.loss, grad_norm)
                if fault is None:
                    optimizer.step(rate)
                    weights.publish()
                    balance(decoder)
                elif fault.action == "stop":
                    kept.wait()
                    raise _stopped(run, step, fault)
                else:
                    weights.forget_gradients()
                    log.write("skipped", step=step, what=fault.what)
                watchdog.beat()
                durations_s.append(time.monotonic() - begin_s)
                log.write(
                    "step",
                    step=step,
                    loss=measured.loss,
                    lr=rate,
                    grad_norm=grad_norm,
                    **measured.metrics,
                    **_speed(measured, cost, durations_s, peak.peak_gflops, steps - step),
                )
                if step in validated:
                    said = judge(decoder, weights, schedule, recipe)
                    log.write("validation", step=step, **said)
                    if recipe.lora is not None and recipe.lora.snapshots:
                        write_snapshot(run, step, plan, decoder)
                        log.write("snapshot", step=step)
                    watchdog.beat()
                is_last = step == steps or stop.requested
                if is_last or time.monotonic() - last_saved_s >= recipe.checkpoints.every_s:
                    facts = moving.facts(step, schedule.digest, recipe)
                    kept.save(step, moving.tensors(), facts)
                    last_saved_s = time.monotonic()
                if is_last:
                    kept.wait()
                if is_last and step < steps:
                    raise StopRequested

        # 6. What came of it.
        decoder.eval()
        write_sample(log, steps, decoder, schedule, recipe)
        write_output(run, plan, recipe, decoder, weights, opened.tokenizer)
        if (task := schedule.reptile) is not None:
            log.write("adaptation", **reptile.against_plain(decoder, weights, task, recipe))
        told = [event for event in run.read() if event["kind"] == "validation"]
        log.write(
            "result",
            steps=steps,
            tokens=steps * recipe.tokens_per_step,
            measure=schedule.measure,
            before=told[0][schedule.measure],
            after=told[-1][schedule.measure],
            output=f"output/{'model' if (run.output / 'model').is_dir() else 'adapter'}",
        )


def gradient_of(
    step: int, decoder: Network, weights: TrainedWeights, schedule: Schedule, recipe: TrainRecipe
) -> Measured:
    """Leave the gradient of step `step`, counted from 1, in the masters."""
    parts = schedule.parts(step, recipe)
    if (task := schedule.reptile) is not None:
        return reptile.inner_gradient(decoder, weights, task, parts[0].rows)
    if recipe.deterministic == "any-world-size":
        return accumulate_in_tree(
            decoder, weights, parts, recipe.rows_at_once, recipe.virtual_shards
        )
    return accumulate(decoder, weights, parts, recipe.rows_at_once)


def judge(
    decoder: Trained, weights: TrainedWeights, schedule: Schedule, recipe: TrainRecipe
) -> dict[str, float]:
    """`loss` and every metric on the validation data."""
    with evaluating(decoder):
        if (task := schedule.reptile) is not None:
            return reptile.validate_adapted(decoder, weights, task)
        return schedule.validate(decoder, recipe.rows_at_once)


def measure_step_s(
    decoder: Network, weights: TrainedWeights, schedule: Schedule, recipe: TrainRecipe
) -> float:
    """Median seconds of forward and backward over the first real steps; nothing is changed.

    Five of them, or fewer (two at least) when they take a twentieth of the run's time.
    """
    durations_s: list[float] = []
    rng = torch.get_rng_state()
    while len(durations_s) < 2 or (
        len(durations_s) < 5 and sum(durations_s) < recipe.minutes * 60 / 20
    ):
        begin_s = time.monotonic()
        gradient_of(len(durations_s) + 1, decoder, weights, schedule, recipe)
        durations_s.append(time.monotonic() - begin_s)
        weights.forget_gradients()
    torch.set_rng_state(rng)
    return statistics.median(durations_s[1:])  # the first one sets libraries up


def _speed(
    measured: Measured,
    cost: StepCost,
    durations_s: list[float],
    peak_gflops: float,
    steps_left: int,
) -> dict[str, float]:
    batches = measured.batches
    tokens = sum(batch.tokens for batch in batches)
    flops = sum(cost.flops(batch.tokens, batch.targets, batch.lengths) for batch in batches)
    return {
        "tokens": tokens,
        "tokens_s": round(tokens / durations_s[-1], 1),
        "mfu": round(flops / durations_s[-1] / 1e9 / peak_gflops, 4),
        "eta_s": round(steps_left * statistics.median(durations_s[-20:]), 1),
    }


def _stopped(run: RunFolder, step: int, fault: Fault) -> RunFailed:
    saved = run.last("checkpoint")
    kept = f"the checkpoint of step {saved['step']} is whole" if saved else "no checkpoint yet"
    return RunFailed(
        f"step {step} has {fault.what}; {kept}",
        next_step="start again with a lower optimizer.learning_rate, or leave such batches out:"
        " --set guard.on_nan=skip --set guard.on_spike=skip",
    )
