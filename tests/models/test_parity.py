"""The native decoder is the reference's function: transformers on random small models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from bessemer.models.attention import PackedAttention, positions
from bessemer.models.decoder import Decoder
from bessemer.models.folder import load_decoder, save_decoder

SHAPE = {
    "vocab_size": 131,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,  # large enough that a wrong detail shows
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "mscale": 0.7,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 8,
    "beta_slow": 1,
}
DEEPSEEK = {
    **SHAPE,
    "num_key_value_heads": 6,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "q_lora_rank": 20,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 6,
    "v_head_dim": 10,
}
GPT2 = {"vocab_size": 131, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 128}
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**SHAPE),
    "llama-tied": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama-biases": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "llama-3-rope": LlamaConfig(**SHAPE, rope_parameters=LLAMA3),
    "llama-one-kv-head": LlamaConfig(**{**SHAPE, "num_key_value_heads": 1}, head_dim=16),
    "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SHAPE, head_dim=32, attention_bias=True),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "mistral-window": MistralConfig(**SHAPE, sliding_window=13),
    "qwen2-window": Qwen2Config(
        **SHAPE, use_sliding_window=True, sliding_window=9, max_window_layers=1
    ),
    "qwen3-window": Qwen3Config(
        **SHAPE, head_dim=16, use_sliding_window=True, sliding_window=21, max_window_layers=2
    ),
    "mixtral": MixtralConfig(**SHAPE, num_local_experts=5, num_experts_per_tok=2),
    "mixtral-window": MixtralConfig(
        **SHAPE, num_local_experts=3, num_experts_per_tok=1, sliding_window=7
    ),
    "qwen3-moe": Qwen3MoeConfig(
        **SHAPE, head_dim=16, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=20,
        norm_topk_prob=True, mlp_only_layers=[1], tie_word_embeddings=True,
    ),
    "qwen3-moe-plain-weights": Qwen3MoeConfig(
        **SHAPE, head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=20,
        norm_topk_prob=False, decoder_sparse_step=2, mlp_only_layers=[],
    ),
    "deepseek-v3": DeepseekV3Config(**DEEPSEEK),
    "deepseek-v3-four-experts": DeepseekV3Config(
        **{**DEEPSEEK, "num_experts_per_tok": 4}
    ),
    "deepseek-v3-yarn": DeepseekV3Config(
        **{**DEEPSEEK, "q_lora_rank": None, "n_shared_experts": 1, "norm_topk_prob": False,
           "n_group": 1, "topk_group": 1},
        rope_interleave=False, rope_parameters=YARN,
    ),
    "gpt2": GPT2Config(**GPT2),
    "gpt2-scales": GPT2Config(
        **GPT2, n_inner=60, scale_attn_weights=False, scale_attn_by_inverse_layer_idx=True,
    ),
}  # fmt: skip
BOUNDS = {torch.float64: 1e-9, torch.float32: 5e-4}


def reference(name: str, seed: int = 0) -> Any:
    transformers.set_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation="sdpa")
    model.set_experts_implementation("eager")  # its grouped product knows no float64
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith(("bias", "norm.weight", "layernorm.weight")):
            torch.nn.init.normal_(parameter, 1.0, 0.2)
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("e_score_correction_bias"):
            torch.nn.init.normal_(buffer, 0.0, 0.1)
    return model.eval()


def ours(model: Any, folder: Path) -> Decoder:
    model.save_pretrained(folder)
    return load_decoder(folder)


def ids_of(length: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, SHAPE["vocab_size"], (length,), generator=generator)  # type: ignore[arg-type]


def attend(decoder: Decoder, length: int) -> PackedAttention:
    return PackedAttention([length], windows=decoder.config.layer_windows)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_transformers(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = reference(name)
    decoder = ours(model, tmp_path).to(dtype)
    ids_T = ids_of(97)
    with torch.no_grad():
        expected = model.to(dtype)(ids_T[None]).logits[0]
        hidden_TD = decoder(ids_T, positions([97]), attend(decoder, 97))
        found = decoder.logits(hidden_TD)
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, atol=BOUNDS[dtype], rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_equal_transformers(name: str, tmp_path: Path) -> None:
    model = reference(name)
    decoder = ours(model, tmp_path).double()
    model = model.double()
    ids_T = ids_of(40)
    # Not `labels=`: that path takes the loss in float32.
    loss = torch.nn.functional.cross_entropy(model(ids_T[None]).logits[0, :-1], ids_T[1:])
    loss.backward()
    hidden_TD = decoder(ids_T, positions([40]), attend(decoder, 40))
    mine = torch.nn.functional.cross_entropy(decoder.logits(hidden_TD[:-1]), ids_T[1:])
    mine.backward()
    assert abs(mine.item() - loss.item()) < 1e-9
    theirs = dict(model.named_parameters())
    for parameter_name, parameter in decoder.named_parameters():
        torch.testing.assert_close(
            parameter.grad, theirs[parameter_name].grad, atol=1e-9, rtol=1e-7, msg=parameter_name
        )


@pytest.mark.parametrize("name", CONFIGS)
def test_parameter_names_are_hugging_faces(name: str, tmp_path: Path) -> None:
    model = reference(name)
    decoder = ours(model, tmp_path)
    assert set(dict(decoder.named_parameters())) == set(dict(model.named_parameters()))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("max_shard_bytes", [10_000_000, 30_000])
def test_saved_folder_opens_in_transformers_with_the_same_logits(
    name: str, max_shard_bytes: int, tmp_path: Path
) -> None:
    decoder = ours(reference(name), tmp_path / "theirs")
    save_decoder(decoder, tmp_path / "ours", max_shard_bytes=max_shard_bytes)
    shards = list((tmp_path / "ours").glob("*.safetensors"))
    assert (len(shards) > 1) == (max_shard_bytes == 30_000)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float64)
    opened.set_experts_implementation("eager")
    ids_T = ids_of(33)
    with torch.no_grad():
        expected = opened(ids_T[None]).logits[0]
        decoder.double()
        found = decoder.logits(decoder(ids_T, positions([33]), attend(decoder, 33)))
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=0)
    again = load_decoder(tmp_path / "ours")
    assert again.config == decoder.config
