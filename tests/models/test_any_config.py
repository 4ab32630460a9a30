"""Whatever the config, the native decoder is the reference's function: logits and gradients.

Small configs of every family are drawn, with settings that published models do not use together.
Both sides compute in float64, but for what the reference itself takes in float32 (angles of rotary
embeddings, norms, routers); there the same operations must come in the same order, because at a
distant position one unit in the last place of a frequency is already 1e-6 in the logits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from bessemer.models.attention import PackedAttention, positions
from bessemer.models.folder import load_decoder

Draw = Callable[[Any], Any]
LENGTH = 70


def one_of(*values: Any) -> Any:
    return st.sampled_from(values)


def shape(draw: Draw) -> dict[str, Any]:
    heads, kv_heads = draw(one_of((1, 1), (2, 1), (4, 2), (3, 3), (6, 2)))
    return {
        "vocab_size": draw(st.integers(7, 90)),
        "hidden_size": heads * draw(one_of(4, 6, 10, 16)),
        "intermediate_size": draw(st.integers(3, 40)),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": draw(st.integers(LENGTH, 400)),
        "initializer_range": 0.3,
        "rms_norm_eps": draw(one_of(1e-6, 1e-5, 1e-3)),
        "tie_word_embeddings": draw(st.booleans()),
        "rope_parameters": {"rope_type": "default", "rope_theta": draw(theta)},
    }


theta = st.floats(50.0, 1e6)
window = st.none() | st.integers(1, LENGTH + 10)


def llama3(draw: Draw) -> dict[str, Any]:
    low = draw(st.floats(0.5, 3.0))
    return {
        "rope_type": "llama3",
        "rope_theta": draw(theta),
        "factor": draw(st.floats(1.0, 40.0)),
        "low_freq_factor": low,
        "high_freq_factor": low + draw(st.floats(0.5, 9.0)),
        "original_max_position_embeddings": draw(st.integers(8, 4096)),
    }


def yarn(draw: Draw) -> dict[str, Any]:
    every = {
        "beta_fast": st.floats(2.0, 40.0),
        "beta_slow": st.floats(0.5, 2.0),
        "mscale": st.floats(0.1, 2.0),
        "mscale_all_dim": st.floats(0.1, 2.0),
        "attention_factor": st.floats(0.5, 2.0),
        "truncate": st.booleans(),
    }
    chosen = {name: draw(values) for name, values in every.items() if draw(st.booleans())}
    return {
        "rope_type": "yarn",
        "rope_theta": draw(theta),
        "factor": draw(st.floats(1.0, 40.0)),
        "original_max_position_embeddings": draw(st.integers(8, 4096)),
        **chosen,
    }


def llama(draw: Draw) -> Any:
    more = {"rope_parameters": llama3(draw)} if draw(st.booleans()) else {}
    return transformers.LlamaConfig(
        **shape(draw) | more,
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        head_dim=draw(one_of(None, 2, 12)),
    )


def qwen2(draw: Draw) -> Any:
    return transformers.Qwen2Config(
        **shape(draw),
        use_sliding_window=draw(st.booleans()),
        sliding_window=draw(window),
        max_window_layers=draw(st.integers(0, 3)),
    )


def qwen3(draw: Draw) -> Any:
    return transformers.Qwen3Config(
        **shape(draw),
        head_dim=draw(one_of(2, 8, 18)),
        attention_bias=draw(st.booleans()),
        use_sliding_window=draw(st.booleans()),
        sliding_window=draw(window),
        max_window_layers=draw(st.integers(0, 3)),
    )


def mistral(draw: Draw) -> Any:
    return transformers.MistralConfig(
        **shape(draw), head_dim=draw(one_of(None, 2, 12)), sliding_window=draw(window)
    )


def mixtral(draw: Draw) -> Any:
    experts = draw(st.integers(1, 6))
    return transformers.MixtralConfig(
        **shape(draw),
        num_local_experts=experts,
        num_experts_per_tok=draw(st.integers(1, experts)),
        sliding_window=draw(window),
    )


def qwen3_moe(draw: Draw) -> Any:
    experts = draw(st.integers(1, 6))
    return transformers.Qwen3MoeConfig(
        **shape(draw),
        head_dim=draw(one_of(2, 8, 18)),
        attention_bias=draw(st.booleans()),
        num_experts=experts,
        num_experts_per_tok=draw(st.integers(1, experts)),
        moe_intermediate_size=draw(st.integers(2, 20)),
        norm_topk_prob=draw(st.booleans()),
        decoder_sparse_step=draw(st.integers(1, 2)),
        mlp_only_layers=draw(one_of([], [0], [1, 2])),
        use_sliding_window=draw(st.booleans()),
        sliding_window=draw(window),
    )


def deepseek_v3(draw: Draw) -> Any:
    settings = shape(draw)
    settings["num_key_value_heads"] = settings["num_attention_heads"]
    if draw(st.booleans()):
        settings["rope_parameters"] = yarn(draw)
    groups, top_groups = draw(one_of((1, 1), (2, 1), (4, 2), (3, 3)))
    each = draw(st.integers(2, 3))  # a group is scored by its two best
    return transformers.DeepseekV3Config(
        **settings,
        n_routed_experts=groups * each,
        n_group=groups,
        topk_group=top_groups,
        num_experts_per_tok=draw(st.integers(1, top_groups * each)),
        n_shared_experts=draw(st.integers(1, 2)),
        moe_intermediate_size=draw(st.integers(2, 20)),
        routed_scaling_factor=draw(st.floats(0.5, 3.0)),
        norm_topk_prob=draw(st.booleans()),
        first_k_dense_replace=draw(st.integers(0, 3)),
        q_lora_rank=draw(st.none() | st.integers(2, 20)),
        kv_lora_rank=draw(st.integers(2, 20)),
        qk_nope_head_dim=draw(st.integers(1, 12)),
        qk_rope_head_dim=2 * draw(st.integers(1, 6)),
        v_head_dim=draw(st.integers(1, 12)),
        rope_interleave=draw(st.booleans()),
        attention_bias=draw(st.booleans()),
    )


def gpt2(draw: Draw) -> Any:
    heads = draw(st.integers(1, 4))
    return transformers.GPT2Config(
        vocab_size=draw(st.integers(7, 90)),
        n_embd=heads * draw(st.integers(2, 12)),
        n_layer=draw(st.integers(1, 3)),
        n_head=heads,
        n_positions=draw(st.integers(LENGTH, 200)),
        n_inner=draw(st.none() | st.integers(3, 40)),
        layer_norm_epsilon=draw(one_of(1e-6, 1e-5, 1e-3)),
        initializer_range=0.3,
        scale_attn_weights=draw(st.booleans()),
        scale_attn_by_inverse_layer_idx=draw(st.booleans()),
    )


FAMILIES = {
    f.__name__: f for f in (llama, qwen2, qwen3, mistral, mixtral, qwen3_moe, deepseek_v3, gpt2)
}


@pytest.mark.parametrize("family", FAMILIES)
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # a drawn config says enough as it is
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_logits_and_gradients_equal_transformers(family: str, data: Any) -> None:
    config = FAMILIES[family](data.draw)
    torch.set_num_threads(1)
    theirs = reference(config)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = load_decoder(Path(folder), torch.float64)
    theirs.double()
    ids_T = torch.randint(config.vocab_size, (LENGTH,), generator=torch.Generator().manual_seed(1))
    expected = theirs(ids_T[None], use_cache=False).logits[0]
    attend = PackedAttention([LENGTH], windows=ours.config.layer_windows)
    found = ours.logits(ours(ids_T, positions([LENGTH]), attend))
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
    for logits in (expected, found):
        torch.nn.functional.cross_entropy(logits[:-1], ids_T[1:]).backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        mine, wanted = parameter.grad, gradients[name]
        if mine is None or wanted is None:
            assert mine is None or not mine.any(), name  # an expert that nobody chose
            continue
        torch.testing.assert_close(mine, wanted, atol=1e-9, rtol=1e-7, msg=name)


def reference(config: Any) -> Any:
    transformers.set_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    model.set_experts_implementation("eager")  # its grouped product knows no float64
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name.endswith(("bias", "norm.weight", "layernorm.weight", "ln_1.weight")):
            torch.nn.init.normal_(tensor, 1.0, 0.2)
        if name.endswith("e_score_correction_bias"):
            torch.nn.init.normal_(tensor, 0.0, 0.1)
    return model.eval()
