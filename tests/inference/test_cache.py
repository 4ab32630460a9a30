"""Rows are shared out and handed back; what they held is remembered, once, within the budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bessemer.inference.blocks import BLOCK_TOKENS, common_blocks, extend_chain
from bessemer.inference.cache import KVCache, Reuse, Row
from tests.inference.conftest import CONFIGS


def cache_of(rows: int = 3, budget_tokens: int = 20_000, context_length: int = 4096) -> KVCache:
    bytes_per_token = 2 * 4 * 8 * 4  # layers, keys and values, head size, float32
    cache = KVCache(
        CONFIGS["llama"],
        torch.float32,
        rows=rows,
        context_length=context_length,
        kv_bytes=budget_tokens * bytes_per_token,
    )
    assert cache.bytes_per_token == bytes_per_token
    assert cache.budget_tokens == max(budget_tokens, context_length)
    return cache


def compute(cache: KVCache, row: Row, count: int | None = None) -> None:
    """As a step does: the next tokens' keys and values are said by all tokens up to them."""
    end = len(row.tokens) if count is None else min(len(row.tokens), row.computed + count)
    for place in range(row.computed, end):
        for layer_2RKSE in cache.layers_2RKSE:
            layer_2RKSE[:, row.index, :, place] = said_by(row.tokens[: place + 1], row.salt)
    row.computed = end


def said_by(ids: list[int], salt: bytes = b"") -> float:
    return float(sum((i + 1) * (token + 1) for i, token in enumerate(ids)) + 10_000 * len(salt))


def held(cache: KVCache, row: Row) -> list[float]:
    values: list[float] = cache.layers_2RKSE[1][0, row.index, 0, : row.computed, 0].tolist()
    return values


def fill(cache: KVCache, ids: list[int], salt: bytes = b"") -> int:
    """Run a sequence to its end; says how much of it was known."""
    row = cache.acquire(ids, salt=salt)
    assert row is not None
    known = row.computed
    compute(cache, row)
    cache.release(row)
    return known


def test_no_row_is_given_twice() -> None:
    cache = cache_of(rows=2)
    rows = [cache.acquire([1, 2, 3]) for _ in range(3)]
    assert rows[0] is not None and rows[1] is not None and rows[0] is not rows[1]
    assert rows[2] is None


def test_more_prefixes_are_remembered_than_there_are_rows() -> None:
    cache = cache_of(rows=2)
    prompts = [[n] * 100 for n in range(50)]
    assert [fill(cache, ids) for ids in prompts] == [0] * 50
    assert [fill(cache, ids) for ids in prompts] == [96] * 50


def test_what_many_share_is_held_once() -> None:
    cache = cache_of(rows=2)
    system = list(range(1000))
    for n in range(40):
        fill(cache, system + [n] * 24)
    shared, own = 1000 // BLOCK_TOKENS, 2  # 1,024 tokens are 64 blocks, of which 62 are shared
    assert len(cache.store) == shared + 40 * own


def test_a_prefix_is_copied_out_of_a_row_that_still_runs() -> None:
    cache = cache_of()
    first = cache.acquire([1] * 100)
    assert first is not None
    compute(cache, first, 70)
    second = cache.acquire([1] * 100)
    assert second is not None and second.computed == 64
    assert held(cache, second) == [said_by([1] * (n + 1)) for n in range(64)]


def test_tokens_that_were_taken_back_are_not_found_again() -> None:
    """A guess goes into its row before it is known to be right."""
    cache = cache_of()
    row = cache.acquire([1] * 70)
    assert row is not None
    compute(cache, row)
    looker = cache.acquire([1] * 70)  # looks at what the row has by now
    assert looker is not None and looker.computed == 64
    row.computed, row.tokens = 40, [1] * 40 + [2] * 30
    compute(cache, row)
    cache.release(looker)
    cache.release(row)
    again = cache.acquire([1] * 40 + [2] * 31)
    assert again is not None and again.computed == 64
    assert held(cache, again)[-1] == said_by([1] * 40 + [2] * 24)


def test_a_salt_keeps_equal_tokens_apart() -> None:
    cache = cache_of()
    assert fill(cache, [1] * 64, b"adapter") == 0
    assert fill(cache, [1] * 64) == 0
    assert fill(cache, [1] * 64, b"adapter") == 63


def test_memory_beyond_the_budget_goes_back_to_the_system() -> None:
    cache = cache_of(rows=3, budget_tokens=4096)
    for n in range(3):
        fill(cache, [n] * 2048)
    assert cache.held_tokens <= 4096
    assert fill(cache, [2] * 2048) == 2047  # the newest is still there
    assert fill(cache, [0] * 2048) < 2047  # the oldest is not, or not whole


def test_pages_behind_a_short_sequence_are_counted_and_given_back() -> None:
    cache = cache_of(rows=1, budget_tokens=4096)
    fill(cache, [1] * 4000)
    row = cache.acquire([2] * 100)
    assert row is not None
    compute(cache, row)
    cache.trim()
    assert cache.held_tokens <= 4096
    unread_KSE = cache.layers_2RKSE[1][0, 0, :, 1024:3968]
    assert float(unread_KSE.abs().sum()) == 0  # whole pages read as zeros again
    assert held(cache, row) == [said_by([2] * (n + 1)) for n in range(100)]


def test_giving_back_takes_nothing_from_neighbors() -> None:
    cache = cache_of(rows=3)
    rows = [cache.acquire([n] * 4096) for n in (1, 2, 3)]
    for row in rows:
        assert row is not None
        compute(cache, row, 4096)
    first, second, third = (row for row in rows if row is not None)
    cache.release(second)
    cache.budget_tokens = 0
    cache.trim()
    assert second.backed == 0
    assert held(cache, first) == [said_by([1] * (n + 1)) for n in range(4096)]
    assert held(cache, third) == [said_by([3] * (n + 1)) for n in range(4096)]


def test_clearing_forgets_everything() -> None:
    cache = cache_of()
    fill(cache, [1] * 200)
    cache.clear()
    assert cache.held_tokens == 0
    assert fill(cache, [1] * 200) == 0


def test_scores_are_reused_only_where_all_are_known() -> None:
    cache = cache_of()
    ids = list(range(40))
    row = cache.acquire(ids, "scored prefix")
    assert row is not None
    compute(cache, row)
    row.scores[1:20] = -1.0  # those of the places from 20 on are missing
    cache.release(row)
    again = cache.acquire(ids, "scored prefix")
    assert again is not None
    # Place 19 is computed again, since its output scores the token at 20.
    assert again.computed == 19
    assert again.scores[1:20].tolist() == [-1.0] * 19
    compute(cache, again)
    again.scores[1:40] = -2.0
    cache.release(again)
    third = cache.acquire(ids, "scored prefix")
    assert third is not None and third.computed == 31
    plain = cache.acquire(ids)
    assert plain is not None and plain.computed == 32


@given(st.lists(st.integers(0, 1), max_size=70), st.lists(st.integers(0, 1), max_size=70))
def test_chains_agree_exactly_where_whole_blocks_do(one: list[int], other: list[int]) -> None:
    chains: list[list[bytes]] = [[], []]
    for chain, ids in zip(chains, (one, other), strict=True):
        extend_chain(chain, ids[:20])  # bit by bit is the same as at once
        extend_chain(chain, ids)
    equal = 0
    while (equal + 1) * BLOCK_TOKENS <= min(len(one), len(other)) and one[
        : (equal + 1) * BLOCK_TOKENS
    ] == other[: (equal + 1) * BLOCK_TOKENS]:
        equal += 1
    assert common_blocks(*chains) == equal


@pytest.mark.parametrize("context_length", [96, 100])
def test_a_device_that_allocates_at_once_stays_within_its_bytes(context_length: int) -> None:
    kv_bytes = 1000 * 2 * 4 * 8 * 4
    cache = KVCache(
        CONFIGS["llama"],
        torch.float32,
        rows=32,
        context_length=context_length,
        kv_bytes=kv_bytes,
        device=torch.device("meta"),
    )
    places = (
        cache.layers_2RKSE[0].shape[1] * cache.context_length + len(cache.store.free) * BLOCK_TOKENS
    )
    assert len(cache.rows) == 1000 // context_length
    assert 1000 - BLOCK_TOKENS < places <= 1000


class CacheMachine(RuleBasedStateMachine):
    """Sequences over two tokens come, run, grow and go, in any order, on little memory."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = cache_of(rows=3, budget_tokens=160, context_length=96)
        self.running: list[Row] = []
        self.chains: list[list[bytes]] = []

    @precondition(lambda self: len(self.running) < 3)
    @rule(
        runs=st.lists(st.tuples(st.integers(0, 1), st.integers(1, 40)), min_size=1, max_size=3),
        reuse=st.sampled_from(["prefix", "scored prefix", "nothing"]),
        salt=st.sampled_from([b"", b"a"]),
    )
    def begin(self, runs: list[tuple[int, int]], reuse: Reuse, salt: bytes) -> None:
        ids = [token for token, count in runs for _ in range(count)][:80]
        row = self.cache.acquire(ids, reuse, salt)
        assert row is not None and row not in self.running
        assert row.computed < len(ids)
        assert len(row.scores) == len(ids)
        if reuse == "scored prefix":
            assert not np.isnan(row.scores[1 : row.computed + 1]).any() or row.computed == 0
        self.running.append(row)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 2), count=st.integers(1, 40), scored=st.booleans())
    def step(self, which: int, count: int, scored: bool) -> None:
        row = self.running[which % len(self.running)]
        begin = row.computed
        compute(self.cache, row, count)
        if scored:
            for place in range(begin + 1, min(row.computed + 1, len(row.scores))):
                row.scores[place] = -said_by(row.tokens[: place + 1], row.salt)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 2), token=st.integers(0, 1))
    def draw(self, which: int, token: int) -> None:
        row = self.running[which % len(self.running)]
        if row.computed == len(row.tokens) < 96:
            row.tokens.append(token)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 2), count=st.integers(1, 20), other=st.lists(st.integers(0, 1)))
    def take_back(self, which: int, count: int, other: list[int]) -> None:
        """A guess was wrong: the last tokens are others."""
        row = self.running[which % len(self.running)]
        length = len(row.scores)
        if row.computed == len(row.tokens) > length + count:
            kept = len(row.tokens) - count
            row.tokens = [*row.tokens[:kept], *other][:96]
            row.computed = kept

    @rule(count=st.integers(20, 60), token=st.integers(0, 1))
    def draw_many(self, count: int, token: int) -> None:
        for row in self.running:
            row.tokens = (row.tokens + [token] * count)[:96]
            compute(self.cache, row)

    @precondition(lambda self: len(self.running) < 3)
    @rule(head=st.sampled_from([0, 20, 40]), tail=st.integers(0, 9), length=st.integers(16, 90))
    def whole(self, head: int, tail: int, length: int) -> None:
        """One of many that have the same beginning, to its end."""
        row = self.cache.acquire(([0] * head + [tail] * 90)[:length])
        assert row is not None
        compute(self.cache, row)
        self.running.append(row)
        self.end(len(self.running) - 1)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 2))
    def end(self, which: int) -> None:
        row = self.running.pop(which % len(self.running))
        self.chains.append(row.whole_blocks())
        self.cache.release(row)
        assert self.cache.held_tokens <= max(self.cache.budget_tokens, self.cache.busy_tokens)

    @rule()
    def trim(self) -> None:
        self.cache.trim()
        assert self.cache.held_tokens <= max(self.cache.budget_tokens, self.cache.busy_tokens)

    @precondition(lambda self: not self.running)
    @rule()
    def clear(self) -> None:
        self.cache.clear()
        assert self.cache.held_tokens == 0

    @invariant()
    def what_is_said_to_be_computed_is_in_the_row(self) -> None:
        for row in self.running:
            prefixes = (row.tokens[: n + 1] for n in range(row.computed))
            assert held(self.cache, row) == [said_by(ids, row.salt) for ids in prefixes]

    @invariant()
    def known_scores_are_of_these_tokens(self) -> None:
        for row in self.running:
            for place in np.flatnonzero(~np.isnan(row.scores)):
                assert row.scores[place] == -said_by(row.tokens[: place + 1], row.salt)

    @invariant()
    def blocks_are_neither_lost_nor_held_twice(self) -> None:
        store = self.cache.store
        used = [block.index for block in store.blocks.values()]
        assert sorted([*used, *store.free]) == list(range(160 // BLOCK_TOKENS))

    @invariant()
    def no_block_is_left_without_the_one_before_it(self) -> None:
        store = self.cache.store
        for chain in self.chains:
            assert store.longest(chain) == sum(digest in store.blocks for digest in chain)


TestCacheMachine: Any = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
