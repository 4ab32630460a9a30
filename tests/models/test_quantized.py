"""Matrices in 8 and 4 bits: the nearest codes, small, and the error that is to be expected."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.core.errors import InvalidInput
from bessemer.models.quantized import GROUP, NF4, Bits, quantize


def normal(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None)
@given(rows=st.integers(1, 9), groups=st.integers(1, 4), seed=st.integers(0, 99))
def test_every_value_gets_the_nearest_code(rows: int, groups: int, seed: int) -> None:
    weight = normal(rows, groups * GROUP, seed) * 10.0 ** (seed % 7 - 3)
    eight = quantize(weight, "int8")
    assert ((eight.dequantize(torch.float32) - weight).abs() <= eight.scales * 0.5001).all()
    four = quantize(weight, "int4")
    scaled = weight.view(rows, groups, GROUP) / four.scales.unsqueeze(-1)
    nearest = (scaled.unsqueeze(-1) - torch.tensor(NF4)).abs().amin(-1)
    found = four.dequantize(torch.float32).view(rows, groups, GROUP) / four.scales.unsqueeze(-1)
    torch.testing.assert_close((found - scaled).abs(), nearest, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("bits", "error"), [("int8", 0.010), ("int4", 0.10)])
def test_the_error_on_normal_weights_is_small(bits: Bits, error: float) -> None:
    weight = normal(64, 512)
    found = quantize(weight, bits).dequantize(torch.float32)
    assert error / 3 < (found - weight).norm() / weight.norm() < error


@pytest.mark.parametrize(("bits", "share"), [("int8", 0.26), ("int4", 0.15)])
def test_it_takes_a_part_of_the_memory(bits: Bits, share: float) -> None:
    weight = normal(64, 576)
    quantized = quantize(weight, bits)
    assert quantized.shape == weight.shape
    assert quantized.nbytes < share * weight.nbytes


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_zeros_and_signs_survive(bits: Bits) -> None:
    weight = torch.zeros(2, GROUP)
    weight[1, 0], weight[1, 1] = 3.0, -3.0
    found = quantize(weight, bits).dequantize(torch.bfloat16)
    assert found[0].abs().max() == 0
    assert (found[1, 0], found[1, 1]) == (3.0, -3.0)


def test_int4_of_odd_rows_is_refused_with_the_numbers() -> None:
    with pytest.raises(InvalidInput, match="multiple of 64 numbers; this matrix is 3 x 100"):
        quantize(normal(3, 100), "int4")
