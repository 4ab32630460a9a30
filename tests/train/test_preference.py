"""DPO and IPO: the losses are TRL's, the reference is computed once, held-out pairs are told."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from torch import Tensor, nn

from bessemer.core.errors import InvalidInput
from bessemer.core.recipes import load
from bessemer.core.train_recipe import TrainRecipe
from bessemer.data.pairs import Pair
from bessemer.models.attention import PackedAttention, positions
from bessemer.models.decoder import Decoder
from bessemer.models.folder import load_decoder
from bessemer.text.tokenizer import Tokenizer
from bessemer.train.batch import micro_batch
from bessemer.train.gradient import Part, accumulate
from bessemer.train.loop import train
from bessemer.train.objectives.preference import (
    Answers,
    PreferenceTask,
    dpo_loss,
    ipo_loss,
    open_dpo,
)
from bessemer.train.reference import FILE, open_reference
from bessemer.train.task import Setting
from bessemer.train.weights import TrainedWeights
from tests.train.test_loop import events, weights
from tests.train.tiny_pairs import make_pairs, make_pairs_run, pairs_of

Told = list[tuple[str, dict[str, Any]]]


def setting_of(folder: Path, *overrides: str) -> tuple[Setting, Told]:
    run = make_pairs_run(folder, "dpo", *overrides)
    told: Told = []

    def tell(kind: str, **facts: Any) -> None:
        told.append((kind, facts))

    plan = run.plan()
    tokenizer = Tokenizer.load(Path(plan["model"]["path"]))
    recipe = load(run.recipe, TrainRecipe).recipe
    return Setting(recipe, plan, run.path, tokenizer, tell), told


def start(folder: Path) -> Decoder:
    return load_decoder(folder.parent / "model", torch.float64)


def moved(decoder: Decoder) -> Decoder:
    """The same a while later: ratios to the reference are not zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in decoder.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(noise, alpha=0.05)
    return decoder


def answers(ratios: list[float], tokens: list[int]) -> Answers:
    return Answers(torch.tensor(ratios, dtype=torch.float64), torch.tensor(tokens))


RATIO = st.floats(-30, 30)


@settings(deadline=None)
@given(chosen=RATIO, rejected=RATIO, beta=st.floats(0.01, 2), smoothing=st.floats(0, 0.49))
def test_dpo_is_the_cross_entropy_of_a_smoothed_label(
    chosen: float, rejected: float, beta: float, smoothing: float
) -> None:
    found = dpo_loss(answers([chosen], [3]), answers([rejected], [5]), beta, smoothing)
    z = beta * (chosen - rejected)
    expected = math.log1p(math.exp(-z)) + smoothing * z
    assert found.item() == pytest.approx(expected, abs=1e-9)


def test_ipo_aims_at_a_margin_of_means() -> None:
    at_the_margin = ipo_loss(answers([8.0], [4]), answers([-6.0], [2]), beta=0.1)
    assert at_the_margin.item() == pytest.approx(0)  # 2 - (-3) = 1 / (2 * 0.1)
    beyond = ipo_loss(answers([12.0], [4]), answers([-6.0], [2]), beta=0.1)
    assert beyond.item() == pytest.approx(1)


class Padded(nn.Module):
    """Our decoder with the face of TRL's patched causal LM: rows padded at the end, in and out.

    The log-probabilities are computed plainly, so that TRL's loss is computed in float64 all the
    way; `transformers` itself goes through float32 in its norms.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, input_ids: Tensor, labels: Tensor, **_: Any) -> Any:
        lengths = [input_ids.shape[1]] * len(input_ids)
        attend = PackedAttention(lengths)
        hidden = self.decoder(input_ids.flatten(), positions(lengths), attend)
        logits = self.decoder.logits(hidden).view(*input_ids.shape, -1)[:, :-1]
        mask, target = labels[:, 1:] != -100, input_ids[:, 1:, None]
        picked = logits.log_softmax(-1).gather(2, target)[..., 0]
        nothing = torch.zeros_like(picked)
        return SimpleNamespace(
            log_probs=picked.masked_fill(~mask, 0), entropy=nothing, mean_logits=nothing,
            is_top1=mask,
        )  # fmt: skip


def trl_trainer(folder: Path, scratch: Path, **told: Any) -> Any:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    def model() -> Any:
        return AutoModelForCausalLM.from_pretrained(folder.parent / "model", dtype=torch.float64)

    args = DPOConfig(
        str(scratch), use_cpu=True, bf16=False, report_to="none", max_length=None, **told
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder.parent / "model" / "tokenizer.json"),
        eos_token="<|endoftext|>", pad_token="<|endoftext|>",
    )  # fmt: skip
    texts = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    return DPOTrainer(model(), model(), args, train_dataset=texts, processing_class=tokenizer)


def as_trl_has_it(pair: Pair) -> dict[str, list[int]]:
    prompt = int(pair.chosen.is_target.argmax())
    assert prompt == int(pair.rejected.is_target.argmax())
    return {
        "prompt_ids": pair.chosen.ids[:prompt].tolist(),
        "chosen_ids": pair.chosen.ids[prompt:].tolist(),
        "rejected_ids": pair.rejected.ids[prompt:].tolist(),
    }


OURS_AND_TRLS = {
    "dpo": ([], {"loss_type": ["sigmoid"], "beta": 0.1}),
    "dpo, another beta": (["dpo.beta=0.5"], {"loss_type": ["sigmoid"], "beta": 0.5}),
    # TRL smooths labels in `aot`, which is this loss for a single pair, and in others.
    "smoothed": (["dpo.label_smoothing=0.2"], {"loss_type": ["aot"], "label_smoothing": 0.2}),
    "ipo": (["dpo.loss=ipo"], {"loss_type": ["ipo"], "beta": 0.1}),
    "dpo and sft": (
        ["dpo.sft_weight=0.7"],
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]},
    ),
    "ipo and sft": (
        ["dpo.loss=ipo", "dpo.sft_weight=0.3", "dpo.beta=0.4"],
        {"loss_type": ["ipo", "sft"], "loss_weights": [1.0, 0.3], "beta": 0.4},
    ),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL's, of transformers
@pytest.mark.parametrize("case", OURS_AND_TRLS)
def test_loss_and_gradients_equal_trls_in_float64(tmp_path: Path, case: str) -> None:
    overrides, theirs = OURS_AND_TRLS[case]
    # A row of one pair, where TRL knows the loss for one pair only.
    length, places = (64, [0]) if case == "smoothed" else (128, [0, 1])
    folder = tmp_path / "run"
    setting, _ = setting_of(folder, *overrides, f"batch.sequence_length={length}")
    rows = pairs_of(setting).train
    pairs = [rows.pairs[i] for place in places for i in rows.members(place)]
    assert len(pairs) == (1 if case == "smoothed" else 4)
    task = open_dpo(setting, start(folder))
    network, same = moved(start(folder)), moved(start(folder))
    sums = task.loss(network, micro_batch(task.rows(places)))
    found = sums.total / sums.weight
    found.backward()  # type: ignore[no-untyped-call]

    trainer = trl_trainer(folder, tmp_path / "trl", **theirs)
    batch = trainer.data_collator([as_trl_has_it(pair) for pair in pairs])
    trainer.ref_model = Padded(start(folder))
    expected = trainer.compute_loss(Padded(same), dict(batch))
    expected.backward()

    assert abs(expected.item() - math.log(2)) > 1e-3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    for ours, trls in zip(network.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, trls.grad, rtol=0, atol=1e-9)
    told = trainer._metrics["eval"]  # a trainer that has not begun
    for ours_name, trls_name in METRICS.items():
        mean = sums.metrics[ours_name]
        assert mean.total / mean.weight == pytest.approx(told[f"rewards/{trls_name}"][-1], abs=1e-9)


METRICS = {
    "accuracy": "accuracies",
    "margin": "margins",
    "chosen_reward": "chosen",
    "rejected_reward": "rejected",
}


@pytest.mark.parametrize("overrides", [(), ("dpo.sft_weight=0.5",), ("dpo.loss=ipo",)])
def test_micro_batches_make_the_gradient_of_the_whole_step(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    setting, _ = setting_of(tmp_path / "run", *overrides)
    task = open_dpo(setting, start(tmp_path / "run"))
    found = []
    for rows_at_once in (1, 4):
        network = moved(start(tmp_path / "run"))
        trained = TrainedWeights(network)
        told = accumulate(network, trained, [Part(task, task.rows(range(4)), 1.0)], rows_at_once)
        found.append((told.loss, told.metrics, trained.take_gradients()))
    (loss, metrics, gradients), (other_loss, other_metrics, other_gradients) = found
    assert loss == pytest.approx(other_loss, abs=1e-7)
    assert metrics == pytest.approx(other_metrics, abs=1e-7)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, other_gradients[name], rtol=1e-5, atol=1e-6)


def test_a_row_holds_whole_pairs_side_by_side(tmp_path: Path) -> None:
    rows = pairs_of(setting_of(tmp_path / "run")[0]).train
    seen = []
    for position in range(rows.rows_per_epoch):
        row, members = rows.row(position), rows.members(position)
        pieces = np.split(row.ids, np.cumsum(row.lengths)[:-1])
        for number, i in enumerate(members):
            assert np.array_equal(pieces[2 * number], rows.pairs[i].chosen.ids)
            assert np.array_equal(pieces[2 * number + 1], rows.pairs[i].rejected.ids)
        assert len(pieces) == 2 * len(members)
        seen += members
    assert sorted(seen) == list(range(len(rows.pairs)))


def test_only_the_answers_are_targets_and_both_follow_one_prompt(tmp_path: Path) -> None:
    setting, _ = setting_of(tmp_path / "run")
    pair = pairs_of(setting).train.pairs[0]
    decode = setting.tokenizer.decode
    said = [decode(piece.ids[piece.is_target], skip_special=False) for piece in pair]
    assert said == ["It is red.<|endoftext|>", "red?<|endoftext|>"]
    prompts = [piece.ids[~piece.is_target].tolist() for piece in pair]
    assert prompts[0] == prompts[1]


@pytest.mark.parametrize(
    ("precision", "extra"),
    [
        ("fp32", ("lora.rank=4",)),
        ("bf16", ()),
        ("fp32", ("dpo.loss=ipo", "dpo.sft_weight=0.1")),
    ],
)
def test_a_run_learns_what_is_preferred_in_pairs_it_has_not_seen(
    tmp_path: Path, extra: tuple[str, ...], precision: str
) -> None:
    run = make_pairs_run(tmp_path / "run", "dpo", *extra, f"precision={precision}")
    train(run)
    first, last = events(run, "validation")
    assert first["accuracy"] == pytest.approx(0.5, abs=0.0 if precision == "fp32" else 0.5)
    assert last["accuracy"] > 0.9
    assert last["loss"] < first["loss"]
    assert last["margin"] > first["margin"] + 0.2
    assert last["margin"] == pytest.approx(last["chosen_reward"] - last["rejected_reward"])
    (result,) = events(run, "result")
    assert (result["measure"], result["after"]) == ("accuracy", last["accuracy"])
    assert events(run, "sample")[0]["prompt"].endswith("assistant: ")


def test_the_reference_is_computed_once_and_told(tmp_path: Path) -> None:
    setting, told = setting_of(tmp_path / "run")
    material, network = pairs_of(setting), start(tmp_path / "run")
    first = open_reference(setting, network, material)
    assert {facts["stage"] for kind, facts in told if kind == "progress"} == {"reference"}
    assert told[-1][1]["done"] == told[-1][1]["total"]
    told.clear()
    # Another network: what is in the file is kept, since a resumed run has moved weights.
    again = open_reference(setting, moved(network), material)
    assert told == []
    assert np.array_equal(first.train, again.train)
    assert np.array_equal(first.validation, again.validation)
    assert not np.isnan(first.train).any()


@pytest.mark.parametrize("damage", ["torn", "of other data", "of another model", "no safetensors"])
def test_a_reference_that_is_not_this_runs_is_computed_again(tmp_path: Path, damage: str) -> None:
    setting, told = setting_of(tmp_path / "run")
    network = start(tmp_path / "run")
    right = open_reference(setting, network, pairs_of(setting))
    file = setting.folder / FILE
    if damage == "torn":
        file.write_bytes(file.read_bytes()[:-5])
    elif damage == "no safetensors":
        file.write_bytes(b"\xff" * 40)
    elif damage == "of another model":
        setting.plan["model"]["digest"] = "sha256:other"
        network = moved(network)
    else:
        make_pairs(tmp_path / "smaller", train=8)
        setting.plan["datasets"]["pairs"]["path"] = str(tmp_path / "smaller")
    told.clear()
    material = pairs_of(setting)
    found = open_reference(setting, network, material)
    assert "computed again" in told[0][1]["message"]
    assert len(found.train) == len(material.train.pairs)
    assert np.array_equal(found.train, right.train) == (damage in ("torn", "no safetensors"))


def test_only_what_the_steps_will_see_is_computed(tmp_path: Path) -> None:
    setting, _ = setting_of(tmp_path / "run", "steps=2", "batch.rows=3")
    material = pairs_of(setting)
    reference = open_reference(setting, start(tmp_path / "run"), material)
    assert reference.covered_rows(material.train) == 6 < material.train.rows_per_epoch
    assert not np.isnan(reference.validation).any()
    task = PreferenceTask(material, reference, setting)
    assert task.facts["reference_pairs"] < task.facts["train_pairs"]
    # Beyond what is covered, the covered rows come again: there is never a row without reference.
    rows, later = task.rows(range(6)), task.rows(range(6, 12))
    assert [row.ids.tolist() for row in rows] == [row.ids.tolist() for row in later]
    assert not any(np.isnan(row.columns["reference"]).any() for row in rows)


def test_a_pass_without_a_number_of_steps_covers_what_is_measured_first(tmp_path: Path) -> None:
    setting, _ = setting_of(tmp_path / "run", "minutes=1e-9", "batch.rows=1")
    setting = replace(setting, recipe=setting.recipe.model_copy(update={"steps": None}))
    material = pairs_of(setting)
    covered = open_reference(setting, start(tmp_path / "run"), material)
    assert 5 <= covered.covered_rows(material.train) < material.train.rows_per_epoch


def test_a_run_that_goes_on_from_a_checkpoint_ends_with_the_same_bits(tmp_path: Path) -> None:
    often = ("lora.rank=4", "steps=8", "checkpoints.every_s=1e-9")
    run = make_pairs_run(tmp_path / "run", "dpo", *often)
    train(run)
    before = weights(run)
    shutil.rmtree(max(run.checkpoints.iterdir()))
    train(run)
    assert events(run, "resumed")[0]["step"] == 7
    kinds = [event["kind"] for event in run.read()]
    assert "progress" in kinds[: kinds.index("plan")]
    assert "progress" not in kinds[kinds.index("plan") :]  # the reference was read again
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(run).items())


def test_on_top_of_an_adapter_the_reference_is_what_it_says_already(tmp_path: Path) -> None:
    first = make_pairs_run(tmp_path / "first", "dpo", "lora.rank=4")
    train(first)
    goes_on = f"lora.adapter={first.output / 'adapter'}"
    second = make_pairs_run(tmp_path / "second", "dpo", "steps=1", "lora.rank=4", goes_on)
    train(second)
    # The same over the model that has the adapter in its weights, computed without one.
    shutil.copytree(first.output / "model", tmp_path / "merged" / "model")
    make_pairs(tmp_path / "merged" / "pairs")
    merged = make_pairs_run(tmp_path / "merged" / "third", "dpo", "steps=1")
    train(merged)
    (step,) = events(second, "step")
    assert step["loss"] == pytest.approx(math.log(2), abs=1e-5), "nothing has moved yet"
    tables = [load_file(run.path / FILE) for run in (first, second, merged)]
    base, ours, whole = (table["validation"] for table in tables)
    np.testing.assert_allclose(ours, whole, rtol=1e-4)
    assert np.abs(ours - base).mean() > 0.1, "and not what the base would say"


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("data.over_long=refuse", r"64 pairs are longer than a row of 40 tokens"),
        ("data.over_long=drop", "the train split of pairs has no pair of at most 40 tokens"),
    ],
)
def test_pairs_longer_than_a_row_are_named(tmp_path: Path, override: str, fault: str) -> None:
    setting, _ = setting_of(tmp_path / "run", "batch.sequence_length=40", override)
    with pytest.raises(InvalidInput, match=fault):
        pairs_of(setting)


def test_a_dataset_of_chats_is_refused(tmp_path: Path) -> None:
    from tests.train.tiny import make_dataset

    setting, _ = setting_of(tmp_path / "run")
    setting.plan["datasets"]["pairs"]["path"] = str(make_dataset(tmp_path / "chats"))
    with pytest.raises(InvalidInput, match="holds chats; preferences are needed"):
        pairs_of(setting)
