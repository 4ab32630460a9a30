"""GGUF out: a Hugging Face folder becomes one file that llama.cpp opens. `gguf_import` reads it.

bf16 keeps every matrix in BF16; q8_0 and q4_0 quantize them in blocks of 32 with the `gguf`
package's own quantizers. Norms and biases stay F32. In a q4_0 file the matrix that makes the
logits (the embedding, where they are one) is Q8_0: llama.cpp spends more bits there as well, and
its own choice, Q6_K, has no quantizer outside of it. Rows that do not divide into blocks are BF16.

Source: the GGUF specification (ggml-org/ggml, docs/gguf.md) and llama.cpp's converter.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gguf
import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, LlamaFileType

from bessemer import __version__
from bessemer.core.errors import Conflict, IntegrityError, InvalidInput
from bessemer.core.runs import sync_folder
from bessemer.core.space import refuse_if_full
from bessemer.models.config import Family, Llama3Scaling, ModelConfig, YarnScaling
from bessemer.models.decoder import Decoder
from bessemer.models.folder import check_weights, read_floats
from bessemer.models.gguf_layout import ROTARY_FACTORS, gguf_name, rows_to_gguf
from bessemer.models.gguf_vocabulary import Vocabulary, read_vocabulary
from bessemer.models.rotary import inverse_frequencies

GgufPrecision = Literal["bf16", "q8_0", "q4_0"]
Progress = Callable[[int, int], None]
"""Takes the bytes that are written, and how many there will be."""

# llama.cpp calls a Mistral without windows a llama.
_ARCHITECTURES: dict[Family, str] = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}
_FILE_TYPES = {
    "bf16": LlamaFileType.MOSTLY_BF16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
    "q4_0": LlamaFileType.MOSTLY_Q4_0,
}
_HEADER_ROOM_BYTES = 64_000_000  # more than any vocabulary takes


class About(NamedTuple):
    """What the file says of where it came from; `licence` is an SPDX expression."""

    name: str
    digest: str
    licence: str | None = None


class Exported(NamedTuple):
    """The file, and how many tensors of each type are in it."""

    path: Path
    size_bytes: int
    tensors: dict[str, int]


class _Planned(NamedTuple):
    name: str
    shape: list[int]
    kind: GGMLQuantizationType

    @property
    def size_bytes(self) -> int:
        block, block_bytes = GGML_QUANT_SIZES[self.kind]
        return int(np.prod(self.shape)) // block * block_bytes


def export_gguf(
    folder: Path,
    path: Path,
    precision: GgufPrecision,
    about: About,
    progress: Progress = lambda _done, _total: None,
) -> Exported:
    """Write the decoder in `folder` to the new file `path`: whole, or not at all.

    Raises:
        InvalidInput: a family, setting or tokenizer that llama.cpp computes otherwise.
        IntegrityError, UnsafeWeights: the folder is no whole model.
        Conflict: there is such a file already.
        OutOfSpace: before anything is written.
    """
    config = ModelConfig.from_folder(folder)
    architecture = _architecture(config)
    check_weights(folder)
    vocabulary = read_vocabulary(folder, config)
    planned = _plan(config, precision)
    total = sum(each.size_bytes for each in planned)
    _check_target(path, total)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    writer = GGUFWriter(temporary, architecture)
    try:
        _describe(writer, config, precision, about, vocabulary)
        for each in planned:
            # A shape beside float32 is taken as it is; beside bytes it would be one of blocks.
            writer.add_tensor_info(
                gguf_name(each.name), each.shape, np.dtype(np.float32), each.size_bytes, each.kind
            )
        if config.rope_scaling is not None:
            factors = _rotary_factors(config)
            writer.add_tensor_info(ROTARY_FACTORS, factors.shape, factors.dtype, factors.nbytes)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        done = 0
        for each, data in _blocks(folder, config, planned):
            writer.write_tensor_data(data)
            done += each.size_bytes
            progress(done, total)
        if config.rope_scaling is not None:
            writer.write_tensor_data(factors)
        writer.close()
        _publish(temporary, path)
    finally:
        writer.close()
        temporary.unlink(missing_ok=True)
    counts = Counter(each.kind.name for each in planned)
    return Exported(path, path.stat().st_size, dict(sorted(counts.items())))


def _architecture(config: ModelConfig) -> str:
    problems = []
    if config.family not in _ARCHITECTURES or not config.is_plain:
        problems.append(
            f"a {config.family} with experts, latent attention, windows or GPT-2's layers"
            if not config.is_plain
            else f"the family {config.family}"
        )
    elif isinstance(config.rope_scaling, YarnScaling):
        problems.append("YaRN")
    elif config.family != "llama":
        if config.rope_scaling is not None:
            problems.append(f"rotary scaling in a {config.family}")
        if config.output_bias or config.mlp_bias:
            problems.append(f"biases in a {config.family}")
    if problems:
        raise InvalidInput(
            f"{', '.join(problems)} cannot be exported to GGUF; dense Llama, Mistral, Qwen2 and"
            " Qwen3 can",
            next_step="serve the model's folder as it is: transformers and vLLM open it",
        )
    return _ARCHITECTURES[config.family]


def _plan(config: ModelConfig, precision: GgufPrecision) -> list[_Planned]:
    with torch.device("meta"):
        state = Decoder(config).state_dict()
    logits = "model.embed_tokens.weight" if config.tied else "lm_head.weight"
    return [
        _Planned(name, list(tensor.shape), _kind(list(tensor.shape), precision, name == logits))
        for name, tensor in state.items()
    ]


def _kind(shape: list[int], precision: GgufPrecision, makes_logits: bool) -> GGMLQuantizationType:
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    kind = GGMLQuantizationType[precision.upper()]
    if kind == GGMLQuantizationType.Q4_0 and makes_logits:
        kind = GGMLQuantizationType.Q8_0
    block, _ = GGML_QUANT_SIZES[kind]
    return GGMLQuantizationType.BF16 if shape[-1] % block else kind


def _check_target(path: Path, size_bytes: int) -> None:
    if path.exists():
        raise Conflict(
            f"{path} is there already", next_step="remove it, or choose another --output FILE"
        )
    if not path.parent.is_dir():
        raise InvalidInput(f"there is no folder {path.parent} to write {path.name} to")
    elsewhere = "free some space, or choose another --output FILE"
    refuse_if_full(path.parent, size_bytes + _HEADER_ROOM_BYTES, path.name, elsewhere)


def _describe(
    writer: GGUFWriter,
    config: ModelConfig,
    precision: GgufPrecision,
    about: About,
    vocabulary: Vocabulary,
) -> None:
    writer.add_type("model")
    writer.add_name(about.name)
    if about.licence:
        writer.add_license(about.licence)
    writer.add_quantized_by(f"bessemer {__version__}")
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, about.name)
    writer.add_base_model_version(0, about.digest)
    writer.add_file_type(_FILE_TYPES[precision])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    vocabulary.write(writer)


def _rotary_factors(config: ModelConfig) -> np.ndarray[Any, Any]:
    """How many times slower each pair turns than it would unscaled."""
    assert isinstance(config.rope_scaling, Llama3Scaling), config.rope_scaling
    plain = inverse_frequencies(config.head_dim, config.rope_theta, None)
    scaled = inverse_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
    factors: np.ndarray[Any, Any] = (plain / scaled).numpy()
    return factors


def _blocks(
    folder: Path, config: ModelConfig, planned: list[_Planned]
) -> Iterator[tuple[_Planned, np.ndarray[Any, Any]]]:
    stored = dict(read_floats(folder, torch.float32))
    for each in planned:
        values = stored.pop(each.name).float().numpy()
        if not np.isfinite(values).all():
            raise IntegrityError(f"tensor {each.name} holds values that are not finite")
        rows = rows_to_gguf(values, gguf_name(each.name), config)
        yield each, gguf.quantize(np.ascontiguousarray(rows), each.kind)


def _publish(temporary: Path, path: Path) -> None:
    handle = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    temporary.replace(path)
    sync_folder(path.parent)
