"""Packed attention is dense masked attention, computed another way; documents are blind."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bessemer.models.attention import PackedAttention, positions

lengths_of_documents = st.lists(st.integers(1, 40), min_size=1, max_size=8)
heads_and_kv_heads = st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)])
HEAD_DIM = 8


def random_qkv(tokens: int, heads: int, kv_heads: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(tokens, h, HEAD_DIM, generator=generator, dtype=torch.float64)
        for h in (heads, kv_heads, kv_heads)
    ]


def dense(lengths: list[int], q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> Tensor:
    """One (T, T) table of scores, everything outside the documents' triangles struck out."""
    group = q_THD.shape[1] // k_TKD.shape[1]
    k_THD, v_THD = (x.repeat_interleave(group, dim=1) for x in (k_TKD, v_TKD))
    scores_HTS = torch.einsum("thd,shd->hts", q_THD, k_THD) / HEAD_DIM**0.5
    document_T = torch.tensor([i for i, length in enumerate(lengths) for _ in range(length)])
    time_T = torch.arange(len(document_T))
    seen_TS = (document_T[:, None] == document_T) & (time_T[:, None] >= time_T)
    weights_HTS = scores_HTS.masked_fill(~seen_TS, float("-inf")).softmax(-1)
    return torch.einsum("hts,shd->thd", weights_HTS, v_THD)


@settings(max_examples=40, deadline=None)
@given(lengths_of_documents, heads_and_kv_heads)
def test_packed_equals_dense_and_so_do_its_gradients(
    lengths: list[int], heads: tuple[int, int]
) -> None:
    found = [x.requires_grad_() for x in random_qkv(sum(lengths), *heads)]
    expected = [x.detach().clone().requires_grad_() for x in found]
    mixed = PackedAttention(lengths)(0, *found)
    reference = dense(lengths, *expected)
    torch.testing.assert_close(mixed, reference, atol=1e-12, rtol=1e-10)
    probe = torch.randn(
        mixed.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    (mixed * probe).sum().backward()
    (reference * probe).sum().backward()
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-11, rtol=1e-9)


@settings(max_examples=40, deadline=None)
@given(lengths_of_documents.filter(lambda lengths: len(lengths) > 1), st.data())
def test_changing_one_document_leaves_the_others_bit_for_bit(
    lengths: list[int], data: st.DataObject
) -> None:
    chosen = data.draw(st.integers(0, len(lengths) - 1))
    start = sum(lengths[:chosen])
    inside = slice(start, start + lengths[chosen])
    before = [x.float() for x in random_qkv(sum(lengths), 4, 2)]
    after = [x.clone() for x in before]
    for x in after:
        x[inside] = x[inside] * -3 + 1
    attend = PackedAttention(lengths)
    changed_T = (attend(0, *before) != attend(0, *after)).flatten(1).any(1)
    assert changed_T[inside].all()
    changed_T[inside] = False
    assert not changed_T.any()


@settings(max_examples=40, deadline=None)
@given(lengths_of_documents)
def test_no_token_sees_what_comes_later(lengths: list[int]) -> None:
    q_THD, k_TKD, v_TKD = random_qkv(sum(lengths), 2, 2)
    v_TKD.requires_grad_()
    chosen = sum(lengths) // 2
    PackedAttention(lengths)(0, q_THD, k_TKD, v_TKD)[chosen].sum().backward()
    assert v_TKD.grad is not None
    seen_T = v_TKD.grad.flatten(1).any(1)
    time_T, place_T = torch.arange(sum(lengths)), positions(lengths)
    expected_T = (time_T <= chosen) & (time_T >= chosen - place_T[chosen])
    assert torch.equal(seen_T, expected_T)


@settings(deadline=None)
@given(lengths_of_documents)
def test_positions_begin_anew_in_each_document(lengths: list[int]) -> None:
    found = positions(lengths)
    assert found.dtype == torch.int64
    assert found.tolist() == [place for length in lengths for place in range(length)]


@pytest.mark.parametrize("lengths", [[0], [3, 0, 2], [-1]])
def test_documents_without_tokens_are_a_mistake(lengths: list[int]) -> None:
    with pytest.raises(AssertionError):
        PackedAttention(lengths)


@pytest.mark.parametrize("lengths", [[5], [2, 2]])
def test_lengths_that_are_not_those_of_the_tokens_are_a_mistake(lengths: list[int]) -> None:
    with pytest.raises(AssertionError):
        PackedAttention(lengths)(0, *random_qkv(6, 2, 2))
