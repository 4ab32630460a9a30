"""LoRA against the plain expression, its dropout, and its frozen matrix in few bits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bessemer.core.errors import InvalidInput
from bessemer.models.lora import LoraLinear, add_lora, merge_into, target_layers
from bessemer.models.quantized import Bits, QuantizedMatrix


class Block(nn.Module):
    """Names like the decoder's."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.q_proj = nn.Linear(6, 8, bias=bias)
        self.down_proj = nn.Linear(8, 6, bias=False)
        self.norm = nn.LayerNorm(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.down_proj(torch.tanh(self.q_proj(self.norm(x))))
        return out


def trained(network: Block, rank: int = 3) -> dict[str, LoraLinear]:
    """Layers whose B is no longer zero."""
    layers = add_lora(network, rank, alpha=6.0, seed=0)
    generator = torch.Generator().manual_seed(1)
    for layer in layers.values():
        layer.lora_B.data = torch.randn(layer.lora_B.shape, generator=generator)
    return layers


@settings(deadline=None)
@given(
    tokens=st.integers(1, 9),
    inputs=st.integers(1, 8),
    outputs=st.integers(1, 8),
    rank=st.integers(1, 4),
    bias=st.booleans(),
)
def test_value_and_gradients_equal_the_plain_expression(
    tokens: int, inputs: int, outputs: int, rank: int, bias: bool
) -> None:
    generator = torch.Generator().manual_seed(tokens)
    layer = LoraLinear(nn.Linear(inputs, outputs, bias=bias), rank, 5.0, generator).double()
    layer.lora_B.data = torch.randn(outputs, rank, generator=generator).double()
    x = torch.randn(tokens, inputs, generator=generator).double().requires_grad_()
    a, b = layer.lora_A, layer.lora_B
    plain = nn.functional.linear(x, layer.weight, layer.bias) + (x @ a.T) @ b.T * (5.0 / rank)
    ours = layer(x)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    weights = torch.randn(ours.shape, generator=generator).double()
    for mine, theirs in zip(
        torch.autograd.grad((ours * weights).sum(), (x, a, b)),
        torch.autograd.grad((plain * weights).sum(), (x, a, b)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_training_starts_from_exactly_the_base() -> None:
    network, x = Block(), torch.randn(4, 6)
    before = network(x)
    add_lora(network, 2, 4.0, seed=0)
    assert torch.equal(network(x), before)


def test_only_the_differences_are_trained() -> None:
    network = Block(bias=True).bfloat16()
    add_lora(network, 2, 4.0, seed=0)
    network(torch.randn(4, 6).bfloat16()).float().sum().backward()
    with_gradient = {name for name, p in network.named_parameters() if p.grad is not None}
    assert with_gradient == {
        f"{name}.{part}" for name in ("q_proj", "down_proj") for part in ("lora_A", "lora_B")
    }
    assert network.q_proj.lora_A.grad is not None
    assert network.q_proj.lora_A.grad.dtype == torch.float32
    assert network.q_proj.weight.dtype == torch.bfloat16


def test_merging_into_a_fresh_base_gives_the_same_function() -> None:
    network, plain = Block(bias=True), Block(bias=True)
    plain.load_state_dict(network.state_dict())
    layers = trained(network)
    merge_into(plain, layers)
    x = torch.randn(5, 6)
    torch.testing.assert_close(plain(x), network(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [None, "int8", "int4"])
def test_dropout_leaves_out_inputs_of_the_difference_only(bits: Bits | None) -> None:
    base = nn.Linear(64, 8, bias=True)
    layer = LoraLinear(base, 2, 4.0, torch.Generator().manual_seed(0), dropout=0.5, bits=bits)
    layer.lora_B.data = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))
    x = torch.randn(3, 64, requires_grad=True)
    torch.manual_seed(5)
    found = layer(x)
    torch.manual_seed(5)
    kept, frozen = nn.functional.dropout(x, 0.5), layer.frozen
    whole = frozen.dequantize(x.dtype) if isinstance(frozen, QuantizedMatrix) else frozen
    expected = x @ whole.T + base.bias + (kept @ layer.lora_A.T) @ layer.lora_B.T * 2.0
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    inputs = (x, layer.lora_A, layer.lora_B)
    for mine, theirs in zip(
        torch.autograd.grad(found.square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    layer.eval()
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_a_quantized_base_is_the_dequantized_matrix(bits: Bits) -> None:
    generator = torch.Generator().manual_seed(2)
    layer = LoraLinear(nn.Linear(128, 16, bias=False), 4, 8.0, generator, bits=bits)
    layer.lora_B.data = torch.randn(16, 4, generator=generator)
    assert isinstance(layer.frozen, QuantizedMatrix)
    whole = nn.Linear(128, 16, bias=False)
    whole.weight.data = layer.frozen.dequantize(torch.float32)
    plain = LoraLinear(whole, 4, 8.0, generator)
    plain.load_state_dict({**layer.state_dict(), "weight": whole.weight})
    x = torch.randn(5, 128, requires_grad=True)
    assert torch.equal(layer(x), plain(x))
    for mine, theirs in zip(
        torch.autograd.grad(layer(x).sum(), (x, layer.lora_A, layer.lora_B)),
        torch.autograd.grad(plain(x).sum(), (x, plain.lora_A, plain.lora_B)),
        strict=True,
    ):
        assert torch.equal(mine, theirs)


def test_targets_are_named_or_all_but_the_head() -> None:
    network = nn.Module()
    network.q_proj, network.up_proj, network.lm_head = (nn.Linear(2, 2) for _ in range(3))
    assert set(target_layers(network, ["all-linear"])) == {"q_proj", "up_proj"}
    assert set(target_layers(network, ["up_proj"])) == {"up_proj"}
    with pytest.raises(InvalidInput, match="no linear layer is called w_q; this model has q_proj"):
        target_layers(network, ["w_q", "q_proj"])
