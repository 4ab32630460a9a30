"""PEFT opens our adapters, we open its, and both compute the same: logits, gradients, merges."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from bessemer.core.errors import IntegrityError, InvalidInput
from bessemer.models.adapter import load_adapter, merge_adapter, read_adapter, save_adapter
from bessemer.models.attention import PackedAttention, positions
from bessemer.models.decoder import Decoder
from bessemer.models.folder import load_decoder
from bessemer.models.lora import LoraLinear, add_lora, lora_layers

LENGTH = 24


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    transformers.set_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def theirs(base: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)


def ids() -> torch.Tensor:
    return torch.randint(0, 97, (LENGTH,), generator=torch.Generator().manual_seed(3))


def logits(decoder: Decoder) -> torch.Tensor:
    hidden = decoder(ids(), positions([LENGTH]), PackedAttention([LENGTH]))
    return decoder.logits(hidden)


def made_up(layers: dict[str, LoraLinear]) -> None:
    generator = torch.Generator().manual_seed(4)
    for layer in layers.values():
        layer.lora_B.data.normal_(0, 0.2, generator=generator)


PEFT_CONFIGS: dict[str, dict[str, Any]] = {
    "a list of targets": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]},
    "a pattern": {"r": 2, "lora_alpha": 3, "target_modules": r".*layers\.1\..*_proj"},
    "all linear": {"r": 3, "lora_alpha": 16, "target_modules": "all-linear"},
    "ranks of their own": {
        "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj"],
        "rank_pattern": {"up_proj": 2}, "alpha_pattern": {r"layers\.0\..*q_proj": 20},
    },
    "rank-stabilized": {
        "r": 4, "lora_alpha": 8, "target_modules": ["v_proj"], "use_rslora": True
    },
}  # fmt: skip


def made_by_peft(base: Path, folder: Path, config: dict[str, Any]) -> Any:
    transformers.set_seed(1)
    model = peft.get_peft_model(
        theirs(base), peft.LoraConfig(task_type="CAUSAL_LM", **config), autocast_adapter_dtype=False
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, 0, 0.2)
    # Rounded first: factors are read as float32.
    model.float().double().save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", PEFT_CONFIGS)
def test_an_adapter_of_peft_opens_and_computes_the_same(
    base: Path, tmp_path: Path, name: str
) -> None:
    model = made_by_peft(base, tmp_path, PEFT_CONFIGS[name])
    decoder = load_decoder(base, torch.float64)
    layers = load_adapter(decoder, tmp_path)
    decoder.double()
    expected = model(ids()[None]).logits[0]
    found = logits(decoder)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    plain = logits(load_decoder(base, torch.float64))
    assert (found - plain).abs().max() > 0.05
    assert set(read_adapter(tmp_path)) == set(layers)


def test_gradients_equal_pefts_in_float64(base: Path, tmp_path: Path) -> None:
    decoder = load_decoder(base, torch.float64)
    layers = add_lora(decoder, 4, 8.0, seed=0)
    made_up(layers)
    save_adapter(layers, tmp_path, base=str(base))
    decoder.double()
    model = peft.PeftModel.from_pretrained(
        theirs(base), tmp_path, is_trainable=True, autocast_adapter_dtype=False
    ).double()
    target = ids().roll(-1)
    expected = torch.nn.functional.cross_entropy(model(ids()[None]).logits[0], target)
    found = torch.nn.functional.cross_entropy(logits(decoder), target)
    assert abs(found.item() - expected.item()) < 1e-9
    expected.backward()
    found.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert len(gradients) == 2 * len(layers) == 2 * 2 * 7
    for name, layer in layers.items():
        for part in ("lora_A", "lora_B"):
            key = f"base_model.model.{name}.{part}.default.weight"
            torch.testing.assert_close(
                getattr(layer, part).grad, gradients[key], rtol=1e-7, atol=1e-9
            )


def test_peft_opens_ours_and_merges_to_the_same_model(base: Path, tmp_path: Path) -> None:
    decoder = load_decoder(base, torch.float64)
    layers = add_lora(decoder, 4, 6.0, seed=0, targets=["k_proj", "gate_proj"])
    made_up(layers)
    save_adapter(layers, tmp_path, base=str(base))
    decoder.double()
    model = peft.PeftModel.from_pretrained(theirs(base), tmp_path, autocast_adapter_dtype=False)
    with torch.no_grad():
        torch.testing.assert_close(
            logits(decoder), model.double()(ids()[None]).logits[0], rtol=0, atol=1e-9
        )
    merged = model.merge_and_unload().state_dict()
    plain = load_decoder(base, torch.float64)
    merge_adapter(plain, tmp_path)
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(weight, merged[name], rtol=0, atol=1e-6)


def test_gpt2s_transposed_matrices_learn_and_merge_as_in_peft(tmp_path: Path) -> None:
    transformers.set_seed(0)
    config = transformers.GPT2Config(
        vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    decoder = load_decoder(tmp_path / "gpt2", torch.float64)
    layers = add_lora(decoder, 4, 6.0, seed=0)
    assert {name.rpartition(".")[2] for name in layers} == {"c_attn", "c_proj", "c_fc"}
    made_up(layers)
    save_adapter(layers, tmp_path / "adapter", base="gpt2")
    decoder.double()
    model = peft.PeftModel.from_pretrained(
        theirs(tmp_path / "gpt2"), tmp_path / "adapter", autocast_adapter_dtype=False
    ).double()
    model.eval()
    with torch.no_grad():
        expected = model(ids()[None]).logits[0]
        torch.testing.assert_close(logits(decoder), expected, rtol=0, atol=1e-9)
        again = load_decoder(tmp_path / "gpt2", torch.float64)
        load_adapter(again, tmp_path / "adapter")
        torch.testing.assert_close(logits(again.double()), expected, rtol=0, atol=1e-9)
        plain = load_decoder(tmp_path / "gpt2", torch.float64)
        assert (logits(plain) - expected).abs().max() > 0.05
        merge_adapter(plain, tmp_path / "adapter")
        torch.testing.assert_close(logits(plain), expected, rtol=0, atol=1e-5)
    logits(decoder).logsumexp(1).sum().backward()
    assert all(layer.lora_B.grad is not None for layer in layers.values())


def test_an_adapter_read_again_goes_on_where_it_was(base: Path, tmp_path: Path) -> None:
    decoder = load_decoder(base)
    layers = add_lora(decoder, 4, 6.0, seed=0)
    made_up(layers)
    save_adapter(layers, tmp_path, base="base")
    again = load_decoder(base)
    load_adapter(again, tmp_path)
    assert torch.equal(logits(again), logits(decoder))
    trained = {name for name, p in again.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * len(lora_layers(again))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"bias": "all"}, "bias='all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"peft_type": "IA3"}, "not a LoRA adapter"),
    ],
)
def test_what_would_compute_something_else_is_refused(
    base: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    made_by_peft(base, tmp_path, {"r": 2, "target_modules": ["q_proj"]})
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InvalidInput, match=says):
        read_adapter(tmp_path)


def test_an_adapter_of_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    made_by_peft(base, tmp_path, {"r": 2, "target_modules": ["q_proj"]})
    config = load_decoder(base).config
    other = Decoder(replace(config, hidden_size=64))
    with pytest.raises(IntegrityError, match=r"q_proj is \(32, 32\) in it, and \(32, 64\) here"):
        merge_adapter(other, tmp_path)


def test_a_broken_folder_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="is no adapter"):
        read_adapter(tmp_path)
    made_by_peft(base, tmp_path, {"r": 2, "target_modules": ["q_proj"]})
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(IntegrityError, match="no whole adapter_model"):
        read_adapter(tmp_path)
