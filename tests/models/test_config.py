"""config.json: read and written without loss; what the decoder does not have is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, LlamaConfig, Qwen2Config, Qwen3Config

from bessemer.core.errors import IntegrityError, InvalidInput
from bessemer.models.config import Llama3Scaling, ModelConfig
from bessemer.models.decoder import Decoder

PLAIN: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
positive = st.floats(1e-9, 1e9, allow_nan=False)
token_id = st.none() | st.integers(0, 2**20)


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    family: Any = draw(st.sampled_from(["llama", "qwen2", "qwen3"]))
    kv_heads = draw(st.integers(1, 16))
    biased = draw(st.booleans()) and family != "qwen2"
    scaling = st.builds(Llama3Scaling, positive, positive, positive, st.integers(1, 2**20))
    return ModelConfig(
        family=family,
        vocab_size=draw(st.integers(1, 2**20)),
        hidden_size=draw(st.integers(1, 2**14)),
        intermediate_size=draw(st.integers(1, 2**16)),
        layers=draw(st.integers(1, 200)),
        heads=kv_heads * draw(st.integers(1, 8)),
        kv_heads=kv_heads,
        head_dim=2 * draw(st.integers(1, 128)),
        context_length=draw(st.integers(1, 2**20)),
        norm_eps=draw(positive),
        rope_theta=draw(positive),
        rope_scaling=draw(st.none() | scaling),
        tied=draw(st.booleans()),
        qkv_bias=biased or family == "qwen2",
        output_bias=biased,
        mlp_bias=draw(st.booleans()) and family == "llama",
        qk_norm=family == "qwen3",
        initializer_range=draw(positive),
        bos_token_id=draw(token_id),
        eos_token_id=draw(token_id | st.lists(st.integers(0, 9))),
        pad_token_id=draw(token_id),
    )


@settings(deadline=None)
@given(configs())
def test_config_written_and_read_is_the_same(config: ModelConfig) -> None:
    assert ModelConfig.from_hf(json.loads(json.dumps(config.to_hf()))) == config


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config, Qwen3Config])
def test_what_transformers_writes_is_read_alike(kind: Any, tmp_path: Path) -> None:
    original = kind(
        num_hidden_layers=3, rope_parameters={"rope_type": "default", "rope_theta": 7e5}
    )
    original.save_pretrained(tmp_path / "theirs")
    mine = ModelConfig.from_folder(tmp_path / "theirs")
    assert (mine.layers, mine.rope_theta) == (3, 7e5)
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "config.json").write_text(json.dumps(mine.to_hf()))
    again = AutoConfig.from_pretrained(tmp_path / "ours")
    assert type(again) is kind
    for name in ("hidden_size", "num_key_value_heads", "rms_norm_eps", "max_position_embeddings",
                 "vocab_size", "intermediate_size", "tie_word_embeddings"):  # fmt: skip
        assert getattr(again, name) == getattr(original, name), name
    assert again.rope_parameters["rope_theta"] == 7e5


def test_defaults_are_those_of_the_format() -> None:
    config = ModelConfig.from_hf(PLAIN)
    assert (config.kv_heads, config.head_dim, config.norm_eps) == (4, 8, 1e-6)
    assert (config.rope_theta, config.tied, config.rope_scaling) == (10_000.0, False, None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gemma3"}, "model_type 'gemma3' is not one of llama, mistral, qwen2"),
        ({"model_type": "mixtral", "num_local_experts": 8}, "lacks 'num_experts_per_tok'"),
        ({"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 3},
         "3 of 2 experts cannot be chosen"),
        ({"model_type": None}, "model_type None"),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 0,
          "layer_types": ["full_attention", "sliding_attention"]}, "cannot have windows"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "windows in a Llama"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "chunked_attention"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_type 'yarn'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}}, "rope_type 'yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type 'linear'"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type 'dynamic'"),
        ({"partial_rotary_factor": 0.5}, "partial rotary"),
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "weights quantized inside"),
        ({"num_key_value_heads": 3}, "4 heads cannot share 3"),
        ({"head_dim": 7}, "even head size; got 7"),
        ({"num_hidden_layers": 0}, "layers must be from 1"),
        ({"vocab_size": 10**12}, "vocab_size must be from 1"),
        ({"hidden_size": "32"}, "value of the wrong kind"),
        ({"hidden_size": "32", "head_dim": 8}, "hidden_size must be from 1"),
        ({"num_hidden_layers": 2.5}, "layers must be from 1"),
        ({"rope_theta": -1.0}, "rope_theta must be a finite number above 0"),
        ({"rms_norm_eps": float("nan")}, "norm_eps must be a finite number above 0"),
    ],
)  # fmt: skip
def test_what_the_decoder_does_not_have_is_refused_by_name(
    changes: dict[str, Any], words: str
) -> None:
    ModelConfig.from_hf(PLAIN)
    with pytest.raises((InvalidInput, IntegrityError), match=words):
        ModelConfig.from_hf(PLAIN | changes)


def test_all_that_is_missing_is_said_at_once() -> None:
    with pytest.raises(InvalidInput, match=r"gelu.*quantized.*yarn"):
        ModelConfig.from_hf(
            PLAIN
            | {"hidden_act": "gelu", "quantization_config": {"bits": 4}}
            | {"rope_scaling": {"rope_type": "yarn"}}
        )


def test_settings_that_change_nothing_are_accepted() -> None:
    idle = {"use_sliding_window": False, "sliding_window": 4096, "attention_dropout": 0.0,
            "layer_types": ["full_attention"] * 2, "rope_scaling": None}  # fmt: skip
    assert ModelConfig.from_hf(PLAIN | idle) == ModelConfig.from_hf(PLAIN)


@pytest.mark.parametrize("name", [key for key in PLAIN if key != "model_type"])
def test_missing_setting_is_named(name: str) -> None:
    with pytest.raises(IntegrityError, match=f"lacks '{name}'"):
        ModelConfig.from_hf({key: value for key, value in PLAIN.items() if key != name})


@pytest.mark.parametrize(
    "text", ["", "{", "not json", "[]", "null", "5", '"llama"', "\x00", '{"model_type": ["llama"]}']
)
def test_config_that_is_no_object_of_settings_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(
        (IntegrityError, InvalidInput), match=r"is not JSON|not an object|model_type"
    ):
        ModelConfig.from_folder(tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(IntegrityError, match="is not JSON"):
        ModelConfig.from_folder(tmp_path)


@pytest.mark.parametrize("tied", [True, False])
def test_matmul_parameters_are_the_matrices_and_the_head_once(tied: bool) -> None:
    config = ModelConfig.from_hf(
        PLAIN | {"tie_word_embeddings": tied, "num_key_value_heads": 2, "head_dim": 16}
    )
    matrices = {n: p.numel() for n, p in Decoder(config).named_parameters() if p.dim() == 2}
    if not tied:
        matrices.pop("model.embed_tokens.weight")  # looked up, not multiplied
    assert config.matmul_parameters == sum(matrices.values())
