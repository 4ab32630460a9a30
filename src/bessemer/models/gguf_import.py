"""GGUF in: one llama.cpp file becomes a plain Hugging Face folder.

Weights are dequantized to float32 exactly (a Q4_1 weight is `scale * q + minimum`, which no
16-bit format holds), so the folder computes what the file meant. Nothing is executed and nothing
is guessed: an architecture, tensor type or tokenizer that is not known here is refused.

Source: the GGUF specification (ggml-org/ggml, docs/gguf.md); dequantizers from `gguf`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, dequantize
from safetensors.torch import save_file

from bessemer.core.errors import IntegrityError, InvalidInput
from bessemer.models.config import Family, Llama3Scaling, ModelConfig
from bessemer.models.folder import INDEX, SINGLE
from bessemer.models.gguf_tokenizer import write_tokenizer
from bessemer.models.rotary import inverse_frequencies

KNOWN_TYPES = {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K"}

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
# Llama 3 files carry the result of the rotary scaling, not its parameters. These are the ones
# that were ever published (3.1 and 3.3; 3.2).
_PUBLISHED_SCALINGS = (Llama3Scaling(8.0, 1.0, 4.0, 8192), Llama3Scaling(32.0, 1.0, 4.0, 8192))


def import_gguf(path: Path, folder: Path) -> ModelConfig:
    """Write `path` as a Hugging Face folder (float32 safetensors) into the new `folder`.

    Raises:
        IntegrityError: not a whole GGUF file, or its tensors do not fit its own header.
        InvalidInput: an architecture, tensor type or tokenizer that is not known here.
    """
    reader = _open(path)
    facts = _Facts(reader, path)
    config = _config(facts, reader)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = dict(_tensors(reader, config))
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    (folder / INDEX).unlink(missing_ok=True)
    (folder / "config.json").write_text(json.dumps(config.to_hf("float32"), indent=2) + "\n")
    write_tokenizer(facts.all("tokenizer."), folder, config.context_length)
    _write_generation_defaults(config, folder)
    return config


class _Facts:
    """The file's key-value header."""

    def __init__(self, reader: GGUFReader, path: Path) -> None:
        self._fields = reader.fields
        self._path = path

    def get(self, key: str, default: Any = None) -> Any:
        field = self._fields.get(key)
        return default if field is None else field.contents()

    def need(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise IntegrityError(f"{self._path.name} has no {key!r} in its header")
        return value

    def all(self, prefix: str) -> dict[str, Any]:
        return {key: self.get(key) for key in self._fields if key.startswith(prefix)}


def _open(path: Path) -> GGUFReader:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise IntegrityError(f"{path} is not a GGUF file (it begins with {magic!r})")
    try:
        return GGUFReader(path)
    except Exception as fault:  # the reader indexes a memory map and fails in every way there is
        raise IntegrityError(
            f"{path} is not a whole GGUF file ({path.stat().st_size:,} bytes): {fault}",
            next_step="fetch it again; it was probably cut off",
        ) from fault


def _config(facts: _Facts, reader: GGUFReader) -> ModelConfig:
    family = facts.need("general.architecture")
    if family not in ("llama", "qwen2", "qwen3"):
        raise InvalidInput(f"GGUF architecture {family!r} is not one of llama, qwen2, qwen3")
    if facts.get(f"{family}.expert_count"):
        raise InvalidInput("this GGUF file is a mixture of experts, which is not supported")
    names = {tensor.name for tensor in reader.tensors}
    heads = int(facts.need(f"{family}.attention.head_count"))
    hidden = int(facts.need(f"{family}.embedding_length"))
    head_dim = int(facts.get(f"{family}.attention.key_length", hidden // heads))
    theta = round_float32(facts.get(f"{family}.rope.freq_base", 10_000.0))
    _refuse_other_rotary(facts, family, head_dim)
    return ModelConfig(
        family=family,
        vocab_size=len(facts.need("tokenizer.ggml.tokens")),
        hidden_size=hidden,
        intermediate_size=int(facts.need(f"{family}.feed_forward_length")),
        layers=int(facts.need(f"{family}.block_count")),
        heads=heads,
        kv_heads=int(facts.get(f"{family}.attention.head_count_kv", heads)),
        head_dim=head_dim,
        context_length=int(facts.need(f"{family}.context_length")),
        norm_eps=round_float32(facts.need(f"{family}.attention.layer_norm_rms_epsilon")),
        rope_theta=theta,
        rope_scaling=_scaling(reader, head_dim, theta),
        tied="output.weight" not in names,
        qkv_bias="blk.0.attn_q.bias" in names,
        output_bias="blk.0.attn_output.bias" in names,
        qk_norm="blk.0.attn_q_norm.weight" in names,
        bos_token_id=facts.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=facts.get("tokenizer.ggml.eos_token_id"),
        pad_token_id=facts.get("tokenizer.ggml.padding_token_id"),
    )


def _refuse_other_rotary(facts: _Facts, family: Family, head_dim: int) -> None:
    kind = facts.get(f"{family}.rope.scaling.type", "none")
    turned = int(facts.get(f"{family}.rope.dimension_count", head_dim))
    if kind != "none" or turned != head_dim:
        raise InvalidInput(
            f"rotary scaling {kind!r} over {turned} of {head_dim} dimensions is not supported"
        )


def round_float32(value: float) -> float:
    """The shortest decimal that is this float32: 9.999999747378752e-06 was written as 1e-5."""
    return float(str(np.float32(value)))


def _scaling(reader: GGUFReader, head_dim: int, theta: float) -> Llama3Scaling | None:
    found = next((t for t in reader.tensors if t.name == "rope_freqs.weight"), None)
    if found is None:
        return None
    factors = torch.from_numpy(np.array(found.data, dtype=np.float32))
    plain = inverse_frequencies(head_dim, theta, None)
    for scaling in _PUBLISHED_SCALINGS:
        if torch.allclose(
            plain / inverse_frequencies(head_dim, theta, scaling), factors, rtol=1e-4
        ):
            return scaling
    raise InvalidInput("the file's rotary factors are not those of a published Llama 3 model")


def _tensors(reader: GGUFReader, config: ModelConfig) -> Iterator[tuple[str, torch.Tensor]]:
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            continue
        kind = GGMLQuantizationType(tensor.tensor_type).name
        if kind not in KNOWN_TYPES:
            raise InvalidInput(
                f"tensor {tensor.name} is {kind}; known are {', '.join(sorted(KNOWN_TYPES))}",
                next_step="quantize the model again to one of these types",
            )
        try:
            values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
            values = values.reshape([int(size) for size in reversed(tensor.shape)])
        except ValueError as fault:
            raise IntegrityError(f"tensor {tensor.name} cannot be read: {fault}") from fault
        if not np.isfinite(values).all():
            raise IntegrityError(f"tensor {tensor.name} holds values that are not finite")
        yield _name(tensor.name), torch.from_numpy(_reorder(values, tensor.name, config))


def _name(gguf_name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`."""
    parts = gguf_name.split(".")
    if len(parts) == 2 and parts[0] in _OUTER:
        return f"{_OUTER[parts[0]]}.{parts[1]}"
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in _INNER:
        return f"model.layers.{parts[1]}.{_INNER[parts[2]]}.{parts[3]}"
    raise InvalidInput(f"tensor {gguf_name!r} has no place in a Llama-family decoder")


def _reorder(values: np.ndarray[Any, Any], name: str, config: ModelConfig) -> np.ndarray[Any, Any]:
    """Undo llama.cpp's interleaving of rotary pairs in the rows of q and k (llama only)."""
    part = name.split(".")[2] if name.startswith("blk.") else ""
    if config.family != "llama" or part not in ("attn_q", "attn_k"):
        return np.require(values, requirements=["C", "W", "O"])  # not the file's own memory
    heads = config.heads if part == "attn_q" else config.kv_heads
    pairs = values.reshape(heads, config.head_dim // 2, 2, math.prod(values.shape[1:]))
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(values.shape))


def _write_generation_defaults(config: ModelConfig, folder: Path) -> None:
    ids = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    }
    known = {key: value for key, value in ids.items() if value is not None}
    (folder / "generation_config.json").write_text(json.dumps(known, indent=2) + "\n")
