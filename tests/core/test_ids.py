"""Identifiers sort as they were made, whatever the clock does."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.core import ids
from bessemer.core.ids import created_ms, new_id


@given(st.integers(min_value=2, max_value=50))
def test_ids_sort_in_the_order_they_were_made(count: int) -> None:
    made = [new_id("run") for _ in range(count)]
    assert made == sorted(made)
    assert len(set(made)) == count


def test_ids_of_many_threads_are_unique_and_each_thread_sees_them_grow() -> None:
    with ThreadPoolExecutor(4) as pool:
        batches = list(pool.map(lambda _: [new_id("x") for _ in range(500)], range(4)))
    assert all(batch == sorted(batch) for batch in batches)
    assert len({identifier for batch in batches for identifier in batch}) == 2000


def test_a_clock_that_steps_back_does_not_break_the_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Later tests must not inherit a number from the future.
    monkeypatch.setattr(ids, "_last", ids._last)
    first = new_id("run")
    hour_ago_ns = time.time_ns() - 3_600_000_000_000
    monkeypatch.setattr(ids.time, "time_ns", lambda: hour_ago_ns)
    later = [new_id("run") for _ in range(10)]
    assert [first, *later] == sorted([first, *later])
    assert len({first, *later}) == 11


def test_an_id_knows_when_it_was_made() -> None:
    before = time.time_ns() // 1_000_000
    made = created_ms(new_id("run"))
    assert before <= made <= time.time_ns() // 1_000_000 + 1


@given(st.text(max_size=40).filter(lambda text: len(text.rpartition("_")[2]) != 26))
def test_what_is_not_an_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        created_ms(text)


def test_an_id_with_a_letter_outside_the_alphabet_is_refused() -> None:
    with pytest.raises(ValueError):
        created_ms("run_" + "u" * 26)
