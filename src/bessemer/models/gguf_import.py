"""GGUF in: one llama.cpp file becomes a plain Hugging Face folder.

Weights are dequantized to float32 exactly (a Q4_1 weight is `scale * q + minimum`, which no
16-bit format holds), so the folder computes what the file meant. Nothing is executed and nothing
is guessed: an architecture, tensor type or tokenizer that is not known here is refused.

Source: the GGUF specification (ggml-org/ggml, docs/gguf.md); dequantizers from `gguf`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, dequantize
from safetensors.torch import save_file

from bessemer.core.errors import IntegrityError, InvalidInput
from bessemer.models.config import ARCHITECTURES, Llama3Scaling, ModelConfig
from bessemer.models.decoder import Decoder
from bessemer.models.folder import INDEX, SINGLE, count_names
from bessemer.models.gguf_file import Facts, open_gguf
from bessemer.models.gguf_layout import ROTARY_FACTORS, folder_name, rows_to_folder
from bessemer.models.gguf_tokenizer import tokenizer_files
from bessemer.models.rotary import inverse_frequencies

KNOWN_TYPES = {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K"}

# Llama 3 files carry the result of the rotary scaling, not its parameters. These are the ones
# that were ever published (3.1 and 3.3; 3.2).
_PUBLISHED_SCALINGS = (Llama3Scaling(8.0, 1.0, 4.0, 8192), Llama3Scaling(32.0, 1.0, 4.0, 8192))


def import_gguf(path: Path, folder: Path) -> ModelConfig:
    """Write `path` as a Hugging Face folder (float32 safetensors) into the new `folder`.

    Nothing is written unless the whole file was read and fits a decoder.

    Raises:
        IntegrityError: not a whole GGUF file, or its tensors do not fit its own header.
        InvalidInput: an architecture, tensor type or tokenizer that is not known here.
    """
    reader = open_gguf(path)
    facts = Facts(reader, path)
    config = _config(facts, reader)
    _check_shapes(reader, _expected_shapes(config, reader))
    texts = tokenizer_files(facts, config.context_length)
    texts["config.json"] = json.dumps(config.to_hf("float32"), indent=2) + "\n"
    texts["generation_config.json"] = _generation_defaults(config)
    tensors = dict(_tensors(reader, config))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    (folder / INDEX).unlink(missing_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return config


def _config(facts: Facts, reader: GGUFReader) -> ModelConfig:
    family: Any = facts.text("general.architecture")
    if family not in ARCHITECTURES:
        raise InvalidInput(f"GGUF architecture {family!r} is not one of {', '.join(ARCHITECTURES)}")
    if facts.integer(f"{family}.expert_count"):
        raise InvalidInput("this GGUF file is a mixture of experts, which is not supported")
    names = {tensor.name for tensor in reader.tensors}
    heads = facts.size(f"{family}.attention.head_count")
    hidden = facts.size(f"{family}.embedding_length")
    head_dim = facts.size(f"{family}.attention.key_length", hidden // heads)
    theta = round_float32(facts.number(f"{family}.rope.freq_base", 10_000.0))
    _refuse_other_rotary(facts, family, head_dim)
    config = ModelConfig(
        family=family,
        vocab_size=len(facts.texts("tokenizer.ggml.tokens")),
        hidden_size=hidden,
        intermediate_size=facts.size(f"{family}.feed_forward_length"),
        layers=facts.size(f"{family}.block_count"),
        heads=heads,
        kv_heads=facts.size(f"{family}.attention.head_count_kv", heads),
        head_dim=head_dim,
        context_length=facts.size(f"{family}.context_length"),
        norm_eps=round_float32(facts.number(f"{family}.attention.layer_norm_rms_epsilon")),
        rope_theta=theta,
        rope_scaling=_scaling(reader, head_dim, theta),
        tied="output.weight" not in names,
        qkv_bias=family == "qwen2" or "blk.0.attn_q.bias" in names,
        output_bias="blk.0.attn_output.bias" in names,
        mlp_bias="blk.0.ffn_up.bias" in names,
        qk_norm=family == "qwen3",
        bos_token_id=facts.integer("tokenizer.ggml.bos_token_id"),
        eos_token_id=_end_ids(facts),
        pad_token_id=facts.integer("tokenizer.ggml.padding_token_id"),
    )
    if ModelConfig.from_hf(config.to_hf()) != config:
        raise InvalidInput(f"no {family} config.json can describe this file's set of biases")
    return config


def _end_ids(facts: Facts) -> int | list[int] | None:
    """Every token that ends an answer: of a text, of a turn, of a message."""
    found = [facts.integer(f"tokenizer.ggml.{role}_token_id") for role in ("eos", "eot", "eom")]
    ids = list(dict.fromkeys(id_ for id_ in found if id_ is not None))
    return ids if len(ids) > 1 else ids[0] if ids else None


def _refuse_other_rotary(facts: Facts, family: str, head_dim: int) -> None:
    kind = facts.text(f"{family}.rope.scaling.type", "none")
    turned = facts.size(f"{family}.rope.dimension_count", head_dim)
    if kind != "none" or turned != head_dim:
        raise InvalidInput(
            f"rotary scaling {kind!r} over {turned} of {head_dim} dimensions is not supported"
        )


def round_float32(value: float) -> float:
    """The shortest decimal that is this float32: 9.999999747378752e-06 was written as 1e-5."""
    return float(str(np.float32(value)))


def _scaling(reader: GGUFReader, head_dim: int, theta: float) -> Llama3Scaling | None:
    found = next((t for t in reader.tensors if t.name == ROTARY_FACTORS), None)
    if found is None:
        return None
    factors = torch.from_numpy(np.array(found.data, dtype=np.float32))
    plain = inverse_frequencies(head_dim, theta, None)
    if found.tensor_type != GGMLQuantizationType.F32 or factors.shape != plain.shape:
        raise IntegrityError(
            f"{ROTARY_FACTORS} has shape {list(factors.shape)}, not F32 of {list(plain.shape)}"
        )
    for scaling in _PUBLISHED_SCALINGS:
        if torch.allclose(
            plain / inverse_frequencies(head_dim, theta, scaling), factors, rtol=1e-4
        ):
            return scaling
    raise InvalidInput("the file's rotary factors are not those of a published Llama 3 model")


def _tensors(reader: GGUFReader, config: ModelConfig) -> Iterator[tuple[str, torch.Tensor]]:
    for tensor in reader.tensors:
        if tensor.name == ROTARY_FACTORS:
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
        rows = rows_to_folder(values, tensor.name, config)
        own = np.require(rows, requirements=["C", "W", "O"])  # not the file's own memory
        yield folder_name(tensor.name), torch.from_numpy(own)


def _expected_shapes(config: ModelConfig, reader: GGUFReader) -> dict[str, torch.Size]:
    if config.layers > len(reader.tensors):
        raise IntegrityError(
            f"the header says {config.layers:,} layers; the file has {len(reader.tensors)} tensors"
        )
    try:
        with torch.device("meta"):
            return {name: tensor.shape for name, tensor in Decoder(config).state_dict().items()}
    except RuntimeError as fault:  # more elements than 63 bits can count
        raise IntegrityError(f"the header describes an impossible model: {config}") from fault


def _check_shapes(reader: GGUFReader, expected: dict[str, torch.Size]) -> None:
    found = {
        folder_name(tensor.name): [int(size) for size in reversed(tensor.shape)]
        for tensor in reader.tensors
        if tensor.name != ROTARY_FACTORS
    }
    missing = sorted(set(expected) - set(found))
    surplus = sorted(set(found) - set(expected))
    if missing or surplus:
        raise IntegrityError(
            "the file's tensors do not fit its header: "
            f"{count_names('missing', missing)}, {count_names('not in the model', surplus)}"
        )
    for name, shape in found.items():
        if shape != list(expected[name]):
            raise IntegrityError(
                f"{name} has shape {shape}; the header says {list(expected[name])}"
            )


def _generation_defaults(config: ModelConfig) -> str:
    ids = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    }
    known = {key: value for key, value in ids.items() if value is not None}
    return json.dumps(known, indent=2) + "\n"
