"""Whole runs on a tiny model: it learns, says so, stops, dies, and continues to the bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bessemer.core.errors import Conflict, InvalidInput, RunFailed
from bessemer.core.runs import RunFolder, StopRequested
from bessemer.models.attention import PackedAttention
from bessemer.models.folder import load_decoder
from bessemer.train.loop import train
from tests.train.tiny import make_dataset, make_model, make_run

ROOT = Path(__file__).parent.parent.parent


def events(run: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [event for event in run.read() if event["kind"] == kind]


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(run.output / "model" / "model.safetensors")


def same_bits(one: RunFolder, other: RunFolder) -> bool:
    left, right = weights(one), weights(other)
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def start(run: RunFolder) -> subprocess.Popen[bytes]:
    """The run in a process of its own, as `app` starts it."""
    command = [sys.executable, "-m", "bessemer.app.run_process", str(run.path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)


def wait_for_step(run: RunFolder, process: subprocess.Popen[bytes], step: int) -> None:
    while process.poll() is None:
        if any(event["step"] >= step for event in events(run, "step")):
            return
        time.sleep(0.005)
    raise AssertionError(f"the run ended before step {step}")


def test_lora_learns_and_its_output_is_a_plain_model(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "steps=60", "optimizer.learning_rate=0.02")
    train(run)
    losses = [event["loss"] for event in events(run, "validation")]
    assert len(losses) == 5
    assert losses[-1] < losses[0] / 2
    (plan,) = events(run, "plan")
    assert plan["steps"] == 60
    assert plan["train_chats"] == 48
    assert plan["over_long_chats_dropped"] == 0
    assert [event["step"] for event in events(run, "step")] == list(range(1, 61))
    assert events(run, "step")[-1]["eta_s"] == 0
    (result,) = events(run, "result")
    assert (result["before"], result["after"]) == (losses[0], losses[-1])
    (sample,) = events(run, "sample")
    assert sample["prompt"].endswith("assistant: ")
    assert len(events(run, "checkpoint")) >= 1
    trained, base = load_decoder(run.output / "model"), load_decoder(tmp_path / "model")
    assert (run.output / "adapter" / "adapter_model.safetensors").exists()
    assert (run.output / "model" / "chat_template.jinja").exists()
    changed = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(trained.state_dict()[changed], base.state_dict()[changed])
    kept = "model.embed_tokens.weight"
    assert torch.equal(trained.state_dict()[kept], base.state_dict()[kept])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_full_training_learns_in_both_precisions(tmp_path: Path, precision: str) -> None:
    recipe = """
    objective = "sft"
    minutes = 1
    steps = 60
    model.name = "tiny"
    data.name = "colors"
    batch.sequence_length = 64
    batch.rows_at_once = 1
    optimizer.learning_rate = 0.01
    evaluation.sample_tokens = 0
    """
    run = make_run(tmp_path / "run", f"precision={precision}", recipe=recipe)
    train(run)
    losses = [event["loss"] for event in events(run, "validation")]
    assert losses[-1] < losses[0] / 2
    assert weights(run)["model.embed_tokens.weight"].dtype == torch.float32
    assert not (run.output / "adapter").exists()


def test_micro_batches_give_the_gradient_of_the_whole_step(tmp_path: Path) -> None:
    overrides = ("steps=6", "batch.rows=4", "evaluation.times=1")
    whole = make_run(tmp_path / "whole", *overrides)
    parts = make_run(tmp_path / "parts", *overrides, "batch.rows_at_once=1")
    train(whole)
    train(parts)
    for one, other in zip(events(whole, "step"), events(parts, "step"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


def test_the_step_count_is_fixed_from_a_measured_speed_before_the_first_step(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path / "run", "minutes=0.01", "evaluation.times=1")
    train(run)
    (plan,) = events(run, "plan")
    assert plan["measured_step_s"] > 0
    assert plan["steps"] == max(1, int(0.6 / plan["measured_step_s"]))
    assert len(events(run, "step")) == plan["steps"]
    assert f"steps = {plan['steps']}" in (run.path / "resolved.toml").read_text()


def test_measuring_the_speed_changes_nothing(tmp_path: Path) -> None:
    measured = make_run(tmp_path / "measured", "minutes=0.01", "evaluation.times=1")
    train(measured)
    steps = events(measured, "plan")[0]["steps"]
    told = make_run(tmp_path / "told", f"steps={steps}", "evaluation.times=1")
    train(told)
    assert same_bits(measured, told)


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp32", marks=pytest.mark.slow)])
def test_a_run_killed_at_any_step_and_resumed_ends_with_the_same_bits(
    tmp_path: Path, precision: str
) -> None:
    overrides = ("steps=40", "checkpoints.every_s=0.000001", f"precision={precision}")
    straight = make_run(tmp_path / "straight", *overrides)
    train(straight)
    killed = make_run(tmp_path / "killed", *overrides)
    process = start(killed)
    wait_for_step(killed, process, random.randint(2, 25))
    process.kill()
    process.wait()
    assert killed.state() == "dead"
    assert not killed.output.exists()
    resumed = start(killed)
    assert resumed.wait(120) == 0
    assert 0 < events(killed, "resumed")[0]["step"] < 40
    assert events(killed, "resumed")[0]["exact"]
    assert events(killed, "step")[-1]["step"] == 40
    assert same_bits(straight, killed)
    last = [run.last("step") for run in (straight, killed)]
    assert last[0] and last[1] and last[0]["loss"] == last[1]["loss"]


def test_a_torn_checkpoint_is_named_and_the_one_before_it_continues(tmp_path: Path) -> None:
    overrides = ("steps=12", "checkpoints.every_s=0.000001", "evaluation.times=1")
    straight = make_run(tmp_path / "straight", *overrides)
    train(straight)
    torn = make_run(tmp_path / "torn", *overrides)
    train(torn)
    newest = torn.checkpoints / "step-00000012" / "state-00001-of-00001.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    train(torn)
    assert events(torn, "checkpoint_skipped")[0]["name"] == "step-00000012"
    assert events(torn, "resumed")[0]["step"] == 11
    assert same_bits(straight, torn)


def test_a_request_to_stop_leaves_a_checkpoint_of_the_last_step(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "steps=100000", "minutes=100")
    process = start(run)
    wait_for_step(run, process, 3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    assert run.state() == "cancelled"
    last, saved = run.last("step"), run.last("checkpoint")
    assert last and saved and last["step"] == saved["step"]


def test_the_signal_handlers_are_what_they_were_after_a_run(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    train(make_run(tmp_path / "run", "steps=1"))
    assert signal.getsignal(signal.SIGTERM) is before


def test_stopping_in_the_middle_raises_after_the_step(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "steps=100000", "minutes=100")
    child = subprocess.Popen(
        [sys.executable, "-c", STOP_WHEN_STEPPING, str(run.events), str(os.getpid())], cwd=ROOT
    )
    with pytest.raises(StopRequested):
        train(run)
    child.wait()
    last, saved = run.last("step"), run.last("checkpoint")
    assert last and saved and last["step"] == saved["step"]


STOP_WHEN_STEPPING = """
import os, signal, sys, time
from pathlib import Path
path, pid = Path(sys.argv[1]), int(sys.argv[2])
while not (path.exists() and '"kind":"step"' in path.read_text()):
    time.sleep(0.005)
os.kill(pid, signal.SIGTERM)
"""


def test_other_data_under_a_checkpoint_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "steps=2")
    train(run)
    (tmp_path / "dataset").rename(tmp_path / "old")
    make_dataset(tmp_path / "dataset", train=40)
    with pytest.raises(Conflict, match="the data is not what run began with"):
        train(run)


def test_a_rate_that_blows_up_stops_the_run_and_names_the_checkpoint(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run", "steps=50", "optimizer.learning_rate=1e30", "checkpoints.every_s=1e-6"
    )
    with pytest.raises(RunFailed, match=r"step \d+ has loss .*the checkpoint of step \d+"):
        train(run)


PRETRAIN = """
objective = "pretrain"
minutes = 1
steps = 40
model.depth = 2
model.vocab_size = 1000
data.name = "python-stdlib"
batch.sequence_length = 128
evaluation.rows = 8
"""


@pytest.mark.slow
def test_pretraining_starts_from_nothing_and_transformers_opens_its_folder(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = make_run(tmp_path / "run", recipe=PRETRAIN)
    train(run)
    bits = [event["bits_per_byte"] for event in events(run, "validation")]
    assert bits[-1] < bits[0] - 0.3
    assert events(run, "sample")[0]["text"]
    folder = run.output / "model"
    tokenizer, theirs = (
        AutoTokenizer.from_pretrained(folder),
        AutoModelForCausalLM.from_pretrained(folder),
    )
    ids = tokenizer("import os\n\ndef main(", return_tensors="pt").input_ids
    ours = load_decoder(folder)
    length = ids.shape[1]
    hidden = ours(ids[0], torch.arange(length), PackedAttention([length]))
    torch.testing.assert_close(ours.logits(hidden), theirs(ids).logits[0], rtol=0, atol=5e-4)


def test_over_long_chats_are_counted_or_refused(tmp_path: Path) -> None:
    short = "batch.sequence_length=28"
    run = make_run(tmp_path / "run", short, "steps=1")
    train(run)
    dropped = events(run, "plan")[0]["over_long_chats_dropped"]
    assert dropped > 0
    assert events(run, "plan")[0]["train_chats"] < 48
    strict = make_run(tmp_path / "strict", short, "steps=1", "data.over_long=refuse")
    with pytest.raises(InvalidInput, match=f"{dropped} chats are longer than a row of 28"):
        train(strict)


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_lora_on_a_quantized_base_learns_about_as_well(tmp_path: Path, bits: str) -> None:
    overrides = ("steps=60", "optimizer.learning_rate=0.02", "evaluation.times=1")
    targets = 'lora.targets=["q_proj","k_proj","v_proj","gate_proj","up_proj"]'
    runs = {}
    for kept in ("fp32", bits):
        run = make_wide_run(tmp_path / kept, targets, f"lora.base_precision={kept}", *overrides)
        train(run)
        runs[kept] = [event["loss"] for event in events(run, "validation")]
    assert runs[bits][-1] < runs[bits][0] / 2
    assert runs[bits][-1] < runs["fp32"][-1] + 0.3


def make_wide_run(folder: Path, *overrides: str) -> RunFolder:
    """A model whose rows are a multiple of 64, as int4 needs."""
    if not (folder.parent / "model").exists():
        make_model(folder.parent / "model", hidden_size=64)
        make_dataset(folder.parent / "dataset")
    return make_run(folder, *overrides)


def test_dropout_resumes_to_the_bit_and_is_off_when_judging(tmp_path: Path) -> None:
    often = ("steps=6", "checkpoints.every_s=0.000001", "lora.dropout=0.3", "evaluation.times=6")
    straight, torn = (make_run(tmp_path / name, *often) for name in ("straight", "torn"))
    train(straight)
    train(torn)
    next(max(torn.checkpoints.iterdir()).glob("*.safetensors")).unlink()
    train(torn)
    assert events(torn, "resumed")[0]["step"] == 5
    assert same_bits(straight, torn)
    again = events(torn, "validation")[-1]["loss"]
    assert again == events(straight, "validation")[-1]["loss"]


def test_training_goes_on_from_an_adapter(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", "steps=30", "optimizer.learning_rate=0.02")
    train(first)
    adapter = first.output / "adapter"
    second = make_run(tmp_path / "second", "steps=1", f"lora.adapter={adapter}")
    train(second)
    reached, start = events(first, "validation")[-1], events(second, "validation")[0]
    assert start["loss"] == pytest.approx(reached["loss"], rel=1e-4)


def test_recomputing_layers_changes_no_bit(tmp_path: Path) -> None:
    common = ("steps=5", "evaluation.times=1", "lora.dropout=0.2")
    kept = make_run(tmp_path / "kept", *common)
    again = make_run(tmp_path / "again", *common, "recompute=layers")
    train(kept)
    train(again)
    assert same_bits(kept, again)


ALONE = ("steps=6", "evaluation.times=3", "lora.leaves=adapter", "lora.snapshots=true")


def test_a_run_can_leave_its_adapter_alone_and_those_of_the_way(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", *ALONE)
    train(run)
    assert [path.name for path in run.output.iterdir()] == ["adapter"]
    assert events(run, "result")[0]["output"] == "output/adapter"
    assert [event["step"] for event in events(run, "snapshot")] == [2, 4, 6]
    names = sorted(path.name for path in run.snapshots.iterdir())
    assert names == [f"step-{step:08d}" for step in (2, 4, 6)]
    first, last = (_adapter(run.snapshots / names[i]) for i in (0, 2))
    final = _adapter(run.output / "adapter")
    assert all(torch.equal(last[key], final[key]) for key in final)
    assert not all(torch.equal(first[key], final[key]) for key in final)


def test_a_run_goes_on_from_another_ones_adapter(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", *ALONE, "optimizer.learning_rate=0.02")
    train(first)
    adapter = first.output / "adapter"
    second = make_run(tmp_path / "second", *ALONE, f"lora.adapter={adapter}")
    train(second)
    # What the second is judged by before its first step is what the first had reached.
    assert events(second, "validation")[0]["loss"] == events(first, "validation")[-1]["loss"]


def _adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")
