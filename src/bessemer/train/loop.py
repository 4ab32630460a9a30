"""The training loop, top to bottom: `train(run)` does one run, from its folder to its model.

The run's folder says everything: `plan.json` and `recipe.toml` what to do, `resolved.toml` what
was decided at the start, `checkpoints/` where to continue. The same call starts a run and resumes
one. Progress is told in events and nowhere else.

What decides a step's result is fixed before the first one: the number of steps (so the schedule
does not follow the clock), precision, threads, and the order of the data, which is a function of
(seed, position). A run that is killed and resumed on the same machine ends with the same bits.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from bessemer.core.errors import Conflict, RunFailed
from bessemer.core.events import EventLog
from bessemer.core.recipes import dumps, load
from bessemer.core.runs import RunFolder, StopRequested, write_atomically
from bessemer.models.decoder import Decoder
from bessemer.models.folder import save_decoder
from bessemer.train import checkpoint, network, precision
from bessemer.train.allocator import keep_freed_memory
from bessemer.train.attention import BlockAttention
from bessemer.train.batch import MicroBatch, micro_batches
from bessemer.train.checkpoint import Checkpoint
from bessemer.train.flops import StepCost, step_cost
from bessemer.train.lora import lora_layers, save_adapter
from bessemer.train.loss import LossSum, linear_cross_entropy
from bessemer.train.material import Material, chat_material, corpus, document_material
from bessemer.train.optimizer import Optimizer, learning_rate
from bessemer.train.recipe import TrainRecipe
from bessemer.train.sample import greedy
from bessemer.train.space import refuse_if_full
from bessemer.train.stopping import StopFlag
from bessemer.train.weights import TrainedWeights


def train(run: RunFolder) -> None:
    """Do the run, or what is left of it, and write `output/`.

    Raises:
        InvalidInput: the data does not fit the recipe.
        OutOfSpace: a checkpoint or the model does not fit on the disk; the last one is whole.
        RunFailed: the gradient is not finite any more.
        StopRequested: after a checkpoint, when SIGTERM came.
    """
    with contextlib.closing(run.open_log()) as log:
        # 1. What was asked, or decided when this run first started.
        plan = run.plan()
        resolved = run.path / "resolved.toml"
        recipe = load(resolved if resolved.exists() else run.recipe, TrainRecipe).recipe
        base = Path(plan["model"]["path"]) if recipe.model.name else None
        torch.set_num_threads(int(plan["threads"]))
        keep_freed_memory()

        # 2. The data, in tokens.
        material = read_material(recipe, plan, run.path / "tokenizer")

        # 3. The network, in the precision this machine is faster in.
        peak = precision.probe()
        chosen = precision.choose(recipe.precision, peak)
        decoder = network.start(recipe, base, material.tokenizer, precision.DTYPES[chosen])
        weights = TrainedWeights(decoder)
        optimizer = Optimizer(weights.masters, recipe.optimizer)
        cost = step_cost(decoder)

        # 4. The number of steps, from a measured speed; from here on nothing is decided again.
        step_s = None
        if recipe.steps is None:
            step_s = measure_step_s(decoder, weights, material, recipe)
        steps = recipe.steps or max(1, int(recipe.minutes * 60 / (step_s or 1.0)))
        recipe = recipe.model_copy(update={"steps": steps, "precision": chosen})
        if not resolved.exists():
            write_atomically(resolved, dumps(recipe).encode())
        log.write(
            "plan",
            steps=steps,
            tokens_per_step=recipe.tokens_per_step,
            precision=chosen,
            threads=torch.get_num_threads(),
            trainable_parameters=weights.count,
            parameters=sum(p.numel() for p in decoder.parameters()),
            peak_gflops=round(peak.peak_gflops, 1),
            bf16_gflops=round(peak.bf16_gflops, 1),
            fp32_gflops=round(peak.fp32_gflops, 1),
            measured_step_s=step_s,
            data_digest=material.digest,
            **material.facts,
        )

        # 5. Where to continue.
        done = resume(run, log, material, weights, optimizer)
        if done == 0:
            log.write("validation", step=0, **validate(decoder, material, recipe))

        # 6. The steps.
        validations = {round(steps * k / recipe.evaluation.times) for k in
                       range(1, recipe.evaluation.times + 1)}  # fmt: skip
        last_saved_s = time.monotonic()
        durations_s: list[float] = []
        with StopFlag() as stop:
            for step in range(done + 1, steps + 1):
                begin_s = time.monotonic()
                batches = step_batches(material, recipe, step)
                loss = accumulate(decoder, weights, batches)
                grad_norm = weights.clip(recipe.optimizer.clip)
                if not math.isfinite(grad_norm):
                    raise _not_finite(run, step, loss, grad_norm)
                rate = learning_rate(step, steps, recipe.optimizer.learning_rate, recipe.schedule)
                optimizer.step(rate)
                weights.publish()
                durations_s.append(time.monotonic() - begin_s)
                log.write(
                    "step",
                    step=step,
                    loss=loss,
                    lr=rate,
                    grad_norm=grad_norm,
                    **_speed(batches, cost, durations_s, peak.peak_gflops, steps - step),
                )
                if step in validations:
                    log.write("validation", step=step, **validate(decoder, material, recipe))
                is_due = time.monotonic() - last_saved_s >= recipe.checkpoints.every_s
                if is_due or stop.requested or step == steps:
                    save(run, log, step, material, recipe, weights, optimizer)
                    last_saved_s = time.monotonic()
                if stop.requested and step < steps:
                    raise StopRequested

        # 7. What came of it.
        prompt, count = material.prompt, recipe.evaluation.sample_tokens
        answer = greedy(decoder, prompt, count, material.tokenizer.eos_ids)
        decode = material.tokenizer.decode
        log.write("sample", step=steps, prompt=decode(prompt), text=decode(answer))
        write_output(run, plan, recipe, decoder, weights, base, material)
        measured = [e for e in run.read() if e["kind"] == "validation"]
        key = "loss" if material.validation_bytes is None else "bits_per_byte"
        log.write(
            "result",
            steps=steps,
            tokens=steps * recipe.tokens_per_step,
            measure=key,
            before=measured[0][key],
            after=measured[-1][key],
            output="output/model",
        )


def read_material(recipe: TrainRecipe, plan: dict[str, Any], tokenizer: Path) -> Material:
    """What the objective learns from."""
    if recipe.objective == "pretrain":
        return document_material(recipe, corpus(recipe.data.name), tokenizer)
    return chat_material(recipe, Path(plan["dataset"]["path"]), Path(plan["model"]["path"]))


def step_batches(material: Material, recipe: TrainRecipe, step: int) -> list[MicroBatch]:
    """The micro-batches of step `step`, counted from 1: a pure function of the recipe and it."""
    first = (step - 1) * recipe.batch.rows
    rows = [material.train.row(first + k) for k in range(recipe.batch.rows)]
    return micro_batches(rows, recipe.rows_at_once)


def batch_loss(decoder: Decoder, batch: MicroBatch) -> LossSum:
    """Sum of nats over the targets of one micro-batch."""
    attend = BlockAttention(batch.lengths, decoder.head_weight.dtype)
    hidden_TD = decoder(batch.ids_T, batch.positions_T, attend)
    return linear_cross_entropy(hidden_TD, decoder.head_weight, batch.sources_N, batch.targets_N)


def accumulate(decoder: Decoder, weights: TrainedWeights, batches: list[MicroBatch]) -> float:
    """Leave the gradient of the step's mean loss in the masters; returns that loss.

    The mean is over the target tokens of the whole step, not of each micro-batch.
    """
    global_targets = sum(batch.targets for batch in batches)
    nats = 0.0
    for batch in batches:
        loss = batch_loss(decoder, batch)
        (loss.nats / global_targets).backward()  # type: ignore[no-untyped-call]
        weights.collect()
        nats += loss.nats.item()
    return nats / global_targets


def measure_step_s(
    decoder: Decoder, weights: TrainedWeights, material: Material, recipe: TrainRecipe
) -> float:
    """Median seconds of forward and backward over the first real steps; nothing is changed."""
    durations_s = []
    for step in range(1, 6):
        begin_s = time.monotonic()
        accumulate(decoder, weights, step_batches(material, recipe, step))
        durations_s.append(time.monotonic() - begin_s)
        weights.forget_gradients()
    return statistics.median(durations_s[1:])  # the first one sets libraries up


@torch.no_grad()
def validate(decoder: Decoder, material: Material, recipe: TrainRecipe) -> dict[str, float]:
    """`loss` in nats per target token, and `bits_per_byte` where that is the measure."""
    sums = [
        batch_loss(decoder, batch)
        for batch in micro_batches(material.validation, recipe.rows_at_once)
    ]
    nats = sum(loss.nats.item() for loss in sums)
    measured = {"loss": nats / sum(loss.tokens for loss in sums)}
    if material.validation_bytes is not None:
        measured["bits_per_byte"] = nats / math.log(2) / material.validation_bytes
    return measured


def resume(
    run: RunFolder,
    log: EventLog,
    material: Material,
    weights: TrainedWeights,
    optimizer: Optimizer,
) -> int:
    """Load the newest whole checkpoint, if there is one; returns the steps already done.

    Raises:
        Conflict: it was written by a run over other data.
    """
    found = checkpoint.load_newest(run.checkpoints)
    for skipped in found.skipped:
        log.write("checkpoint_skipped", name=skipped.name, reason=skipped.reason)
    if found.checkpoint is None:
        return 0
    step, tensors, facts = found.checkpoint
    if facts["data_digest"] != material.digest:
        raise Conflict(
            f"the data is not what {run.run_id} began with: its tokens have digest"
            f" {material.digest[:12]}, the checkpoint says {facts['data_digest'][:12]}",
            next_step="start a new run",
        )
    weights.load({name: tensors[f"master.{name}"] for name in weights.masters})
    optimizer.load(tensors, step)
    torch.set_rng_state(tensors["rng"])
    here = _surroundings()
    log.write("resumed", step=step, exact=here == {name: facts[name] for name in here})
    return step


def save(
    run: RunFolder,
    log: EventLog,
    step: int,
    material: Material,
    recipe: TrainRecipe,
    weights: TrainedWeights,
    optimizer: Optimizer,
) -> None:
    """Write a checkpoint and say so."""
    masters = {f"master.{name}": master for name, master in weights.masters.items()}
    tensors = {**masters, **optimizer.state(), "rng": torch.get_rng_state()}
    facts = {
        "step": step,
        "rows": step * recipe.batch.rows,
        "data_digest": material.digest,
        **_surroundings(),
    }
    checkpoint.save(run.checkpoints, Checkpoint(step, tensors, facts))
    log.write("checkpoint", step=step)


def write_output(
    run: RunFolder,
    plan: dict[str, Any],
    recipe: TrainRecipe,
    decoder: Decoder,
    weights: TrainedWeights,
    base: Path | None,
    material: Material,
) -> None:
    """`output/model`, a plain Hugging Face folder in float32, and `output/adapter` with LoRA."""
    refuse_if_full(run.path, network.size_bytes(decoder), "the trained model")
    new = run.path / ".output.tmp"
    shutil.rmtree(new, ignore_errors=True)
    like = base or material.tokenizer.folder
    save_decoder(network.finished(decoder, weights, base), new / "model", like=like)
    if base is None:
        defaults = network.generation_defaults(material.tokenizer)
        (new / "model" / "generation_config.json").write_text(json.dumps(defaults, indent=2))
    if recipe.lora is not None:
        save_adapter(
            lora_layers(decoder),
            new / "adapter",
            rank=recipe.lora.rank,
            alpha=recipe.lora.alpha,
            base=plan["model"]["name"],
        )
    network.replace_folder(new, run.output)


def _speed(
    batches: list[MicroBatch],
    cost: StepCost,
    durations_s: list[float],
    peak_gflops: float,
    steps_left: int,
) -> dict[str, float]:
    tokens = sum(batch.tokens for batch in batches)
    flops = sum(cost.flops(batch.tokens, batch.targets, batch.lengths) for batch in batches)
    return {
        "tokens_s": round(tokens / durations_s[-1], 1),
        "mfu": round(flops / durations_s[-1] / 1e9 / peak_gflops, 4),
        "eta_s": round(steps_left * statistics.median(durations_s[-20:]), 1),
    }


def _surroundings() -> dict[str, Any]:
    """What else decides the bits of a sum: with other threads or another torch they may differ."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads()}


def _not_finite(run: RunFolder, step: int, loss: float, grad_norm: float) -> RunFailed:
    saved = run.last("checkpoint")
    kept = f"the checkpoint of step {saved['step']} is whole" if saved else "no checkpoint yet"
    return RunFailed(
        f"step {step} has loss {loss} and a gradient of length {grad_norm}; {kept}",
        next_step="start again with a lower optimizer.learning_rate",
    )
