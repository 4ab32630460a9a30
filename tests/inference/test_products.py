"""Products in 16, 8 and 4 bits: near the matrix made whole, and each row by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from bessemer.core.protocols import GenerateRequest, Sampling
from bessemer.inference import products
from bessemer.inference.speeds import Speed, fastest, measure
from bessemer.models.codes import CodedLinear, Int4Matrix, Int8Matrix, code
from bessemer.models.config import ModelConfig
from bessemer.models.quantizing import quantize_folder
from bessemer.models.scheme import Kind
from tests.inference.conftest import engine_over

ROWS = (1, 2, 9, 10, 11, 33)


def random_matrix(outputs: int = 64, inputs: int = 96) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(1)) / 8


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("kind", "bound"), [("int8", 0.012), ("int4", 0.012)])
def test_products_with_codes_are_near_those_with_numbers(
    rows: int, biased: bool, kind: Kind, bound: float
) -> None:
    matrix = code(random_matrix(), kind)
    bias = torch.linspace(-1, 1, 64).bfloat16() if biased else None
    x = torch.randn(rows, 96, generator=torch.Generator().manual_seed(rows)).bfloat16()
    expected = x.double() @ matrix.whole(torch.float64).T + (0 if bias is None else bias)
    product = products.join(CodedLinear(matrix, bias), dtype=torch.bfloat16)
    error = (product(x).double() - expected).norm() / expected.norm()
    assert float(error) < bound


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_row_does_not_depend_on_the_numbers_of_its_neighbors(kind: Kind) -> None:
    product = products.join(CodedLinear(code(random_matrix(), kind), None), dtype=torch.bfloat16)
    x = torch.randn(16, 96, generator=torch.Generator().manual_seed(2)).bfloat16()
    alone = product(x).clone()
    x[1:] *= 1000
    assert torch.equal(product(x)[0], alone[0])


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_several_layers_of_one_input_are_one_product(kind: Kind) -> None:
    parts = [CodedLinear(code(random_matrix(outputs), kind), None) for outputs in (32, 16, 16)]
    x = torch.randn(3, 96, generator=torch.Generator().manual_seed(3)).bfloat16()
    together = products.join(*parts, dtype=torch.bfloat16)(x)
    apart = torch.cat([products.join(part, dtype=torch.bfloat16)(x) for part in parts], 1)
    torch.testing.assert_close(together, apart, rtol=0.02, atol=0.02)


def test_in_float64_codes_are_multiplied_as_the_numbers_they_stand_for() -> None:
    for matrix in (Int8Matrix.of(random_matrix()), Int4Matrix.of(random_matrix())):
        x = torch.randn(20, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
        product = products.join(CodedLinear(matrix, None), dtype=torch.float64)
        torch.testing.assert_close(product(x), x @ matrix.whole(torch.float64).T)


def test_zeros_and_huge_rows_stay_finite() -> None:
    product = products.join(CodedLinear(Int8Matrix.of(random_matrix()), None), dtype=torch.bfloat16)
    x = torch.zeros(16, 96).bfloat16()
    x[1] = 1e30
    y = product(x)
    assert torch.isfinite(y).all() and not y[0].any()


def test_without_such_products_in_the_processor_numbers_are_multiplied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(products, "_multiplies_int8", lambda: False)
    monkeypatch.setattr(products, "_multiplies_int4", lambda: False)
    x = torch.randn(2, 96, generator=torch.Generator().manual_seed(5)).bfloat16()
    for matrix in (Int8Matrix.of(random_matrix()), Int4Matrix.of(random_matrix())):
        product = products.join(CodedLinear(matrix, None), dtype=torch.bfloat16)
        assert torch.equal(product(x), products.plain(matrix.whole(torch.bfloat16), None)(x))


@pytest.mark.parametrize(("kind", "bound"), [("int8", 0.1), ("int4", 0.1)])
async def test_an_engine_answers_from_codes_and_says_so(
    tiny: Callable[[str], Path], tmp_path: Path, kind: Kind, bound: float
) -> None:
    ids = list(range(5, 45))
    quantize_folder(tiny("wide"), tmp_path / kind, kind)
    async with engine_over(tmp_path / kind, precision="bf16") as engine:
        assert (await engine.info()).precision == kind
        scores = await engine.score(ids)
        request = GenerateRequest(
            request_id="r", prompt_ids=ids[:20], max_tokens=8, sampling=Sampling(temperature=0)
        )
        chunks = [chunk async for chunk in engine.generate(request)]
        assert chunks[-1].completion_tokens == 8
    async with engine_over(tmp_path / kind, precision="fp64") as engine:
        exact = await engine.score(ids)
    gap = max(abs(a - b) for a, b in zip(scores, exact, strict=True))
    assert 0 < gap < bound * math.log(97) * 4


def test_the_measure_tells_each_precision_and_the_choice_prefers_the_exact() -> None:
    config = ModelConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, layers=2, heads=4, kv_heads=2,
        head_dim=16, context_length=64,
    )  # fmt: skip
    speeds = measure(config, rows=2, seconds=0.05)
    assert [speed.precision for speed in speeds] == ["bf16", "int8", "int4"]
    assert all(speed.token_s > 0 for speed in speeds)
    assert fastest([Speed("bf16", 1.0), Speed("int8", 0.97), Speed("int4", 0.98)]) == "bf16"
    assert fastest([Speed("bf16", 1.0), Speed("int8", 0.7), Speed("int4", 0.69)]) == "int8"
    assert fastest([Speed("bf16", 1.0), Speed("int8", 0.7), Speed("int4", 0.4)]) == "int4"


def test_linears_of_numbers_are_joined_with_their_biases() -> None:
    parts = [nn.Linear(8, 4), nn.Linear(8, 6)]
    x = torch.randn(3, 8)
    with torch.no_grad():
        expected = torch.cat([part(x) for part in parts], 1)
        torch.testing.assert_close(products.join(*parts, dtype=torch.float32)(x), expected)
