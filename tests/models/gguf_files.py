"""Small GGUF files, made as llama.cpp's converter makes them, from random models and tiny BPEs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers as splitters
from tokenizers.trainers import BpeTrainer
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from tests.models.gguf_blocks import random_blocks

CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
USER_DEFINED = "<tool_call>"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
)
SAMPLES = [
    "The year 2024 had 366 days, and 1234567 is a number.",
    "we're   they'LL  I'd \n\n  x = foo(bar)[12]\r\n\treturn  ",
    "naïve façade 東京 café e\u0301te\u0301 🙂👩‍👩‍👧",
    '<|im_start|>user\nhello<|im_end|>\n<tool_call>{"a": 1}</tool_call>',
    "",
    " leading and trailing ",
    "...!!!?? $100.00 a_b-c :: // #include <stdio.h>",
]
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _split(digits: str) -> Any:
    pattern = Regex(_LETTERS + digits + _REST)
    return splitters.Sequence(
        [
            splitters.Split(pattern, behavior="isolated", invert=False),
            splitters.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )


def _splitter(pre: str) -> Any:
    gpt2 = splitters.ByteLevel(add_prefix_space=False)
    if pre == "smollm":
        return splitters.Sequence([splitters.Digits(individual_digits=True), gpt2])
    return {"llama-bpe": _split(r"\p{N}{1,3}"), "qwen2": _split(r"\p{N}")}.get(pre, gpt2)


@cache
def tiny_tokenizer(pre: str = "smollm") -> Tokenizer:
    """A byte-level BPE as the models of this pre-tokenizer have it, trained on `SAMPLES`."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    # Trained on longer pieces than its splitter leaves: a wrong splitter then gives wrong ids.
    tokenizer.pre_tokenizer = _splitter("default")
    tokenizer.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    trainer = BpeTrainer(
        vocab_size=360,  # what every pre-tokenizer reaches on so little text
        min_frequency=1,
        special_tokens=CONTROLS,
        initial_alphabet=splitters.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*SAMPLES, "1234567 2024 366 12 123\n\n" * 5], trainer)
    tokenizer.pre_tokenizer = _splitter(pre)
    tokenizer.add_tokens([AddedToken(USER_DEFINED, special=False, normalized=False)])
    return tokenizer


@cache
def tiny_model(family: str, *, tied: bool = False, wide: bool = False, **more: Any) -> Any:
    """A random transformers model; `wide` ones have rows of 256, which K-quants need."""
    size = 256 if wide else 32
    shape = {
        "vocab_size": tiny_tokenizer().get_vocab_size(),
        "hidden_size": size,
        "intermediate_size": size * 2,
        "num_hidden_layers": 1 if wide else 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.3,
        "tie_word_embeddings": tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    kinds: dict[str, Any] = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
    if family == "qwen3":
        more["head_dim"] = 16 if not wide else 64
    transformers.set_seed(0)
    model = AutoModelForCausalLM.from_config(kinds[family](**shape | more))
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "norm.weight", "layernorm.weight")):
            torch.nn.init.normal_(parameter, 1.0, 0.2)
    return model.eval()


@dataclass
class Source:
    """What stands in a GGUF file, to be changed before it is written."""

    architecture: str
    facts: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, tuple[np.ndarray[Any, Any], GGMLQuantizationType]] = field(
        default_factory=dict
    )

    def write(self, path: Path) -> Path:
        writer = GGUFWriter(path, self.architecture)
        for key, value in self.facts.items():
            if isinstance(value, list):
                writer.add_array(key, value)
            else:
                writer.add_key_value(key, value, _KINDS[type(value)])
        for name, (data, kind) in self.tensors.items():
            writer.add_tensor(name, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


_KINDS = {
    int: GGUFValueType.UINT32,
    float: GGUFValueType.FLOAT32,
    bool: GGUFValueType.BOOL,
    str: GGUFValueType.STRING,
}


def source_of(model: Any, kind: str = "F32", pre: str = "smollm") -> Source:
    """The file of this model with its matrices in `kind`, norms and biases in F32."""
    config, family = model.config, model.config.model_type
    source = Source(family, _model_facts(config, family) | tokenizer_facts(pre))
    random = np.random.default_rng(7)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = _permuted(tensor.float().numpy(), name, config)
        as_kind = kind if values.ndim > 1 else "F32"
        source.tensors[gguf_name(name)] = _stored(values, as_kind, random)
    return source


def gguf_name(name: str) -> str:
    for theirs, ours in _NAMES:
        name = name.replace(theirs, ours)
    return name


def _model_facts(config: Any, family: str) -> dict[str, Any]:
    facts = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
    }
    if family == "qwen3":
        facts["attention.key_length"] = facts["attention.value_length"] = config.head_dim
    return {f"{family}.{key}": value for key, value in facts.items()}


def tokenizer_facts(pre: str) -> dict[str, Any]:
    tokenizer = tiny_tokenizer(pre)
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    tokens = sorted(vocab, key=vocab.__getitem__)
    facts = {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": [_token_type(token) for token in tokens],
        "merges": [" ".join(pair) for pair in _merges(tokenizer)],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "padding_token_id": 2,
        "add_bos_token": False,
    }
    named = {f"tokenizer.ggml.{key}": value for key, value in facts.items()}
    return named | {"tokenizer.chat_template": TEMPLATE}


def _merges(tokenizer: Tokenizer) -> list[list[str]]:
    merges: list[list[str]] = json.loads(tokenizer.to_str())["model"]["merges"]
    return merges


def _token_type(token: str) -> int:
    return 3 if token in CONTROLS else 4 if token == USER_DEFINED else 1


def _permuted(values: np.ndarray[Any, Any], name: str, config: Any) -> np.ndarray[Any, Any]:
    """llama.cpp's converter turns the halves of each head's rotary pairs into neighbors."""
    if config.model_type != "llama" or not any(part in name for part in ("q_proj", "k_proj")):
        return values
    heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
    rows = values.shape[0] // heads // 2
    split = values.reshape(heads, 2, rows, *values.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(values.shape))


def _stored(
    values: np.ndarray[Any, Any], kind: str, random: np.random.Generator
) -> tuple[np.ndarray[Any, Any], GGMLQuantizationType]:
    type_ = GGMLQuantizationType[kind]
    if kind.endswith("_K"):  # the package cannot quantize to these: any valid blocks will do
        data = random_blocks(kind, values.size // 256, random)
        return np.frombuffer(data, np.uint8).reshape(values.shape[0], -1), type_
    return gguf.quantize(np.ascontiguousarray(values), type_), type_


_NAMES = [
    ("model.layers.", "blk."),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("input_layernorm", "attn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
]
