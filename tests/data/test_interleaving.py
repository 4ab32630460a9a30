"""Turns of a mixture: always within one of the share, any position looked up, both ways."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.data import interleaving
from bessemer.data.interleaving import LONGEST_PERIOD, Interleaving, Turn

WEIGHTS = st.lists(st.integers(1, 40), min_size=1, max_size=7)


@given(weights=WEIGHTS, length=st.integers(1, 300))
def test_every_source_is_within_one_of_its_share_at_every_position(
    weights: list[int], length: int
) -> None:
    turns = Interleaving(weights)
    counts = [0] * len(weights)
    for position in range(length):
        source, index = turns.at(position)
        assert index == counts[source]
        counts[source] += 1
        for count, weight in zip(counts, weights, strict=True):
            assert abs(count - weight / sum(weights) * (position + 1)) < 1


@given(weights=WEIGHTS, position=st.integers(0, 10**15))
def test_position_is_the_inverse_of_at(weights: list[int], position: int) -> None:
    turns = Interleaving(weights)
    assert turns.position(*turns.at(position)) == position


def test_decimal_weights_mean_what_they_say() -> None:
    assert Interleaving([0.1, 0.2, 0.7]).shares == [1, 2, 7]
    assert Interleaving([3, 1]).shares == Interleaving([0.75, 0.25]).shares == [3, 1]


@given(weights=st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=5))
def test_odd_weights_are_rounded_to_a_period_that_can_be_held(weights: list[float]) -> None:
    turns = Interleaving(weights)
    assert turns.period <= LONGEST_PERIOD + len(weights)
    for share, weight in zip(turns.shares, weights, strict=True):
        assert abs(share / turns.period - weight / sum(weights)) < 1e-4


def test_one_source_has_every_turn() -> None:
    assert Interleaving([5.0]).at(7) == Turn(0, 7)


@pytest.mark.parametrize("weights", [[], [1, 0], [1, -1], [1, float("inf")]])
def test_weights_are_positive_numbers(weights: list[float]) -> None:
    with pytest.raises(AssertionError):
        Interleaving(weights)


def test_the_docstring_is_true() -> None:
    assert doctest.testmod(interleaving).failed == 0
