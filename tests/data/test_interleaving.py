"""Mixtures: never a whole turn ahead or behind, at any position, both ways."""

from __future__ import annotations

import doctest
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.core.errors import InvalidInput
from bessemer.data import interleaving
from bessemer.data.interleaving import LONGEST_PERIOD, Interleaving

weights = st.lists(
    st.one_of(
        st.integers(1, 9),
        st.floats(1e-6, 1e6, allow_subnormal=False),
        st.fractions(Fraction(1, 12), 20, max_denominator=12),
    ),
    min_size=1,
    max_size=8,
)
positions = st.integers(0, 2**50)


@settings(deadline=None, max_examples=60)
@given(given_weights=weights, first=positions)
def test_no_source_is_ever_a_whole_turn_ahead_or_behind(
    given_weights: list[float | Fraction], first: int
) -> None:
    mixture = Interleaving(given_weights)
    counts = [mixture.count(source, first) for source in range(len(given_weights))]
    assert sum(counts) == first
    for end in range(first + 1, first + 100):
        turn = mixture.at(end - 1)
        assert turn.number == counts[turn.source]
        counts[turn.source] += 1
        for count, turns in zip(counts, mixture.turns, strict=True):
            assert abs(count * mixture.period - turns * end) < mixture.period


@settings(deadline=None, max_examples=60)
@given(given_weights=weights, position=positions)
def test_a_turn_leads_back_to_its_position(
    given_weights: list[float | Fraction], position: int
) -> None:
    mixture = Interleaving(given_weights)
    assert mixture.position(*mixture.at(position)) == position
    for source in range(len(given_weights)):
        index = position % 10_000
        assert mixture.at(mixture.position(source, index)) == (source, index)


@settings(deadline=None, max_examples=60)
@given(given_weights=weights)
def test_shares_are_the_weights(given_weights: list[float | Fraction]) -> None:
    mixture = Interleaving(given_weights)
    exact = [w if isinstance(w, Fraction) else Fraction(repr(w)) for w in given_weights]
    for turns, weight in zip(mixture.turns, exact, strict=True):
        off = abs(Fraction(turns, mixture.period) - weight / sum(exact))
        if mixture.period < LONGEST_PERIOD:
            assert off == 0
        assert off < Fraction(len(exact), LONGEST_PERIOD)


def test_simple_weights_have_a_short_period_and_are_met_exactly() -> None:
    assert Interleaving([0.5, 0.3, 0.2]).turns == [5, 3, 2]
    assert Interleaving([3.0, 1]).turns == [3, 1]
    assert Interleaving([7]).period == 1
    assert Interleaving([Fraction(1, 3), Fraction(2, 3)]).turns == [1, 2]


def test_the_rarest_source_still_has_a_turn() -> None:
    mixture = Interleaving([1e6, 1e-3, 1e-3])
    assert mixture.turns == [LONGEST_PERIOD - 2, 1, 1]
    assert mixture.at(mixture.position(2, 5)) == (2, 5)


def test_many_positions_of_a_source_at_once() -> None:
    mixture = Interleaving([2, 5, 1])
    sources = np.array([mixture.at(k).source for k in range(800)])
    for source in range(3):
        found = mixture.positions(source, np.arange(90))
        assert found.tolist() == np.flatnonzero(sources == source)[:90].tolist()


@pytest.mark.parametrize("wrong", [[], [0.0, 1], [-1.0], [float("nan"), 1], [float("inf")]])
def test_what_is_no_mixture_is_refused(wrong: list[float]) -> None:
    with pytest.raises(InvalidInput, match="a mixture"):
        Interleaving(wrong)
    with pytest.raises(InvalidInput, match="1 to 256"):
        Interleaving([1.0] * 257)


def test_the_examples_in_the_docstring_hold() -> None:
    assert doctest.testmod(interleaving).failed == 0
