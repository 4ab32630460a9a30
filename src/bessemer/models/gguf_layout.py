"""How a Llama-family decoder lies in a GGUF file: what its tensors are called, how rows stand.

Both ways, for `gguf_import` and `gguf_export`. Source: llama.cpp's converter.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bessemer.core.errors import InvalidInput
from bessemer.models.config import ModelConfig

ROTARY_FACTORS = "rope_freqs.weight"

_OUTER = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TO_GGUF = {theirs: ours for ours, theirs in (_OUTER | _INNER).items()}

Values = np.ndarray[Any, Any]


def folder_name(name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`."""
    parts = name.split(".")
    if len(parts) == 2 and parts[0] in _OUTER:
        return f"{_OUTER[parts[0]]}.{parts[1]}"
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in _INNER:
        return f"model.layers.{parts[1]}.{_INNER[parts[2]]}.{parts[3]}"
    raise InvalidInput(f"tensor {name!r} has no place in a Llama-family decoder")


def gguf_name(name: str) -> str:
    """`model.layers.3.self_attn.q_proj.weight` -> `blk.3.attn_q.weight`."""
    head, _, kind = name.rpartition(".")
    if not head.startswith("model.layers."):
        return f"{_TO_GGUF[head]}.{kind}"
    layer, _, part = head.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{_TO_GGUF[part]}.{kind}"


def rows_to_folder(values: Values, name: str, config: ModelConfig) -> Values:
    """Halves of each head's rotary pairs apart, as Hugging Face has them. `name` is GGUF's."""
    return _turned(values, name, config, (config.head_dim // 2, 2))


def rows_to_gguf(values: Values, name: str, config: ModelConfig) -> Values:
    """The two of each rotary pair side by side, as llama.cpp's `llama` rotates them."""
    return _turned(values, name, config, (2, config.head_dim // 2))


def _turned(values: Values, name: str, config: ModelConfig, split: tuple[int, int]) -> Values:
    """Only rows of q and k, and only of the architecture `llama`: the others rotate halves."""
    part = name.split(".")[2] if name.startswith("blk.") else ""
    if config.family not in ("llama", "mistral") or part not in ("attn_q", "attn_k"):
        return values
    heads = config.heads if part == "attn_q" else config.kv_heads
    pairs = values.reshape(heads, *split, math.prod(values.shape[1:]))
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(values.shape))
