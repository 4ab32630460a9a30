"""Rows are shared out, remembered, and handed back."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from bessemer.inference.cache import KVCache
from tests.inference.conftest import CONFIGS


def cache_of(rows: int = 3, budget_tokens: int = 1000) -> KVCache:
    cache = KVCache(CONFIGS["llama"], torch.float32, rows=rows, context_length=4096, kv_bytes=1)
    assert cache.budget_tokens == 4096  # a whole row, however little memory is asked for
    cache.budget_tokens = budget_tokens
    return cache


def fill(cache: KVCache, ids: list[int]) -> int:
    """Run a sequence to its end; the row's values are its token ids."""
    row = cache.acquire(ids)
    assert row is not None
    for layer_RSGE in cache.layers_RSGE:
        for place in range(row.computed, len(ids)):
            layer_RSGE[row.index, place] = ids[place]
    row.computed = len(ids)
    cache.release(row)
    return row.index


def held(cache: KVCache, row: int, count: int) -> list[int]:
    return cache.layers_RSGE[1][row, :count, 0, 0].int().tolist()


def test_no_row_is_given_twice() -> None:
    cache = cache_of(rows=2)
    rows = [cache.acquire([1, 2, 3]) for _ in range(3)]
    assert rows[0] is not None and rows[1] is not None and rows[0] is not rows[1]
    assert rows[2] is None


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=8), min_size=1, max_size=20))
def test_what_is_said_to_be_computed_is_in_the_row(texts: list[list[int]]) -> None:
    cache = cache_of()
    for ids in texts:
        row = cache.acquire(ids)
        assert row is not None
        assert row.computed < len(ids)
        assert held(cache, row.index, row.computed) == ids[: row.computed]
        cache.release(row)
        fill(cache, ids)


def test_memory_beyond_the_budget_goes_back_to_the_system() -> None:
    cache = cache_of(rows=3, budget_tokens=1500)
    first = fill(cache, [1] * 1000)
    second = fill(cache, [2] * 1000)
    assert cache.held_tokens == 1000
    assert held(cache, second, 1000) == [2] * 1000
    # The oldest was forgotten: its whole pages read as zeros again.
    assert sum(held(cache, first, 1000)) < 1000


def test_a_forgotten_row_takes_nothing_from_its_neighbors() -> None:
    cache = cache_of(rows=3, budget_tokens=20_000)
    rows = [fill(cache, [n] * 4096) for n in (1, 2, 3)]
    cache.forget(cache.rows[rows[1]])
    assert held(cache, rows[0], 4096) == [1] * 4096
    assert held(cache, rows[2], 4096) == [3] * 4096


def test_scores_are_reused_only_where_all_are_known() -> None:
    cache = cache_of()
    row = cache.acquire([1, 2, 3, 4, 5], "scored prefix")
    assert row is not None
    row.computed = 5
    row.scores[1:4] = -1.0  # the score of the last token is missing
    cache.release(row)
    again = cache.acquire([1, 2, 3, 4, 5], "scored prefix")
    assert again is not None
    # Place 3 is computed again, since its output scores the token at 4.
    assert again.computed == 3
