"""Every native architecture learns, resumes to the bit, and opens in transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from bessemer.models.attention import PackedAttention, positions
from bessemer.models.config import LatentConfig, ModelConfig, MoeConfig
from bessemer.models.decoder import Decoder
from bessemer.models.folder import load_decoder, save_decoder
from bessemer.train.loop import train
from tests.train.test_loop import events, same_bits
from tests.train.tiny import RECIPE, make_dataset, make_model, make_run

SHAPE: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "layers": 2, "heads": 4, "kv_heads": 4,
    "head_dim": 8, "context_length": 128, "initializer_range": 0.2,
}  # fmt: skip
MOE: dict[str, Any] = {"experts": 4, "top_k": 2, "size": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"family": "gpt2", "tied": True, "qkv_bias": True},
    "mistral": {"family": "mistral", "layer_windows": (16, 16)},
    "mixtral": {"family": "mixtral", "moe": MoeConfig(**{**MOE, "size": 48})},
    "qwen3_moe": {
        "family": "qwen3_moe", "qk_norm": True,
        "moe": MoeConfig(**MOE, dense_layers=frozenset({0})),
    },
    "deepseek_v3": {
        "family": "deepseek_v3", "head_dim": 12,
        "moe": MoeConfig(**MOE, gate="sigmoid", shared_size=16, dense_layers=frozenset({0})),
        "latent": LatentConfig(
            query_rank=16, kv_rank=12, plain_dim=8, rotary_dim=4, value_dim=10
        ),
    },
}  # fmt: skip
FULL = RECIPE.replace("lora.rank = 4\n", "")


def make_family(folder: Path, family: str) -> None:
    """The tiny model's tokenizer with another network."""
    vocab = load_decoder(make_model(folder / "llama")).config.vocab_size
    config = ModelConfig(vocab_size=vocab, **{**SHAPE, **FAMILIES[family]})
    decoder = Decoder(config).init_weights(1)
    save_decoder(decoder, folder / "model", like=folder / "llama")
    (folder / "model" / "chat_template.jinja").write_text(
        (folder / "llama" / "chat_template.jinja").read_text()
    )
    make_dataset(folder / "dataset")


@pytest.mark.parametrize("family", FAMILIES)
def test_it_learns_resumes_to_the_bit_and_opens_in_transformers(
    tmp_path: Path, family: str
) -> None:
    make_family(tmp_path, family)
    often = ("steps=25", "optimizer.learning_rate=0.01", "checkpoints.every_s=0.000001",
             "evaluation.times=1")  # fmt: skip
    straight, torn = (make_run(tmp_path / n, *often, recipe=FULL) for n in ("straight", "torn"))
    train(straight)
    losses = [event["loss"] for event in events(straight, "validation")]
    assert losses[-1] < losses[0] / 2
    train(torn)
    next(max(torn.checkpoints.iterdir()).glob("*.safetensors")).unlink()
    train(torn)
    assert events(torn, "resumed")[0]["step"] == 24
    assert same_bits(straight, torn)
    opened = AutoModelForCausalLM.from_pretrained(straight.output / "model")
    ours = load_decoder(straight.output / "model")
    ids = torch.arange(30)
    attend = PackedAttention([30], windows=ours.config.layer_windows)
    with torch.no_grad():
        found = ours.logits(ours(ids, positions([30]), attend))
        torch.testing.assert_close(found, opened(ids[None]).logits[0], rtol=0, atol=5e-4)
    if ours.config.moe is not None:
        assert all(event["expert_load"] >= 1 for event in events(straight, "step"))


def test_balancing_moves_the_biases_that_are_saved_with_the_model(tmp_path: Path) -> None:
    make_family(tmp_path, "deepseek_v3")
    overrides = ("steps=3", "moe.rate=0.01", "evaluation.times=1")
    balanced = make_run(tmp_path / "balanced", *overrides, recipe=FULL)
    off = make_run(tmp_path / "off", *overrides, "moe.balancing=off", recipe=FULL)
    for run in (balanced, off):
        train(run)
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    moved = load_decoder(balanced.output / "model").get_buffer(name)
    assert set(moved.abs().mul(100).round().tolist()) <= {0.0, 1.0, 2.0, 3.0}
    assert moved.abs().max() >= 0.01
    assert load_decoder(off.output / "model").get_buffer(name).abs().max() == 0
