"""The fused loss against the library's, in value and gradient; and what it never allocates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from bessemer.train.loss import linear_cross_entropy, linear_logprobs


def case(
    seed: int, tokens: int, targets: int, width: int, vocab: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=generator, dtype=torch.float64).to(dtype)
    head = torch.randn(vocab, width, generator=generator, dtype=torch.float64).to(dtype)
    positions = torch.randint(0, tokens, (targets,), generator=generator)
    ids = torch.randint(0, vocab, (targets,), generator=generator)
    return hidden.requires_grad_(), head.requires_grad_(), positions, ids


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31),
    tokens=st.integers(1, 12),
    targets=st.integers(1, 20),
    width=st.integers(1, 9),
    vocab=st.integers(2, 30),
    rows_at_once=st.integers(1, 25),
)
def test_value_and_gradients_equal_the_librarys(
    seed: int, tokens: int, targets: int, width: int, vocab: int, rows_at_once: int
) -> None:
    hidden, head, positions, ids = case(seed, tokens, targets, width, vocab, torch.float64)
    chunk = rows_at_once * vocab
    ours = linear_cross_entropy(hidden, head, positions, ids, chunk_elements=chunk)
    expected = F.cross_entropy(hidden[positions] @ head.T, ids, reduction="sum")
    assert abs(ours.item() - expected.item()) < 1e-10
    for mine, theirs in zip(
        torch.autograd.grad(ours / 7, (hidden, head)),
        torch.autograd.grad(expected / 7, (hidden, head)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_lower_precisions_stay_near_float64(dtype: torch.dtype, bound: float) -> None:
    hidden, head, positions, ids = case(0, 64, 50, 32, 200, dtype)
    ours = linear_cross_entropy(hidden, head, positions, ids, chunk_elements=1000)
    exact = hidden.detach().double().requires_grad_(), head.detach().double().requires_grad_()
    expected = F.cross_entropy(exact[0][positions] @ exact[1].T, ids, reduction="sum")
    assert abs(ours.item() / expected.item() - 1) < bound
    for mine, theirs in zip(
        torch.autograd.grad(ours, (hidden, head)),
        torch.autograd.grad(expected, exact),
        strict=True,
    ):
        assert mine.dtype == dtype
        assert (mine.double() - theirs).norm() < bound * theirs.norm()


@given(
    seed=st.integers(0, 2**32 - 1),
    targets=st.integers(1, 20),
    vocab=st.integers(2, 30),
    rows_at_once=st.integers(1, 25),
    z_loss=st.sampled_from([1e-4, 0.3]),
)
def test_z_loss_adds_the_square_of_the_log_normalizer(
    seed: int, targets: int, vocab: int, rows_at_once: int, z_loss: float
) -> None:
    hidden, head, positions, ids = case(seed, 7, targets, 5, vocab, torch.float64)
    ours = linear_cross_entropy(
        hidden, head, positions, ids, z_loss=z_loss, chunk_elements=rows_at_once * vocab
    )
    logits = hidden[positions] @ head.T
    expected = F.cross_entropy(logits, ids, reduction="sum")
    expected = expected + z_loss * logits.logsumexp(-1).square().sum()
    assert abs(ours.item() - expected.item()) < 1e-10 * max(1, abs(expected.item()))
    for mine, theirs in zip(
        torch.autograd.grad(ours, (hidden, head)),
        torch.autograd.grad(expected, (hidden, head)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


@given(
    seed=st.integers(0, 2**32 - 1),
    targets=st.integers(1, 20),
    vocab=st.integers(2, 30),
    rows_at_once=st.integers(1, 25),
    temperature=st.sampled_from([1.0, 0.7, 2.0]),
)
def test_each_log_probability_has_its_own_gradient(
    seed: int, targets: int, vocab: int, rows_at_once: int, temperature: float
) -> None:
    hidden, head, positions, ids = case(seed, 7, targets, 5, vocab, torch.float64)
    ours = linear_logprobs(
        hidden, head, positions, ids, temperature=temperature, chunk_elements=rows_at_once * vocab
    )
    logits = hidden[positions] @ head.T / temperature
    expected = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-11)
    weights = torch.linspace(-1, 2, targets, dtype=torch.float64)
    for mine, theirs in zip(
        torch.autograd.grad((ours * weights).sum(), (hidden, head)),
        torch.autograd.grad((expected * weights).sum(), (hidden, head)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, head, positions, ids = case(0, 5, 4, 3, 7, torch.float64)
    head.requires_grad_(False)
    linear_cross_entropy(hidden, head, positions, ids).backward()
    assert hidden.grad is not None
    assert head.grad is None


class LargestTensor(TorchDispatchMode):
    """Watches every tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_the_logits_never_exist_whole() -> None:
    tokens, vocab, width = 512, 4000, 8
    hidden, head, _, _ = case(0, tokens, 1, width, vocab, torch.float32)
    positions, ids = torch.arange(tokens), torch.arange(tokens)
    with LargestTensor() as watched:
        sums = linear_cross_entropy(hidden, head, positions, ids, chunk_elements=16 * vocab)
        sums.backward()
    assert watched.elements == 16 * vocab
    with LargestTensor() as plain:
        F.cross_entropy(hidden @ head.T, ids).backward()
    assert plain.elements == tokens * vocab
