"""Supervised fine-tuning's loss is TRL's and transformers', in float64, packed or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from trl import SFTConfig, SFTTrainer

from bessemer.data.material import Material
from bessemer.data.packing import Piece, Row, join
from bessemer.models.folder import load_decoder
from bessemer.train.batch import micro_batch
from bessemer.train.gradient import add_up
from bessemer.train.objectives.language import LanguageTask
from tests.train.tiny import make_model

LENGTHS = (17, 5, 30, 9)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("sft") / "model")


def pieces(vocab: int) -> list[Piece]:
    generator = np.random.default_rng(0)
    made = []
    for length in LENGTHS:
        is_target = generator.random(length) < 0.5
        is_target[-1] = True
        made.append(Piece(generator.integers(4, vocab, length), is_target))
    return made


def trl_loss(folder: Path, found: list[Piece]) -> Any:
    """TRL's own computation on a padded batch whose other labels are masked."""
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    from datasets import Dataset

    trainer = SFTTrainer(
        model=network,
        args=SFTConfig(
            output_dir=str(folder.parent / "trl"), use_cpu=True, report_to=[], bf16=False,
            dataset_kwargs={"skip_prepare_dataset": True}, max_length=None,
        ),
        train_dataset=Dataset.from_list([{"input_ids": [1, 2], "labels": [1, 2]}]),
        processing_class=tokenizer,
    )  # fmt: skip
    longest = max(LENGTHS)
    ids = torch.zeros(len(found), longest, dtype=torch.int64)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for row, piece in enumerate(found):
        length = len(piece.ids)
        ids[row, :length], mask[row, :length] = torch.from_numpy(piece.ids), 1
        taught = torch.from_numpy(piece.is_target)
        labels[row, :length][taught] = torch.from_numpy(piece.ids)[taught]
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return network, trainer.compute_loss(network, batch)


def ours(folder: Path, rows: list[Row]) -> Any:
    decoder = load_decoder(folder, torch.float64)
    material = Material(None, None, rows, [], "digest")  # type: ignore[arg-type]
    task = LanguageTask("sft", material)
    loss = task.loss(decoder, micro_batch(rows))
    return decoder, loss.total / loss.weight, add_up([loss])["loss"]


def test_loss_and_gradients_equal_trls(model: Path) -> None:
    found = pieces(260)
    network, expected = trl_loss(model, found)
    decoder, loss, told = ours(model, [join(found[:2]), join(found[2:])])
    # transformers takes the cross-entropy in float32, which bounds how equal the two can be.
    assert abs(told - expected.item()) < 1e-6
    exact = exact_loss(network, found)
    assert abs(told - exact.item()) < 1e-9
    exact.backward()
    loss.backward()
    theirs = dict(network.named_parameters())
    for name, parameter in decoder.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-7, atol=1e-9)


def exact_loss(network: Any, found: list[Piece]) -> torch.Tensor:
    """TRL's loss from the same network's logits, with the cross-entropy in float64."""
    network.zero_grad()
    total, count = torch.zeros((), dtype=torch.float64), 0
    for piece in found:
        ids = torch.from_numpy(piece.ids)
        logits = network(ids[None]).logits[0, :-1]
        taught = torch.from_numpy(piece.is_target)[1:]
        total = total + torch.nn.functional.cross_entropy(
            logits[taught], ids[1:][taught], reduction="sum"
        )
        count += int(taught.sum())
    return total / count


def test_packing_changes_nothing(model: Path) -> None:
    found = pieces(260)
    _, together, _ = ours(model, [join(found)])
    _, apart, _ = ours(model, [join([piece]) for piece in found])
    assert abs(together.item() - apart.item()) < 1e-12
