"""The order of data: every item once an epoch, the same everywhere, both ways, well mixed."""

from __future__ import annotations

import doctest
import math
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.data import order
from bessemer.data.order import Order, Permutation, Place

counts = st.one_of(st.integers(1, 70), st.integers(1, 3000))
seeds = st.integers(-(2**40), 2**40)


@settings(deadline=None)
@given(count=counts, seed=seeds)
def test_a_permutation_visits_everything_once_and_goes_back(count: int, seed: int) -> None:
    shuffle = Permutation(count, str(seed))
    there = shuffle.forward_all(range(count))
    assert np.array_equal(np.sort(there), np.arange(count))
    assert np.array_equal(shuffle.inverse_all(there), np.arange(count))


@settings(deadline=None)
@given(count=st.integers(1, order.MOST), index=st.integers(0), key=st.text(max_size=5))
def test_one_number_and_an_array_of_them_go_the_same_way(count: int, index: int, key: str) -> None:
    shuffle, index = Permutation(count, key), index % count
    item = shuffle.forward(index)
    assert 0 <= item < count
    assert shuffle.inverse(item) == index
    assert shuffle.forward_all([index]).tolist() == [item]
    assert shuffle.inverse_all([item] * order.FEW).tolist() == [index] * order.FEW


@settings(deadline=None)
@given(count=counts, seed=seeds, position=st.integers(0, 2**40), shuffle=st.booleans())
def test_a_position_has_one_place_and_the_place_that_position(
    count: int, seed: int, position: int, shuffle: bool
) -> None:
    there = Order(count, seed, shuffle=shuffle)
    place = there.at(position)
    assert place.epoch == position // count
    assert there.position(place) == position


@settings(deadline=None, max_examples=50)
@given(
    count=st.integers(1, 40),
    seed=seeds,
    end=st.integers(0, 150),
    chosen=st.sets(st.integers(0, 39)),
    shuffle=st.booleans(),
)
def test_positions_of_items_are_those_a_scan_finds(
    count: int, seed: int, end: int, chosen: set[int], shuffle: bool
) -> None:
    there, wanted = Order(count, seed, shuffle=shuffle), sorted(i for i in chosen if i < count)
    scanned = [p for p in range(end) if there.at(p).item in wanted]
    assert there.positions(wanted, end).tolist() == scanned


def test_the_order_is_the_same_on_every_machine() -> None:
    assert Permutation(8, "pinned").forward_all(range(8)).tolist() == [6, 3, 5, 1, 0, 2, 4, 7]
    assert Permutation(10**12, "pinned").forward(123_456_789) == 776_625_602_835
    assert Permutation(2**62, "pinned").forward(2**62 - 1) == 1_344_989_867_810_533_103
    assert Order(10, seed=1).at(12) == Place(epoch=1, item=7)


def test_seeds_epochs_and_purposes_have_orders_of_their_own() -> None:
    def first(there: Order, epoch: int = 0) -> tuple[int, ...]:
        return tuple(there.at(epoch * 20 + i).item for i in range(20))

    orders = {first(Order(20, seed)) for seed in range(10)}
    orders |= {first(Order(20, seed=0), epoch) for epoch in range(10)}
    orders |= {first(Order(20, seed=0, purpose="chats"))}
    assert len(orders) == 20


def test_every_item_comes_as_often_to_every_index() -> None:
    size, draws = 13, 4000
    shuffled = np.stack(
        [Permutation(size, f"draw {i}").forward_all(range(size)) for i in range(draws)]
    )
    for index in range(size):
        counted = np.bincount(shuffled[:, index], minlength=size)
        chi_square = ((counted - draws / size) ** 2 / (draws / size)).sum()
        assert chi_square < 45  # 12 degrees of freedom: above 32.9 once in 1,000


def test_pairs_of_neighbors_are_as_common_as_any_others() -> None:
    size, draws = 6, 6000
    pairs = Counter[tuple[int, int]]()
    for i in range(draws):
        found = Permutation(size, f"draw {i}").forward_all([2, 3])
        pairs[int(found[0]), int(found[1])] += 1
    assert len(pairs) == size * (size - 1)
    expected = draws / len(pairs)
    assert max(abs(count - expected) for count in pairs.values()) < 6 * math.sqrt(expected)


def test_a_large_order_is_a_decent_shuffle() -> None:
    size = 100_000
    there = Permutation(size, "large").forward_all(range(size))
    displacement = np.abs(there - np.arange(size)).mean() / size
    assert abs(displacement - 1 / 3) < 0.005
    assert abs(np.corrcoef(there[:-1], there[1:])[0, 1]) < 0.015
    assert abs(np.corrcoef(there, np.arange(size))[0, 1]) < 0.015
    rising = (np.diff(there) > 0).mean()
    assert abs(rising - 1 / 2) < 0.01


def test_the_examples_in_the_docstring_hold() -> None:
    assert doctest.testmod(order).failed == 0
