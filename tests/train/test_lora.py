"""LoRA against the plain expression, and its folder against PEFT's layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from bessemer.core.errors import IntegrityError
from bessemer.train.lora import (
    LoraLinear,
    add_lora,
    load_adapter,
    lora_layers,
    merge_into,
    save_adapter,
)


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


def test_an_adapter_has_pefts_names_and_comes_back_equal(tmp_path: Path) -> None:
    network = Block()
    layers = trained(network)
    save_adapter(layers, tmp_path, rank=3, alpha=6.0, base="some-base")
    names = set(load_file(tmp_path / "adapter_model.safetensors"))
    assert "base_model.model.q_proj.lora_A.weight" in names
    assert "base_model.model.down_proj.lora_B.weight" in names
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 3, 6.0)
    assert config["target_modules"] == ["down_proj", "q_proj"]
    other = Block()
    add_lora(other, 3, 6.0, seed=5)
    load_adapter(lora_layers(other), tmp_path)
    for name, layer in layers.items():
        assert torch.equal(lora_layers(other)[name].lora_A, layer.lora_A)
        assert torch.equal(lora_layers(other)[name].lora_B, layer.lora_B)


def test_an_adapter_of_another_rank_is_refused(tmp_path: Path) -> None:
    save_adapter(trained(Block(), rank=3), tmp_path, rank=3, alpha=6.0, base="some-base")
    other = Block()
    add_lora(other, 2, 4.0, seed=0)
    with pytest.raises(IntegrityError, match="another shape"):
        load_adapter(lora_layers(other), tmp_path)
