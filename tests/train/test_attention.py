"""Block attention against the library's fused kernel, document by document."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.models.attention import PackedAttention
from bessemer.train.attention import BLOCK, LONGEST_KEPT, BlockAttention, segment_length


def inputs(tokens: int, heads: int, kv_heads: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(tokens, n, 4, generator=generator, dtype=torch.float64).requires_grad_()
        for n in (heads, kv_heads, kv_heads)
    ]


def check_equal(
    lengths: list[int], heads: int, kv_heads: int, seed: int = 0, window: int | None = None
) -> None:
    qkv = inputs(sum(lengths), heads, kv_heads, seed)
    ours = BlockAttention(lengths, torch.float64, [window])(0, *qkv)
    theirs = PackedAttention(lengths, windows=[window])(0, *qkv)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(9)).double()
    for mine, other in zip(
        torch.autograd.grad((ours * weights).sum(), qkv),
        torch.autograd.grad((theirs * weights).sum(), qkv),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 2 * BLOCK + 90), min_size=1, max_size=5),
    groups=st.sampled_from([(2, 2), (4, 2), (3, 1)]),
    seed=st.integers(0, 1000),
    window=st.none() | st.integers(1, 2 * BLOCK + 20),
)
def test_output_and_gradients_equal_the_fused_kernels(
    lengths: list[int], groups: tuple[int, int], seed: int, window: int | None
) -> None:
    check_equal(lengths, *groups, seed, window)


@pytest.mark.parametrize("window", [None, 1, 7, 300])
def test_both_attentions_are_a_softmax_over_what_the_mask_leaves(window: int | None) -> None:
    lengths = [40, 3, 290]
    q, k, v = inputs(sum(lengths), 2, 2)
    v = torch.cat((v, v[..., :2] * 2), dim=-1)  # values may be of another size than keys
    document = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    back = torch.arange(len(q))[:, None] - torch.arange(len(q))
    seen = (back >= 0) & (document[:, None] == document)
    if window is not None:
        seen &= back < window
    scores = torch.einsum("thd,shd->hts", q, k) / 4**0.5
    expected = torch.einsum("hts,shv->thv", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)
    for attend in (
        PackedAttention(lengths, windows=[None, window]),
        BlockAttention(lengths, torch.float64, [None, window]),
    ):
        torch.testing.assert_close(attend(1, q, k, v), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("lengths", "length"),
    [
        ([96], 96),
        ([96, 96, 96], 96),
        ([96, 40, 56, 1, 95], 96),
        ([48, 48, 96], 96),
        ([96, 40], 136),
        ([40, 96, 56], 192),
    ],
)
def test_segments_of_one_length_cut_no_document(lengths: list[int], length: int) -> None:
    assert segment_length(lengths) == length


@pytest.mark.parametrize("groups", [(2, 2), (4, 2)])
@pytest.mark.parametrize("window", [None, 7, 140])
@pytest.mark.parametrize("rows", [[[300]] * 3, [[100, 200], [300], [1, 299]]])
def test_segments_are_computed_together(
    rows: list[list[int]], groups: tuple[int, int], window: int | None
) -> None:
    lengths = [length for row in rows for length in row]
    assert segment_length(lengths) == 300
    check_equal(lengths, *groups, window=window)


def test_a_long_document_computes_its_probabilities_twice_and_agrees() -> None:
    check_equal([5, LONGEST_KEPT + 1, 7], 2, 1)


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_documents_cannot_see_each_other(changed: int) -> None:
    lengths = [100, 90, 150]
    bounds = [slice(0, 100), slice(100, 190), slice(190, 340)]
    qkv = [x.detach() for x in inputs(340, 2, 1)]
    attend = BlockAttention(lengths, torch.float64)
    before = attend(0, *qkv)
    for x in qkv:
        x[bounds[changed]] += 1.0
    after = attend(0, *qkv)
    for index, bound in enumerate(bounds):
        assert torch.equal(before[bound], after[bound]) == (index != changed)


def test_no_token_sees_a_later_one() -> None:
    qkv = [x.detach() for x in inputs(200, 2, 2)]
    attend = BlockAttention([200], torch.float64)
    before = attend(0, *qkv)
    for x in qkv:
        x[150] += 1.0
    assert torch.equal(before[:150], attend(0, *qkv)[:150])
