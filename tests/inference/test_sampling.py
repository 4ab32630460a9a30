"""Draws follow the distribution that was asked for, and can be repeated."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bessemer.core.protocols import Sampling
from bessemer.inference.sampling import adjusted, draw, logprobs_of, uniform

DRAWS = 4000


def logits_of(size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 2


def frequencies(logits_V: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    counts = Counter(draw(logits_V, sampling, seed=5, position=i) for i in range(DRAWS))
    return torch.tensor([counts[i] / DRAWS for i in range(len(logits_V))], dtype=torch.float64)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().sum() / 2)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_frequencies_follow_the_softmax_at_each_temperature(temperature: float) -> None:
    logits_V = logits_of(12)
    expected = torch.softmax(logits_V.double() / temperature, -1)
    assert distance(frequencies(logits_V, Sampling(temperature=temperature)), expected) < 0.03


def test_top_k_keeps_the_k_likeliest_in_their_proportions() -> None:
    logits_V = logits_of(12)
    kept = logits_V.topk(3).indices
    expected = torch.zeros(12, dtype=torch.float64)
    expected[kept] = torch.softmax(logits_V[kept].double(), -1)
    assert distance(frequencies(logits_V, Sampling(top_k=3)), expected) < 0.03


def test_top_p_keeps_the_smallest_set_that_reaches_the_mass() -> None:
    logits_V = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    found = frequencies(logits_V, Sampling(top_p=0.75))
    assert distance(found, torch.tensor([0.625, 0.375, 0, 0], dtype=torch.float64)) < 0.03
    assert draw(logits_V, Sampling(top_p=1e-9), seed=1, position=0) == 0


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(top_p=0.0),
        Sampling(top_p=1e-320, min_p=0.1),
        Sampling(top_p=0.0, min_p=1.0, top_k=3),
        Sampling(temperature=1e-320),
        Sampling(temperature=1e-320, top_p=0.5, min_p=0.5),
        Sampling(temperature=1e-6, top_k=2),
    ],
)
def test_what_is_nearly_nothing_leaves_the_likeliest_token(sampling: Sampling) -> None:
    scores_V = logits_of(40)
    assert all(draw(scores_V, sampling, seed, 0) == int(scores_V.argmax()) for seed in range(20))


def test_a_wide_nucleus_beyond_the_short_list_is_still_whole() -> None:
    logits_V = torch.zeros(2000)
    seen = {draw(logits_V, Sampling(top_p=0.99), seed=3, position=i) for i in range(DRAWS)}
    assert len(seen) > 1500


def test_zero_temperature_is_the_likeliest_token() -> None:
    logits_V = logits_of(50)
    assert draw(logits_V, Sampling(temperature=0), seed=1, position=0) == int(logits_V.argmax())


@given(st.integers(0, 2**63 - 1), st.integers(0, 10_000))
def test_noise_is_a_function_of_seed_and_position(seed: int, position: int) -> None:
    assert 0 <= uniform(seed, position) < 1
    assert uniform(seed, position) == uniform(seed, position)
    assert uniform(seed, position) != uniform(seed, position + 1)
    assert uniform(seed, position) != uniform(seed + 1, position)


@given(st.integers(0, 1000), st.sampled_from([0, 1, 5, 40]), st.floats(0.01, 1))
def test_a_draw_is_always_a_token_of_the_vocabulary(seed: int, top_k: int, top_p: float) -> None:
    logits_V = logits_of(40, seed)
    token = draw(logits_V, Sampling(top_k=top_k, top_p=top_p, temperature=0.7), seed, 0)
    assert 0 <= token < 40
    if top_k:
        assert token in logits_V.topk(top_k).indices.tolist()


def test_logprobs_are_of_the_models_own_scores() -> None:
    logits_V = logits_of(30)
    expected = torch.log_softmax(logits_V.double(), -1)
    found = logprobs_of(logits_V, 7, top=5)
    assert found.logprob == pytest.approx(float(expected[7]))
    assert [i for i, _ in found.top] == expected.topk(5).indices.tolist()


def test_min_p_keeps_what_is_not_far_below_the_likeliest() -> None:
    logits_V = torch.tensor([0.6, 0.25, 0.1, 0.05]).log()
    found = frequencies(logits_V, Sampling(min_p=0.3))
    assert distance(found, torch.tensor([0.6, 0.25, 0, 0], dtype=torch.float64) / 0.85) < 0.03


def test_a_draw_over_a_large_vocabulary_follows_the_softmax() -> None:
    logits_V = logits_of(1000)  # several blocks and a part of one
    expected = torch.softmax(logits_V.double(), -1)
    parts = frequencies(logits_V, Sampling()).split(100), expected.split(100)
    for found, wanted in zip(*parts, strict=True):
        assert float(found.sum()) == pytest.approx(float(wanted.sum()), abs=0.03)


@given(st.integers(0, 500), st.floats(0.05, 5))
def test_a_draw_is_the_inverse_of_the_cumulative_distribution(seed: int, spread: float) -> None:
    logits_V = logits_of(700, seed).double() * spread
    edges_V = torch.softmax(logits_V, -1).cumsum(0)
    token = draw(logits_V, Sampling(), seed, 3)
    number = uniform(seed, 3)
    assert (edges_V[token - 1] if token else 0) - 1e-9 <= number <= edges_V[token] + 1e-9


def test_a_token_of_no_weight_is_never_drawn() -> None:
    logits_V = torch.full((600,), -torch.inf)
    logits_V[[3, 511]] = 0.0
    assert {draw(logits_V, Sampling(), 1, i) for i in range(50)} == {3, 511}


def test_penalties_count_the_answer_and_repetition_also_the_prompt() -> None:
    logits_V = torch.tensor([2.0, -1.0, 0.5, 3.0])
    said = adjusted(
        logits_V, Sampling(presence_penalty=0.5, frequency_penalty=0.25), [3], [0, 0, 2]
    )
    assert said.tolist() == [2.0 - 0.5 - 0.5, -1.0, 0.5 - 0.5 - 0.25, 3.0]
    said = adjusted(logits_V, Sampling(repetition_penalty=2.0), [1], [3, 3])
    assert said.tolist() == [2.0, -2.0, 0.5, 1.5]
    said = adjusted(logits_V, Sampling(logit_bias={1: 10.0, 3: -100.0}), [], [])
    assert said.tolist() == [2.0, 9.0, 0.5, -97.0]
    assert logits_V.tolist() == [2.0, -1.0, 0.5, 3.0]
    assert adjusted(logits_V, Sampling(), [1], [2]) is logits_V
