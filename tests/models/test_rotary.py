"""The rotary table holds cosines and sines of position times frequency, however it grew."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DeepseekV3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from bessemer.models.config import Llama3Scaling, ModelConfig, YarnScaling
from bessemer.models.decoder import Decoder
from bessemer.models.functions import rotate
from bessemer.models.rotary import RotaryTable, inverse_frequencies

CONFIG = ModelConfig(
    vocab_size=8,
    hidden_size=16,
    intermediate_size=16,
    layers=1,
    heads=2,
    kv_heads=1,
    head_dim=8,
    context_length=64,
    rope_theta=10_000.0,
)


def angle(position: int, pair: int) -> float:
    return position * CONFIG.rope_theta ** (-2 * pair / CONFIG.head_dim)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3000), max_size=20))
def test_table_equals_direct_computation(places: list[int]) -> None:
    rotation = RotaryTable(CONFIG).at(torch.tensor(places, dtype=torch.int64), torch.float64)
    assert rotation.cos_TD.shape == rotation.sin_TD.shape == (len(places), CONFIG.head_dim // 2)
    for row, place in enumerate(places):
        for pair in range(CONFIG.head_dim // 2):
            # Angles are float32, as in the reference: at 3000 its spacing is 2.4e-4.
            assert abs(rotation.cos_TD[row, pair].item() - math.cos(angle(place, pair))) < 3e-4
            assert abs(rotation.sin_TD[row, pair].item() - math.sin(angle(place, pair))) < 3e-4


def test_table_that_grew_equals_one_made_at_once() -> None:
    grown, fresh = RotaryTable(CONFIG), RotaryTable(CONFIG)
    for last in (0, 5, 255, 256, 257, 5000):
        grown.at(torch.tensor([last]), torch.float32)
    places = torch.tensor([5000, 0, 4999, 256, 255])
    for mine, theirs in zip(
        grown.at(places, torch.float32), fresh.at(places, torch.float32), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_each_precision_is_rounded_once_from_float32() -> None:
    table, places = RotaryTable(CONFIG), torch.arange(300)
    exact = table.at(places, torch.float32)
    assert torch.equal(table.at(places, torch.bfloat16).cos_TD, exact.cos_TD.bfloat16())
    assert torch.equal(table.at(places, torch.float64).sin_TD, exact.sin_TD.double())


def test_casting_the_network_does_not_round_the_frequencies() -> None:
    decoder = Decoder(CONFIG).to(torch.bfloat16).float()
    found = decoder.model._rotary.at(torch.arange(64), torch.float32)
    assert torch.equal(found.cos_TD, RotaryTable(CONFIG).at(torch.arange(64), torch.float32).cos_TD)


def test_scores_depend_only_on_the_distance() -> None:
    table = RotaryTable(CONFIG)
    q_THD, k_THD = torch.randn(2, 1, 1, 8, generator=torch.Generator().manual_seed(0)).double()

    def score(q_place: int, k_place: int) -> float:
        q, k = (
            rotate(x, *table.at(torch.tensor([place]), torch.float64))
            for x, place in ((q_THD, q_place), (k_THD, k_place))
        )
        return float((q * k).sum())

    assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-4)
    assert abs(score(7, 3) - score(3, 7)) > 1e-2


@pytest.mark.parametrize("original", [64, 8192])
def test_llama_3_scaling_keeps_fast_waves_and_slows_slow_ones(original: int) -> None:
    scaling = Llama3Scaling(8.0, 1.0, 4.0, original)
    plain = inverse_frequencies(128, 500_000.0, None)
    scaled = inverse_frequencies(128, 500_000.0, scaling)
    for before, after in zip(plain.tolist(), scaled.tolist(), strict=True):
        turns = original * before / (2 * math.pi)
        if turns > 4.0:
            assert after == before
        elif turns < 1.0:
            assert after == pytest.approx(before / 8.0, rel=1e-6)
        else:
            assert before / 8.0 < after < before


@settings(deadline=None, max_examples=50)
@given(
    dim=st.integers(1, 64),
    theta=st.floats(10.0, 1e7),
    factor=st.floats(1.0, 64.0),
    original=st.integers(16, 8192),
    truncate=st.booleans(),
)
def test_yarn_has_the_references_bits(
    dim: int, theta: float, factor: float, original: int, truncate: bool
) -> None:
    settings = {"rope_theta": theta, "factor": factor, "truncate": truncate}
    settings |= {"rope_type": "yarn", "original_max_position_embeddings": original}
    config = DeepseekV3Config(qk_rope_head_dim=2 * dim, rope_parameters=settings)
    expected, attention = ROPE_INIT_FUNCTIONS["yarn"](config)
    ours = ModelConfig.from_hf(config.to_dict())
    assert isinstance(ours.rope_scaling, YarnScaling)
    assert ours.rope_scaling.attention == attention
    found = inverse_frequencies(ours.rotary_dim, ours.rope_theta, ours.rope_scaling)
    assert torch.equal(found, expected)
