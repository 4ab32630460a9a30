"""The reward model: TRL's loss, transformers' folder, and scores that tell good from bad."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bessemer.core.errors import BessemerError, InvalidInput
from bessemer.core.recipes import load
from bessemer.core.train_recipe import TrainRecipe
from bessemer.data.pairs import Pair
from bessemer.models.attention import PackedAttention, positions
from bessemer.models.config import ModelConfig
from bessemer.models.decoder import Decoder
from bessemer.models.folder import load_decoder, save_decoder
from bessemer.models.reward_model import RewardModel, load_reward_model
from bessemer.text.bpe import train_bpe
from bessemer.text.tokenizer import Tokenizer
from bessemer.train.batch import micro_batch
from bessemer.train.loop import train
from bessemer.train.objectives.reward_model import (
    bradley_terry_loss,
    open_reward,
    pad_token_id,
    reward_of,
)
from bessemer.train.task import Setting
from tests.train.test_loop import events, weights
from tests.train.tiny_pairs import make_pairs_run, pairs_of

PAD = 7


def make_scorer(folder: Path, pad_id: int = PAD, dtype: torch.dtype = torch.float64) -> RewardModel:
    """The tiny model with a head of random numbers."""
    model = RewardModel(load_decoder(folder.parent / "model", dtype), pad_id)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        model.score.weight.normal_(generator=generator)
    return model


def setting_of(folder: Path, *overrides: str) -> Setting:
    run = make_pairs_run(folder, "reward", *overrides)
    plan = run.plan()
    tokenizer = Tokenizer.load(Path(plan["model"]["path"]))
    recipe = load(run.recipe, TrainRecipe).recipe
    return Setting(recipe, plan, run.path, tokenizer, lambda _kind, **_facts: None)


class Padded(nn.Module):
    """A reward model with the face of transformers' classifier: rows padded at the end."""

    def __init__(self, model: RewardModel) -> None:
        super().__init__()
        self.scorer = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool) -> Any:
        assert not use_cache
        lengths = [input_ids.shape[1]] * len(input_ids)
        hidden = self.scorer(input_ids.flatten(), positions(lengths), PackedAttention(lengths))
        scores = (hidden @ self.scorer.score.weight[0]).view(input_ids.shape)
        is_text = attention_mask.bool() & (input_ids != self.scorer.pad_id)
        last = (torch.arange(lengths[0]) * is_text).argmax(1)
        return SimpleNamespace(logits=scores.gather(1, last[:, None]))


def trl_trainer(folder: Path, scratch: Path, centering: float | None) -> Any:
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast
    from trl import RewardConfig, RewardTrainer

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder.parent / "model" / "tokenizer.json"),
        eos_token="<|endoftext|>", pad_token="<|endoftext|>",
    )  # fmt: skip
    args = RewardConfig(
        str(scratch), use_cpu=True, bf16=False, report_to="none", max_length=None,
        center_rewards_coefficient=centering,
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_pretrained(
        folder.parent / "model", num_labels=1, dtype=torch.float64
    )
    texts = Dataset.from_list([{"chosen": "b", "rejected": "c"}])
    return RewardTrainer(model, args, train_dataset=texts, processing_class=tokenizer)


def as_trl_has_it(pair: Pair) -> dict[str, list[int]]:
    return {"chosen_ids": pair.chosen.ids.tolist(), "rejected_ids": pair.rejected.ids.tolist()}


@pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL's, of transformers
@pytest.mark.parametrize("centering", [0.0, 0.3])
def test_loss_and_gradients_equal_trls_in_float64(tmp_path: Path, centering: float) -> None:
    folder = tmp_path / "run"
    setting = setting_of(folder, f"reward.centering={centering}")
    rows, pad_id = pairs_of(setting).train, pad_token_id(setting.tokenizer)
    task = open_reward(setting, nn.Identity())
    model, same = make_scorer(folder, pad_id), make_scorer(folder, pad_id)
    sums = task.loss(model, micro_batch(task.rows([0, 1])))  # type: ignore[arg-type]
    found = sums.total / sums.weight
    found.backward()  # type: ignore[no-untyped-call]

    trainer = trl_trainer(folder, tmp_path / "trl", centering or None)
    pairs = [rows.pairs[i] for position in (0, 1) for i in rows.members(position)]
    batch = trainer.data_collator([as_trl_has_it(pair) for pair in pairs])
    expected = trainer.compute_loss(Padded(same), dict(batch))
    expected.backward()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    for ours, trls in zip(model.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, trls.grad, rtol=0, atol=1e-9)
    told = trainer._metrics["eval"]  # a trainer that has not begun
    for name in ("accuracy", "margin"):
        mean = sums.metrics[name]
        assert mean.total / mean.weight == pytest.approx(told[name][-1], abs=1e-6)


def ids_of(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(8, 250, (n,), generator=generator).tolist() for n in lengths]


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_opens_the_folder_and_scores_alike(tmp_path: Path, tied: bool) -> None:
    from transformers import AutoModelForSequenceClassification

    config = ModelConfig(
        vocab_size=260, hidden_size=32, intermediate_size=64, layers=2, heads=4, kv_heads=2,
        head_dim=8, context_length=64, tied=tied, initializer_range=0.3,
    )  # fmt: skip
    model = RewardModel(Decoder(config).init_weights(1), PAD)
    with torch.no_grad():
        model.score.weight.normal_(generator=torch.Generator().manual_seed(3))
    model.save(tmp_path / "reward")
    theirs, info = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "reward", output_loading_info=True, dtype=torch.float64
    )
    assert not any(info.values()), info
    assert (type(theirs).__name__, theirs.num_labels) == ("LlamaForSequenceClassification", 1)
    # One ends with the padding token itself: the token before it is scored, there and here.
    chats = ids_of(9, 3, 17)
    chats[1].append(PAD)
    width = max(map(len, chats))
    padded = torch.tensor([chat + [PAD] * (width - len(chat)) for chat in chats])
    mask = torch.tensor([[1] * len(chat) + [0] * (width - len(chat)) for chat in chats])
    with torch.no_grad():
        expected = theirs(padded, attention_mask=mask).logits[:, 0]
    # Their norms go through float32.
    ours = load_reward_model(tmp_path / "reward", torch.float64)
    assert reward_of(ours, chats) == pytest.approx(expected.tolist(), abs=1e-5)
    assert reward_of(model, chats) == pytest.approx(expected.tolist(), abs=1e-4)
    assert expected.std() > 0.1


def test_what_is_saved_is_loaded_to_the_bit(tmp_path: Path) -> None:
    make_pairs_run(tmp_path / "run", "reward")
    model = make_scorer(tmp_path / "run", dtype=torch.float32)
    model.save(tmp_path / "reward", tmp_path / "model")
    again = load_reward_model(tmp_path / "reward")
    chats = ids_of(5, 12, 8)
    assert reward_of(model, chats) == reward_of(again, chats)
    assert (tmp_path / "reward" / "chat_template.jinja").exists()
    assert Tokenizer.load(tmp_path / "reward").vocab_size > 0


def test_many_chats_are_scored_in_parts_as_alone(tmp_path: Path) -> None:
    make_pairs_run(tmp_path / "run", "reward")
    model = make_scorer(tmp_path / "run")
    chats = ids_of(*[100] * 90, 3)  # more tokens than are scored at once
    together = reward_of(model, chats)
    for i in (0, 81, 82, 90):
        assert reward_of(model, [chats[i]]) == pytest.approx([together[i]], abs=1e-9)
    assert len(set(together)) == len(chats)
    assert reward_of(model, []) == []


def test_a_reward_model_is_no_language_model(tmp_path: Path) -> None:
    setting_of(tmp_path / "run")
    make_scorer(tmp_path / "run").save(tmp_path / "saved", tmp_path / "model")
    with pytest.raises(InvalidInput, match="holds a reward model: it scores answers"):
        load_decoder(tmp_path / "saved")


def test_a_language_model_is_no_reward_model(tmp_path: Path) -> None:
    make_pairs_run(tmp_path / "run", "reward")
    with pytest.raises(BessemerError, match=r"1 missing \(score.weight\)"):
        load_reward_model(tmp_path / "model")


def test_the_score_is_read_before_the_token_that_pads(tmp_path: Path) -> None:
    make_pairs_run(tmp_path / "run", "reward")
    model = make_scorer(tmp_path / "run")
    (chat,) = ids_of(6)
    assert reward_of(model, [chat]) == reward_of(model, [[*chat, PAD, PAD]])
    assert reward_of(model, [chat]) != reward_of(model, [[*chat, PAD, 9]])


def test_the_padding_token_is_the_tokenizers_else_the_one_that_ends(tmp_path: Path) -> None:
    tokenizer = train_bpe(["some text"], 300, tmp_path)
    assert pad_token_id(tokenizer) in tokenizer.eos_ids
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token": "<|fim_middle|>"}))
    other = Tokenizer.load(tmp_path)
    assert [pad_token_id(other)] == other.encode("<|fim_middle|>")


@pytest.mark.parametrize(("precision", "extra"), [("bf16", ("lora.rank=4",)), ("fp32", ())])
def test_a_run_learns_to_score_pairs_it_has_not_seen(
    tmp_path: Path, precision: str, extra: tuple[str, ...]
) -> None:
    run = make_pairs_run(tmp_path / "run", "reward", *extra, f"precision={precision}")
    train(run)
    first, last = events(run, "validation")
    assert (first["accuracy"], first["margin"]) == (0.5, 0.0)
    assert last["accuracy"] > 0.9
    assert last["loss"] < 0.3 < first["loss"]
    assert events(run, "sample") == []
    model = load_reward_model(run.output / "model")
    rows = pairs_of(setting_of(tmp_path / "again")).validation
    scores = reward_of(model, [piece.ids.tolist() for pair in rows.pairs for piece in pair])
    right = [good > bad for good, bad in zip(scores[::2], scores[1::2], strict=True)]
    assert sum(right) / len(right) == pytest.approx(last["accuracy"], abs=0.1)
    # Merged into one folder, whichever way it was trained.
    assert {path.name for path in run.output.iterdir()} == {"model"}
    names = load_file(run.output / "model" / "model.safetensors").keys()
    assert "score.weight" in names
    assert not [name for name in names if "lora" in name or name.startswith(("decoder", "lm_head"))]


def test_a_model_with_a_head_of_its_own_trains_all_but_that(tmp_path: Path) -> None:
    run = make_pairs_run(tmp_path / "run", "reward", "steps=3")
    config = ModelConfig.from_folder(tmp_path / "model")
    untied = Decoder(ModelConfig(**{**vars(config), "tied": False})).init_weights(2)
    save_decoder(untied, tmp_path / "model")
    train(run)
    stored = load_file(run.output / "model" / "model.safetensors")
    assert "lm_head.weight" not in stored
    assert not torch.equal(stored["model.norm.weight"], untied.model.norm.weight)
    assert load_reward_model(run.output / "model").score.weight.abs().max() > 0


def test_only_the_centering_term_sees_that_all_scores_are_shifted() -> None:
    chosen_B, rejected_B = torch.tensor([2.0, -1.0]), torch.tensor([-2.0, 1.5])
    plain = bradley_terry_loss(chosen_B, rejected_B)
    torch.testing.assert_close(bradley_terry_loss(chosen_B + 3, rejected_B + 3), plain)
    shifted = bradley_terry_loss(chosen_B + 3, rejected_B + 3, centering=0.1)
    torch.testing.assert_close(shifted - plain, torch.tensor([3.6, 4.225]))


def test_a_run_that_goes_on_from_a_checkpoint_ends_with_the_same_bits(tmp_path: Path) -> None:
    often = ("lora.rank=4", "steps=4", "checkpoints.every_s=1e-9")
    run = make_pairs_run(tmp_path / "run", "reward", *often)
    train(run)
    before = weights(run)
    shutil.rmtree(max(run.checkpoints.iterdir()))
    train(run)
    assert events(run, "resumed")[0]["step"] == 3
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(run).items())


def test_rows_have_no_targets_and_twice_as_many_pieces_as_pairs(tmp_path: Path) -> None:
    task = open_reward(setting_of(tmp_path / "run"), nn.Identity())
    batch = micro_batch(task.rows([0, 1, 2]))
    assert batch.targets == 0
    assert task.weight(batch) * 2 == len(batch.lengths)
