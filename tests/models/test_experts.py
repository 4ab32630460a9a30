"""Experts: the balancing loss is transformers', biases even the load, both layouts open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MixtralConfig, MixtralForCausalLM
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from bessemer.core.errors import IntegrityError
from bessemer.models.attention import PackedAttention, positions
from bessemer.models.config import MoeConfig
from bessemer.models.decoder import Decoder
from bessemer.models.experts import Experts, Router, recorded, routers
from bessemer.models.folder import load_decoder, save_decoder


def mixtral(folder: Path) -> Any:
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=61, hidden_size=24, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=5, num_experts_per_tok=2,
        initializer_range=0.3,
    )  # fmt: skip
    model = MixtralForCausalLM(config).eval()
    model.save_pretrained(folder)
    return model


def run(decoder: Decoder, length: int = 50) -> torch.Tensor:
    ids = torch.randint(0, 61, (length,), generator=torch.Generator().manual_seed(1))
    return decoder(ids, positions([length]), PackedAttention([length]))


def test_the_balancing_loss_and_its_gradient_are_transformers(tmp_path: Path) -> None:
    model = mixtral(tmp_path)
    decoder = load_decoder(tmp_path)
    ids = torch.randint(0, 61, (50,), generator=torch.Generator().manual_seed(1))
    out = model(ids[None], output_router_logits=True)
    expected = load_balancing_loss_func(out.router_logits, 5, 2)
    expected.backward()
    with recorded(decoder) as routing:
        run(decoder)
    assert routing is not None
    found = routing.balancing_loss()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    found.backward()
    theirs = dict(model.named_parameters())
    name = "model.layers.0.mlp.gate.weight"
    gradient = decoder.get_parameter(name).grad
    assert gradient is not None and gradient.abs().max() > 0
    torch.testing.assert_close(gradient, theirs[name].grad, rtol=1e-4, atol=1e-6)


def test_outside_of_recorded_nothing_is_kept(tmp_path: Path) -> None:
    mixtral(tmp_path)
    decoder = load_decoder(tmp_path)
    with recorded(decoder):
        pass
    run(decoder)
    assert all(router.routing is None for router in routers(decoder))


@pytest.mark.parametrize("top_k", [1, 3])
def test_each_token_gets_the_weighted_sum_of_its_experts(top_k: int) -> None:
    config = MoeConfig(experts=6, top_k=top_k, size=8)
    experts = Experts(12, config)
    generator = torch.Generator().manual_seed(2)
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    x = torch.randn(40, 12, generator=generator)
    chosen = torch.rand(40, 6, generator=generator).topk(top_k).indices
    chosen[:, 0][chosen[:, 0] == 5] = 4  # one expert has no token at all, when top_k is 1
    weights = torch.rand(40, top_k, generator=generator)
    found = experts(x, chosen, weights)
    for token in range(40):
        expected = torch.zeros(12)
        for expert, weight in zip(chosen[token], weights[token], strict=True):
            gate, up = (experts.gate_up_proj[expert] @ x[token]).chunk(2)
            inner = torch.nn.functional.silu(gate) * up
            expected += weight * (experts.down_proj[expert] @ inner)
        torch.testing.assert_close(found[token], expected, rtol=1e-4, atol=1e-4)


def test_biases_even_the_load_and_are_in_no_weight() -> None:
    config = MoeConfig(experts=8, top_k=2, size=4, gate="sigmoid")
    router = Router(16, config)
    generator = torch.Generator().manual_seed(3)
    torch.nn.init.normal_(router.weight, generator=generator)
    x = torch.randn(512, 16, generator=generator) + 0.5  # not centered: some experts are favored

    def load() -> float:
        chosen, _ = router(x)
        counts = torch.bincount(chosen.flatten(), minlength=8).float()
        return (counts.max() / counts.mean()).item()

    before = load()
    router.load_E = None
    for _ in range(600):
        router(x)
        router.balance(0.002)
    after = load()
    assert before > 1.4
    assert after < 1.1
    chosen, weights = router(x)
    plain = torch.sigmoid(x @ router.weight.T).gather(1, chosen)
    torch.testing.assert_close(weights, plain / plain.sum(1, keepdim=True))


def test_loads_of_several_micro_batches_count_together() -> None:
    router = Router(4, MoeConfig(experts=3, top_k=1, size=2, gate="sigmoid"))
    torch.nn.init.normal_(router.weight)
    x = torch.randn(30, 4)
    router(x[:10])
    router(x[10:])
    assert router.load_E is not None and router.load_E.sum() == 30
    with torch.no_grad():
        router(x)
    assert router.load_E.sum() == 30  # judging is not training
    router.balance(0.1)
    assert router.load_E is None
    assert set(router.bias_E.abs().mul(10).round().tolist()) <= {0.0, 1.0}


def test_the_bias_stays_in_float32_when_the_network_does_not() -> None:
    router = Router(4, MoeConfig(experts=3, top_k=1, size=2, gate="sigmoid")).bfloat16()
    assert router.weight.dtype == torch.bfloat16
    assert router.bias_E.dtype == torch.float32


def test_a_folder_with_stacked_experts_opens_as_well(tmp_path: Path) -> None:
    mixtral(tmp_path / "apart")
    decoder = load_decoder(tmp_path / "apart")
    save_decoder(decoder, tmp_path / "stacked")
    names = set(load_file(tmp_path / "stacked" / "model.safetensors"))
    assert "model.layers.0.block_sparse_moe.experts.4.w3.weight" in names
    state = {
        name.replace(".mlp.gate.", ".block_sparse_moe.gate."): tensor.contiguous()
        for name, tensor in decoder.state_dict().items()
    }
    save_file(state, tmp_path / "stacked" / "model.safetensors")
    again = load_decoder(tmp_path / "stacked")
    assert torch.equal(run(again), run(decoder))


def test_a_missing_expert_is_named(tmp_path: Path) -> None:
    mixtral(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.block_sparse_moe.experts.3.w2.weight"]
    save_file(tensors, path)
    with pytest.raises(IntegrityError, match=r"1 missing \(.*experts.3.w2.weight\)"):
        load_decoder(tmp_path)
