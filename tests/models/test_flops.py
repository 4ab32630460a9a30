"""The cost formula against a count of the products that are really computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bessemer.models.attention import positions
from bessemer.models.config import ModelConfig
from bessemer.models.decoder import Decoder
from bessemer.models.flops import step_cost
from bessemer.models.lora import add_lora
from bessemer.train.attention import BlockAttention
from bessemer.train.loss import linear_cross_entropy

LENGTHS = [40, 24]
TARGETS = 10


def in_place_product(total: Any, left: Any, right: Any, *_: Any, **__: Any) -> int:
    """torch's counter knows `addmm` but not `addmm_`."""
    return 2 * int(left[0]) * int(left[1]) * int(right[1])


PRODUCTS = {torch.ops.aten.addmm_: in_place_product}


def counted(decoder: Decoder) -> int:
    """Floating-point operations of the `mm`s of one step: all products but attention's."""
    tokens = sum(LENGTHS)
    with FlopCounterMode(display=False, custom_mapping=PRODUCTS) as counter:
        attend = BlockAttention(LENGTHS, torch.float32)
        hidden = decoder(torch.arange(tokens), positions(LENGTHS), attend)
        places = torch.arange(TARGETS)
        linear_cross_entropy(hidden, decoder.head_weight, places, places).backward()
    total = counter.get_flop_counts()["Global"]
    return sum(count for op, count in total.items() if "bmm" not in str(op))


def config(layers: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=100, hidden_size=32, intermediate_size=48, layers=layers, heads=4, kv_heads=2,
        head_dim=8, context_length=64, tied=True,
    )  # fmt: skip


def test_full_training_counts_six_per_weight() -> None:
    decoder = Decoder(config(2)).init_weights(0)
    cost = step_cost(decoder)
    assert cost.per_token * sum(LENGTHS) + cost.per_target * TARGETS == counted(decoder)
    assert cost.per_token + cost.per_target == 6 * decoder.config.matmul_parameters


def test_lora_counts_four_for_frozen_weights_and_six_for_its_own() -> None:
    decoder = Decoder(config(20)).init_weights(0)
    add_lora(decoder, 4, 8.0, seed=0)
    cost = step_cost(decoder)
    ours = cost.per_token * sum(LENGTHS) + cost.per_target * TARGETS
    # Layer 0 has no gradient to hand down; the formula ignores that.
    assert ours == pytest.approx(counted(decoder), rel=0.02)
    assert ours >= counted(decoder)


def test_attention_counts_the_causal_half_three_times() -> None:
    decoder = Decoder(config(2))
    # Forward: scores and mix, 2 x 2 n^2 / 2 per head element; twice that backward; two layers.
    assert step_cost(decoder).per_square == 3 * (2 * 2 // 2) * 4 * 8 * 2
    assert step_cost(decoder).flops(0, 0, [3, 4]) == 25 * step_cost(decoder).per_square
