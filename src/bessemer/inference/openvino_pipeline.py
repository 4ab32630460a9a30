"""OpenVINO's own objects: a pipeline over a GGUF file, and the settings of one request.

It reads what `bessemer quantize --to q8_0` or `bessemer export --gguf` wrote as q8_0 or q4_0; its
reader knows no BF16. What it cannot say is refused by name and never left out. The engine that
takes its steps is `openvino_engine`.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bessemer.core.errors import ContextLengthExceeded, InvalidInput, Missing
from bessemer.core.protocols import GenerateRequest
from bessemer.inference import precision as precisions
from bessemer.inference.sequence import EngineSequence, Wanted
from bessemer.models.gguf_file import Facts, open_gguf
from bessemer.models.gguf_layout import ROTARY_FACTORS

STEP_TOKENS = 256
BLOCK_TOKENS = 32  # of OpenVINO's KV cache on CPUs
# By default OpenVINO rounds activations and the KV cache to 8 bits; `fp32` is float32 everywhere.
_EXACT = {"KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
_HINTS = {"bf16": "bf16", "fp32": "f32"}
_SCALE_BYTES = 8  # a scale and a zero beside each head's 8-bit keys, or values, of a token


@dataclass(frozen=True)
class OpenVinoSettings:
    """How much it may take on.

    `precision` is that of the products: `auto` what this machine's processor multiplies, with
    OpenVINO's own 8-bit activations and cache; `fp32` float32 everywhere.
    """

    threads: int
    precision: precisions.Precision = "auto"
    context_length: int | None = None
    max_running: int = 32
    max_waiting: int = 256
    kv_bytes: int = 1 << 30


class Opened(NamedTuple):
    """A pipeline, and what is known of it; `kv_tokens` fit its cache."""

    pipeline: Any
    precision: str
    context_length: int
    vocabulary: int
    kv_tokens: int


def open_pipeline(gguf: Path, settings: OpenVinoSettings) -> Opened:
    """Load a GGUF file.

    Raises:
        Missing: the extra is not installed.
        IntegrityError: no whole GGUF file.
        InvalidInput: a file that OpenVINO does not read, or reads otherwise; float64.
    """
    if importlib.util.find_spec("openvino_genai") is None:
        raise Missing(
            "the OpenVINO engine is not installed here",
            next_step='pip install "bessemer[openvino]"',
        )
    reader = open_gguf(gguf)
    facts = Facts(reader, gguf)
    if any(tensor.name == ROTARY_FACTORS for tensor in reader.tensors):
        raise InvalidInput(
            f"{gguf.name} stretches its rotary frequencies (Llama 3.1 and later), which OpenVINO"
            " reads past",
            next_step="serve the model that it was made from",
        )
    chosen = precisions.name_of(precisions.choose(settings.precision))
    if chosen not in _HINTS:
        raise InvalidInput(f"OpenVINO computes in {' or '.join(_HINTS)}, not in {chosen}")
    longest = facts.size(f"{_family(facts)}.context_length")
    longest = min(settings.context_length or longest, longest)
    blocks = settings.max_running * -(-longest // BLOCK_TOKENS)  # more are never in use
    fit = settings.kv_bytes // (BLOCK_TOKENS * _token_bytes(facts, chosen))
    blocks = max(1, min(blocks, fit))
    return Opened(
        _pipeline(gguf, chosen, settings, blocks),
        chosen,
        min(longest, blocks * BLOCK_TOKENS),
        len(facts.texts("tokenizer.ggml.tokens")),
        blocks * BLOCK_TOKENS,
    )


def tensor_of(ids: list[int]) -> Any:
    """A prompt, as OpenVINO takes it."""
    return _runtime("openvino").Tensor(np.array([ids], dtype=np.int64))


def settings_of(sequence: EngineSequence, vocabulary: int) -> Any:
    """OpenVINO's settings of a request that `check` let through."""
    request = sequence.request
    assert request is not None
    sampling = request.sampling
    config = _runtime("openvino_genai").GenerationConfig()
    config.max_new_tokens = request.max_tokens
    config.ignore_eos = True  # what ends an answer is the request's to say
    config.do_sample = sampling.temperature > 0
    config.presence_penalty = sampling.presence_penalty
    config.frequency_penalty = sampling.frequency_penalty
    config.repetition_penalty = sampling.repetition_penalty
    if config.do_sample:
        config.temperature = sampling.temperature
        config.top_p = sampling.top_p
        config.min_p = sampling.min_p
        config.top_k = sampling.top_k or vocabulary
        config.rng_seed = sequence.seed % 2**32
    if request.top_logprobs is not None:
        config.logprobs = 1
    return config


def check(sequence: EngineSequence, context_length: int, vocabulary: int) -> None:
    """Raise unless OpenVINO can answer this, whole.

    Raises:
        ContextLengthExceeded: with both numbers.
        InvalidInput: there is nothing to compute, or it asks for what OpenVINO cannot say.
    """
    request = sequence.request
    if request is None:
        raise untold(sequence.wanted)
    prompt = len(sequence.ids)
    if names := _unsaid(request):
        raise InvalidInput(
            f"the OpenVINO engine has no {' and no '.join(names)} for this request",
            next_step="leave it out, or ask the model that this one was made from",
            param=names[0],
        )
    if prompt == 0 or request.max_tokens < 1:
        raise InvalidInput("a prompt of a token or more, and max_tokens of 1 or more, are needed")
    if prompt + request.max_tokens > context_length:
        raise ContextLengthExceeded(
            f"this model's context is {context_length} tokens; the prompt has {prompt} and"
            f" {request.max_tokens} were asked for",
            next_step="shorten the prompt or ask for fewer tokens",
            prompt_tokens=prompt,
            context_length=context_length,
        )
    if any(not 0 <= token < vocabulary for token in sequence.ids):
        raise InvalidInput(f"a token id is outside the vocabulary of {vocabulary}")


def untold(wanted: Wanted) -> InvalidInput:
    """What who asks for more than tokens is told."""
    what = "hidden states" if wanted == "vector" else "scores of a text"
    return InvalidInput(
        f"OpenVINO tells no {what}", next_step="ask the model that this one was made from"
    )


def _unsaid(request: GenerateRequest) -> list[str]:
    """What is asked for that OpenVINO has not, by the names of the fields."""
    sampling = request.sampling
    drawn = sampling.temperature > 0
    asked = {
        "constraint": request.constraint is not None,
        "adapter": request.adapter is not None,
        "logit_bias": bool(sampling.logit_bias),
        "top_logprobs": bool(request.top_logprobs),
        "prompt_logprobs": request.prompt_logprobs is not None,
        # They would be those after temperature and penalties.
        "logprobs": request.top_logprobs is not None and (drawn or sampling.adjusts),
    }
    return [name for name, is_asked in asked.items() if is_asked]


def _token_bytes(facts: Facts, precision: str) -> int:
    """Bytes that one token takes of the KV cache, in all layers."""
    family = _family(facts)
    heads = facts.size(f"{family}.attention.head_count")
    kv_heads = facts.size(f"{family}.attention.head_count_kv", heads)
    width = facts.size(f"{family}.embedding_length") // heads
    width = facts.size(f"{family}.attention.key_length", width)
    a_head = 4 * width if precision == "fp32" else width + _SCALE_BYTES
    return facts.size(f"{family}.block_count") * 2 * kv_heads * a_head


def _family(facts: Facts) -> str:
    return str(facts.text("general.architecture"))


def _runtime(module: str) -> Any:
    """The library without its telemetry, for which it has a stub where that is missing."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module(module)


def _pipeline(gguf: Path, precision: str, settings: OpenVinoSettings, blocks: int) -> Any:
    openvino_genai = _runtime("openvino_genai")
    scheduling = openvino_genai.SchedulerConfig()
    scheduling.num_kv_blocks = blocks
    scheduling.max_num_batched_tokens = STEP_TOKENS
    scheduling.max_num_seqs = settings.max_running
    scheduling.dynamic_split_fuse = True
    # With it, requests that begin alike and run together get wrong tokens (docs/logbook.md).
    scheduling.enable_prefix_caching = False
    properties = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "INFERENCE_NUM_THREADS": str(settings.threads),
        **(_EXACT if precision == "fp32" else {}),
    }
    try:
        return openvino_genai.ContinuousBatchingPipeline(
            str(gguf), scheduling, "CPU", properties, {}
        )
    except RuntimeError as fault:
        last = str(fault).strip().splitlines()[-1]
        raise InvalidInput(
            f"OpenVINO cannot read {gguf.name}: {last}",
            next_step="quantize the model again, or serve it as it is",
        ) from fault
