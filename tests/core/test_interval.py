"""The interval holds as often as it says, and treats two models alike."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.core.interval import Pair, Share, paired_interval, sign_test, student_quantile

numbers = st.floats(0, 50, allow_nan=False)
pairs_of_losses = st.lists(
    st.builds(
        lambda cluster, a, b, tokens: Pair(cluster, Share(a, tokens), Share(b, tokens)),
        st.integers(0, 8),
        numbers,
        numbers,
        st.integers(1, 40),
    ),
    min_size=2,
    max_size=40,
)


def swapped(pairs: list[Pair]) -> list[Pair]:
    return [Pair(pair.cluster, pair.candidate, pair.baseline) for pair in pairs]


@given(pairs_of_losses)
@settings(max_examples=60, deadline=None)
def test_swapping_the_models_flips_the_signs(pairs: list[Pair]) -> None:
    there = paired_interval(pairs, resamples=1000)
    back = paired_interval(swapped(pairs), resamples=1000)
    assert back.value == pytest.approx(-there.value, abs=1e-9)
    if there.low is None or there.high is None:
        assert there.clusters == 1
        return
    assert back.low == pytest.approx(-there.high, abs=1e-9)
    assert back.high == pytest.approx(-there.low, abs=1e-9)
    assert sign_test(pairs) == sign_test(swapped(pairs))


@given(pairs_of_losses)
@settings(max_examples=30, deadline=None)
def test_a_model_against_itself_differs_by_exactly_nothing(pairs: list[Pair]) -> None:
    same = [Pair(pair.cluster, pair.baseline, pair.baseline) for pair in pairs]
    found = paired_interval(same, resamples=1000)
    assert found.value == 0
    assert found.low in (0, None) and found.high in (0, None)
    assert sign_test(same) == 1


@given(pairs_of_losses, st.floats(0.01, 100))
@settings(max_examples=30, deadline=None)
def test_losses_in_another_unit_give_the_same_interval_in_that_unit(
    pairs: list[Pair], unit: float
) -> None:
    scaled = [
        Pair(p.cluster, Share(p.baseline.amount * unit, p.baseline.weight),
             Share(p.candidate.amount * unit, p.candidate.weight))
        for p in pairs
    ]  # fmt: skip
    plain, other = paired_interval(pairs, resamples=1000), paired_interval(scaled, resamples=1000)
    assert other.value == pytest.approx(plain.value * unit, rel=1e-6, abs=1e-9)
    if plain.low is not None and plain.high is not None:
        assert other.low == pytest.approx(plain.low * unit, rel=1e-6, abs=1e-9)
        assert other.high == pytest.approx(plain.high * unit, rel=1e-6, abs=1e-9)


@given(pairs_of_losses)
@settings(max_examples=30, deadline=None)
def test_order_within_a_cluster_does_not_matter(pairs: list[Pair]) -> None:
    pairs.sort(key=lambda pair: pair.cluster)
    backwards = pairs[::-1]
    other = sorted(backwards, key=lambda pair: pair.cluster)
    ours, theirs = paired_interval(pairs, resamples=1000), paired_interval(other, resamples=1000)
    assert ours.low == pytest.approx(theirs.low, abs=1e-9)
    assert ours.high == pytest.approx(theirs.high, abs=1e-9)


def test_the_value_is_the_difference_of_the_ratios_not_the_mean_of_ratios() -> None:
    pairs = [
        Pair("a", Share(10, 10), Share(5, 10)),
        Pair("b", Share(3, 1), Share(4, 1)),
    ]
    assert paired_interval(pairs).value == pytest.approx(9 / 11 - 13 / 11)


def test_the_same_seed_gives_the_same_interval_and_another_does_not() -> None:
    pairs = _normal_pairs(30, np.random.default_rng(0))
    assert paired_interval(pairs, seed=1) == paired_interval(pairs, seed=1)
    assert paired_interval(pairs, seed=1) != paired_interval(pairs, seed=2)


def test_it_equals_the_formula_where_there_is_one() -> None:
    """Equal weights, normal differences: the mean plus and minus t times s / sqrt(n)."""
    n = 60
    pairs = _normal_pairs(n, np.random.default_rng(5))
    differences = np.array([pair.candidate.amount - pair.baseline.amount for pair in pairs])
    error = differences.std(ddof=1) / math.sqrt(n)
    t = 2.0010  # Student's t at 0.975 with 59 degrees of freedom, from a table
    found = paired_interval(pairs, resamples=40_000)
    assert found.value == pytest.approx(differences.mean())
    assert found.low == pytest.approx(differences.mean() - t * error, abs=0.05 * error)
    assert found.high == pytest.approx(differences.mean() + t * error, abs=0.05 * error)


def test_items_of_one_symbol_are_drawn_together() -> None:
    """Each item ten times over is no more evidence; as if independent, it would seem to be."""
    rng = np.random.default_rng(3)
    once = _normal_pairs(30, rng)
    repeated = [pair for pair in once for _ in range(10)]
    apart = [Pair(i, p.baseline, p.candidate) for i, p in enumerate(repeated)]
    width = _width(once)
    assert _width(repeated) == pytest.approx(width, rel=1e-6)
    assert _width(apart) < 0.4 * width


def test_blocks_of_resamples_cover_all_of_them() -> None:
    """More clusters than fit a block at once still give one spread."""
    rng = np.random.default_rng(4)
    n = 3000
    pairs = _normal_pairs(n, rng)
    differences = np.array([pair.candidate.amount - pair.baseline.amount for pair in pairs])
    found = paired_interval(pairs, resamples=2000)
    expected = 2 * 1.96 * differences.std() / math.sqrt(n)
    assert found.low is not None and found.high is not None
    assert found.high - found.low == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("freedom", "table"), [(9, 2.2622), (15, 2.1314), (30, 2.0423), (120, 1.9799)]
)
def test_student_quantiles_are_those_of_the_tables(freedom: int, table: float) -> None:
    assert student_quantile(0.975, freedom) == pytest.approx(table, abs=1e-3)
    assert student_quantile(0.025, freedom) == pytest.approx(-table, abs=1e-3)


@pytest.mark.parametrize(
    ("wins", "losses", "p"), [(4, 0, 0.125), (6, 0, 0.03125), (5, 5, 1.0), (9, 1, 0.021484375)]
)
def test_sign_test_is_the_binomial_tail(wins: int, losses: int, p: float) -> None:
    right, wrong = Share(1, 1), Share(0, 1)
    pairs = [Pair(i, wrong, right) for i in range(wins)]
    pairs += [Pair(100 + i, right, wrong) for i in range(losses)]
    pairs += [Pair(1000 + i, right, right) for i in range(50)]
    assert sign_test(pairs) == pytest.approx(p)


def test_sign_test_of_thousands_does_not_overflow() -> None:
    pairs = [Pair(i, Share(0, 1), Share(i % 2, 1)) for i in range(6000)]
    assert sign_test(pairs) == 0.0


@pytest.mark.parametrize("clusters", [24, 64])
def test_ninety_five_percent_intervals_hold_about_ninety_five_percent_of_the_time(
    clusters: int,
) -> None:
    """Skewed losses on answers of very different lengths, as measured ones are."""
    truth = _skewed_truth()
    rng = np.random.default_rng(11)
    rounds = 1200
    held = 0
    for round_ in range(rounds):
        found = paired_interval(_skewed_pairs(clusters, rng), resamples=1000, seed=round_)
        assert found.low is not None and found.high is not None
        held += found.low <= truth <= found.high
    # 92% to 97%: three standard errors of 1,200 rounds are 1.9 points.
    assert 0.92 <= held / rounds <= 0.97


def _width(pairs: list[Pair]) -> float:
    found = paired_interval(pairs)
    assert found.low is not None and found.high is not None
    return found.high - found.low


def _normal_pairs(n: int, rng: np.random.Generator) -> list[Pair]:
    return [
        Pair(i, Share(0.0, 1.0), Share(float(value), 1.0))
        for i, value in enumerate(rng.normal(1.0, 2.0, n))
    ]


def _skewed(n: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:  # type: ignore[type-arg]
    tokens = np.clip(rng.lognormal(3, 0.9, n), 2, 200).round()
    baseline = rng.gamma(3, 1, n) * tokens
    gain = -rng.gamma(1.2, 0.5, n) + 0.3 * rng.standard_normal(n)
    return tokens, baseline, baseline + gain * tokens * (20 / tokens) ** 0.3


def _skewed_pairs(n: int, rng: np.random.Generator) -> list[Pair]:
    rows = zip(*(column.tolist() for column in _skewed(n, rng)), strict=True)
    return [Pair(i, Share(a, tokens), Share(b, tokens)) for i, (tokens, a, b) in enumerate(rows)]


def _skewed_truth() -> float:
    tokens, baseline, candidate = _skewed(2_000_000, np.random.default_rng(1))
    return float((candidate - baseline).sum() / tokens.sum())
