"""GRPO: the paper's loss, TRL's numbers, and a network that learns what earns more."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bessemer.app.tracing import trace
from bessemer.core.errors import InvalidInput
from bessemer.core.protocols import GenerateRequest, TokenChunk
from bessemer.core.recipes import RecipeError, loads
from bessemer.core.runs import RunFolder, StopRequested
from bessemer.core.train_recipe import TrainRecipe
from bessemer.inference.live import NativeLiveEngine
from bessemer.text.tokenizer import Tokenizer
from bessemer.train import network, planning
from bessemer.train.batch import micro_batch
from bessemer.train.loop import train
from bessemer.train.objectives.grpo import (
    Bounds,
    GrpoTask,
    advantages,
    grpo_loss,
    kl_estimate,
    open_grpo,
)
from bessemer.train.task import Setting, target_logprobs
from tests.train.test_loop import events, weights
from tests.train.tiny import make_prompts, make_run

RECIPE = """
objective = "grpo"
minutes = 1
steps = 30
precision = "fp32"
model.name = "tiny"
data.name = "colors"
batch.sequence_length = 64
batch.rows = 4
optimizer.learning_rate = 0.003
evaluation.times = 1
evaluation.rows = 6
evaluation.sample_tokens = 6
grpo.group = 8
grpo.max_tokens = 6

[[grpo.rewards]]
kind = "format"
pattern = ".*([aeiou]{2}|wh|bl).*"
"""


def grpo_run(folder: Path, *overrides: str) -> RunFolder:
    return make_run(folder, *overrides, recipe=RECIPE, furnish=make_prompts)


def do(run: RunFolder) -> None:
    train(run, engine_of=NativeLiveEngine)


def open_task(folder: Path, *overrides: str) -> tuple[GrpoTask, network.Trained]:
    run = grpo_run(folder, *overrides)
    recipe, plan = loads(run.recipe.read_text(), TrainRecipe).recipe, run.plan()
    model = Path(plan["model"]["path"])
    decoder = network.start(recipe, model, Tokenizer.load(model), torch.float64)
    tokenizer = Tokenizer.load(model)
    setting = Setting(recipe, plan, folder, tokenizer, lambda *_, **__: None, NativeLiveEngine)
    return open_grpo(setting, decoder), decoder


def records(run: RunFolder) -> dict[str, list[dict[str, Any]]]:
    files = sorted((run.path / "rollouts").iterdir())
    return {f.name: [json.loads(line) for line in f.read_text().splitlines()] for f in files}


def test_an_advantage_is_what_an_answer_earned_beyond_its_group() -> None:
    reward_BG = torch.tensor([[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0]], dtype=torch.float64)
    deviation = math.sqrt(1 / 3) + 1e-4
    expected = torch.tensor([[0.5, -0.5, -0.5, 0.5], [0, 0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(advantages(reward_BG, "none"), expected)
    torch.testing.assert_close(advantages(reward_BG, "group"), expected / deviation)


@given(
    ratio=st.floats(0.01, 20), advantage=st.floats(-3, 3), low=st.floats(0.05, 0.5),
    high=st.floats(0.05, 0.5),
)  # fmt: skip
def test_the_bounds_take_the_gradient_only_where_the_ratio_went_the_wanted_way(
    ratio: float, advantage: float, low: float, high: float
) -> None:
    logprob = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    old, one = torch.zeros(1, dtype=torch.float64), torch.tensor([advantage], dtype=torch.float64)
    loss, clipped = grpo_loss(logprob, old, one, Bounds(low, high))
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert logprob.grad is not None
    too_far = (advantage > 0 and ratio > 1 + high) or (advantage < 0 and ratio < 1 - low)
    assert bool(clipped) == too_far
    assert logprob.grad.item() == pytest.approx(0 if too_far else -ratio * advantage, abs=1e-9)


@given(st.floats(-20, 0), st.floats(-20, 0))
def test_the_kl_estimate_is_never_negative_and_zero_where_both_agree(a: float, b: float) -> None:
    one, other = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
    assert kl_estimate(one, other).item() >= -1e-12
    assert kl_estimate(one, one).item() == 0


TRLS = {
    "token": {"loss_type": "dapo"},
    "answer": {"loss_type": "grpo"},
    "constant": {"loss_type": "dr_grpo"},
}


def trl_trainer(model: Path, scratch: Path, logprobs: Callable[[], Tensor], **told: Any) -> Any:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    class Trainer(GRPOTrainer):  # type: ignore[misc]
        """TRL's loss over our log-probabilities, so that all of it is float64."""

        def _get_per_token_logps_and_entropies(self, *_: Any, **__: Any) -> Any:
            found = logprobs()
            return found, torch.zeros_like(found), None

    args = GRPOConfig(
        str(scratch), use_cpu=True, bf16=False, report_to="none", num_generations=4,
        per_device_train_batch_size=4, gradient_accumulation_steps=1, steps_per_generation=1,
        max_completion_length=6, **told,
    )  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(model / "tokenizer.json"),
        eos_token="<|endoftext|>", pad_token="<|endoftext|>",
    )  # fmt: skip
    return Trainer(
        str(model), reward_funcs=lambda **_: [0.0], args=args,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * 4), processing_class=tokenizer,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("average", TRLS)
@pytest.mark.parametrize("kl_weight", [0.0, 0.3])
def test_loss_and_gradients_equal_trls_in_float64(
    tmp_path: Path, average: str, kl_weight: float
) -> None:
    task, decoder = open_task(
        tmp_path / "run", f"grpo.average={average}", f"grpo.kl_weight={kl_weight}",
        "grpo.updates=2", "grpo.group=4", "batch.rows=2", "grpo.clip_high=0.25",
    )  # fmt: skip
    task.rows([0, 1])  # samples; the weights then move, and the same answers are learned from
    with torch.no_grad():
        generator = torch.Generator().manual_seed(5)
        for parameter in decoder.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.02 * noise)
    batch = micro_batch(task.rows([2, 3]))
    sums = task.loss(decoder, batch)
    (sums.total / sums.weight).backward()  # type: ignore[no-untyped-call]
    ours = {name: p.grad.clone() for name, p in decoder.named_parameters() if p.grad is not None}
    decoder.zero_grad()

    answers, width = len(batch.lengths), 6
    lengths = torch.bincount(batch.pieces_N, minlength=answers)
    mask = torch.arange(width) < lengths[:, None]

    def padded(value_N: Tensor) -> Tensor:
        return value_N.new_zeros(answers, width).masked_scatter(mask, value_N)

    def logprobs() -> Tensor:
        return padded(target_logprobs(decoder, batch))

    columns = batch.columns
    told = TRLS[average] | {"beta": kl_weight, "epsilon": 0.2, "epsilon_high": 0.25}
    told["use_bias_correction_kl"] = False  # TRL multiplies the KL term by the ratio otherwise
    model = tmp_path / "model"
    trainer = trl_trainer(model, tmp_path / "trl", logprobs, **told)
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
    old, engine = padded(columns["old"]), padded(columns["engine"])
    inputs = {
        "prompt_ids": torch.zeros(answers, 1, dtype=torch.long),
        "prompt_mask": torch.ones(answers, 1, dtype=torch.long),
        "completion_ids": torch.zeros(answers, width, dtype=torch.long),
        "completion_mask": mask.long(),
        "advantages": columns["advantage"],
        "old_per_token_logps": old,
        "importance_sampling_ratio": (old - engine).exp().clamp(max=2.0),
        "num_items_in_batch": mask.sum(),
    }
    if kl_weight:
        inputs["ref_per_token_logps"] = padded(columns["reference"])
    expected = trainer._compute_loss(decoder, inputs)
    expected.backward()
    torch.testing.assert_close(sums.total / sums.weight, expected, rtol=0, atol=1e-9)
    for name, parameter in decoder.named_parameters():
        if name in ours:
            torch.testing.assert_close(ours[name], parameter.grad, rtol=0, atol=1e-9)
    assert sums.metrics["clipped"].total > 0  # the weights moved far enough to see the bounds


def test_a_network_learns_what_earns_more_and_says_so(tmp_path: Path) -> None:
    run = grpo_run(tmp_path / "run")
    do(run)
    told = events(run, "step")
    first, last = (sum(e["reward"] for e in part) / 5 for part in (told[:5], told[-5:]))
    assert last > first + 0.3, (first, last)
    validations = [event["reward"] for event in events(run, "validation")]
    assert validations[-1] > validations[0]
    for event in told:
        assert event["reward"] == pytest.approx(event["reward/format"])
        assert event["engine_gap"] < 1e-4  # float32: the same function, other sums
        assert 0 <= event["clipped"] <= 1 and 1 <= event["answer_tokens"] <= 6
    sampled = events(run, "rollouts")
    assert all(event["answers"] == 32 and event["tokens_s"] > 0 for event in sampled)


def test_every_answer_the_engine_gave_is_told_in_tokens(tmp_path: Path) -> None:
    asked: list[int] = []
    given: list[int] = []

    class Counting(NativeLiveEngine):
        async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
            asked.append(len(request.prompt_ids))
            async for chunk in super().generate(request):
                given.append(len(chunk.ids) + (chunk.stop_id is not None))
                yield chunk

    run = grpo_run(tmp_path / "run", "steps=3", "evaluation.times=2")
    train(run, engine_of=Counting)
    told = [*events(run, "rollouts"), *events(run, "judged")]
    assert len(told) == 3 + 3
    assert sum(event["answers"] for event in told) == len(asked)
    assert sum(event["prompt_tokens"] for event in told) == sum(asked)
    assert sum(event["tokens"] for event in told) == sum(given)


def test_a_killed_run_samples_the_same_answers_again_and_ends_with_the_same_bits(
    tmp_path: Path,
) -> None:
    asked = ("steps=7", "grpo.updates=2", "grpo.kl_weight=0.05", "checkpoints.every_s=0.000001")
    whole, torn = grpo_run(tmp_path / "whole", *asked), grpo_run(tmp_path / "torn", *asked)
    do(whole)

    class Stopping(NativeLiveEngine):
        """Asks its own process to stop when it samples the second time."""

        def renew(self) -> None:
            super().renew()
            if self.version == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    class Dying(NativeLiveEngine):
        def renew(self) -> None:
            super().renew()
            if self.version == 2:
                raise KeyboardInterrupt

    with pytest.raises(StopRequested):
        train(torn, engine_of=Stopping)
    assert events(torn, "checkpoint")[-1]["step"] == 1  # between two steps on the same answers
    with pytest.raises(KeyboardInterrupt):
        train(torn, engine_of=Dying)
    assert events(torn, "resumed")[-1]["step"] == 1
    do(torn)
    assert records(torn) == records(whole)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(torn)[name]), name


def test_micro_batches_and_packing_change_nothing(tmp_path: Path) -> None:
    task, decoder = open_task(tmp_path / "run", "grpo.average=token")
    rows = task.rows(range(4))
    assert len(rows) > 3
    whole = task.loss(decoder, micro_batch(rows))
    parts = [task.loss(decoder, micro_batch([row])) for row in rows]
    assert sum(part.weight for part in parts) == whole.weight == 32
    total = sum(part.total.item() for part in parts)
    assert total == pytest.approx(whole.total.item(), abs=1e-9)


def test_without_a_token_to_stop_at_every_answer_is_as_long_as_allowed(tmp_path: Path) -> None:
    task, _ = open_task(tmp_path / "run")
    task.stop_ids = range(task.tokenizer.vocab_size)
    task.rows(range(4))
    task.stop_ids = ()
    task.rows(range(4, 8))
    for batch, length in (("00000000.jsonl", 1), ("00000001.jsonl", 6)):
        text = (tmp_path / "run" / "rollouts" / batch).read_text()
        sampled = [json.loads(line)["rollout"] for line in text.splitlines()]
        assert [len(rollout["ids"]) for rollout in sampled] == [length] * 32
        assert {rollout["finished"] for rollout in sampled} == {length == 1}


def test_a_plan_times_no_more_answers_than_it_takes_to_know(tmp_path: Path) -> None:
    run = grpo_run(tmp_path / "run", "batch.rows=48", "batch.rows_at_once=8", "grpo.group=4")
    planning.measure(run, engine_of=NativeLiveEngine)
    sampled = events(run, "rollouts")
    (told,) = events(run, "measured")
    # 16 prompts of 48 have 64 answers; the last step's answers all go on to the end.
    assert {event["answers"] for event in sampled} == {64} and len(sampled) >= 3
    assert sampled[-1]["tokens"] == 64 * 6 and sampled[-1]["batch"] == 0
    tokens = [event["tokens"] for event in sampled[:-1]]
    assert told["answer_tokens"] == pytest.approx(sum(tokens) / 64 / len(tokens))
    assert 0 <= told["cached_share"] < 1 and told["needs_bytes"] > 0
    judged = events(run, "judged")[0]
    assert told["judged"]["answer_tokens"] == judged["tokens"] / judged["answers"]
    assert told["judged"]["prompt_tokens"] == judged["prompt_tokens"] / judged["answers"]
    # A step is three times what was timed of it.
    assert told["at_most"]["step_s"] >= told["step_s"] > 2 * min(e["sampled_s"] for e in sampled)
    assert told["at_most"]["judged_row_s"] >= told["judged_row_s"] > 0


def test_what_was_sampled_is_kept_for_people_to_read(tmp_path: Path) -> None:
    run = grpo_run(tmp_path / "run", "steps=2")
    do(run)
    kept = records(run)
    assert sorted(kept) == ["00000000.jsonl", "00000001.jsonl"]
    tokenizer = Tokenizer.load(tmp_path / "model")
    for judged in kept["00000000.jsonl"]:
        rollout = judged["rollout"]
        ids = rollout["ids"][: len(rollout["ids"]) - rollout["finished"]]
        assert tokenizer.decode(ids) == judged["text"]
        assert len(rollout["logprobs"]) == len(rollout["ids"])
        assert judged["reward"] == judged["rewards"]["format"]


@pytest.mark.parametrize("updates", [1, 3])
def test_the_order_says_which_steps_asked_a_prompt(tmp_path: Path, updates: int) -> None:
    run = grpo_run(tmp_path / "run", "steps=30", "grpo.group=2", f"grpo.updates={updates}")
    do(run)
    recipe = loads(run.recipe.read_text(), TrainRecipe).recipe
    batches = list(records(run).values())
    for number in (0, 17, 47):
        (trace_,) = trace(recipe, run.plan(), run.path, f"d-{number}", 30 * 4).traces
        steps = sorted({int(position) // 4 + 1 for position in trace_.positions})
        asked = [b for b, batch in enumerate(batches) if any(j["prompt"] == number for j in batch)]
        expected = [b * updates + u + 1 for b in asked for u in range(updates)]
        assert steps == [step for step in expected if step <= 30]
    assert trace(recipe, run.plan(), run.path, "d-50", 120).traces[0].split == "validation"


def test_with_lora_the_reference_is_the_base(tmp_path: Path) -> None:
    run = grpo_run(tmp_path / "run", "steps=3", "lora.rank=4", "grpo.kl_weight=0.1")
    do(run)
    told = events(run, "step")
    assert told[0]["kl"] == pytest.approx(0, abs=1e-9)
    assert told[-1]["kl"] > 0


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("grpo.max_tokens=64",), "must fit batch.sequence_length"),
        (("grpo.group=1",), "grpo.group"),
        (("grpo.rewards=[]",), "grpo.rewards"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(
    tmp_path: Path, overrides: tuple[str, ...], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        grpo_run(tmp_path / "run", *overrides)


def test_prompts_too_long_for_an_answer_are_counted_or_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no prompt of at most"):
        do(grpo_run(tmp_path / "short", "batch.sequence_length=12"))
    with pytest.raises(InvalidInput, match="leave no room for 6 tokens"):
        do(grpo_run(tmp_path / "refused", "batch.sequence_length=12", "data.over_long=refuse"))


def test_without_an_engine_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no engine"):
        train(grpo_run(tmp_path / "run"))
