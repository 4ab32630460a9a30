"""The written gradients against autograd's, through the doors that training uses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.models.functions import rms_norm, rotate


def composed_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def composed_rotation(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    pairs = torch.complex(*x.chunk(2, -1)) * torch.complex(cos, sin).unsqueeze(1)
    return torch.cat((pairs.real, pairs.imag), -1)


def check(ours: torch.Tensor, theirs: torch.Tensor, inputs: list[torch.Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1)).to(ours.dtype)
    for mine, other in zip(
        torch.autograd.grad((ours * weights).sum(), inputs),
        torch.autograd.grad((theirs * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


@settings(deadline=None)
@given(tokens=st.integers(1, 5), heads=st.integers(1, 3), size=st.integers(1, 8))
def test_the_norms_gradient_is_autograds(tokens: int, heads: int, size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    for shape in ((tokens, size), (tokens, heads, size)):
        x = torch.randn(shape, generator=generator).requires_grad_()
        weight = torch.randn(size, generator=generator).requires_grad_()
        check(rms_norm(x, weight, 1e-5), composed_norm(x, weight, 1e-5), [x, weight])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_rotations_gradient_is_autograds(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 3, 8, generator=generator).to(dtype).requires_grad_()
    angles = torch.randn(7, 4, generator=generator).to(dtype)
    cos, sin = angles.cos(), angles.sin()
    check(rotate(x, cos, sin), composed_rotation(x, cos, sin), [x])


def test_the_input_is_left_as_it_was() -> None:
    x = torch.randn(4, 6, requires_grad=True)
    before = x.detach().clone()
    rms_norm(x, torch.ones(6), 1e-5).sum().backward()
    assert torch.equal(x.detach(), before)


def test_training_and_inference_agree_in_bfloat16() -> None:
    x = torch.randn(64, 32).bfloat16()
    weight = torch.rand(32).bfloat16()
    trained = rms_norm(x.clone().requires_grad_(), weight, 1e-5)
    torch.testing.assert_close(trained.detach(), rms_norm(x, weight, 1e-5), rtol=2**-7, atol=1e-6)
