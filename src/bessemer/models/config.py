"""What a decoder looks like, read from and written as Hugging Face's `config.json`. No torch.

One shape covers the Llama family: Llama, Qwen2 and Qwen3 (dense). A setting that would change
the computation and is not known here is refused, never ignored.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bessemer.core.errors import IntegrityError, InvalidInput

Family = Literal["llama", "qwen2", "qwen3"]
ARCHITECTURES: dict[Family, str] = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "layers", "heads", "kv_heads"),
    *("head_dim", "context_length"),
)
_LARGEST_SIZE = 1 << 24  # beyond any model; a changed byte must not allocate the machine's memory


class Llama3Scaling(NamedTuple):
    """Llama 3's frequency scaling of rotary embeddings (its config's `rope_type: llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context_length: int


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The numbers of one decoder. `head_dim` is explicit: Qwen3's differs from hidden / heads."""

    family: Family = "llama"
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context_length: int
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_scaling: Llama3Scaling | None = None
    tied: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in _SIZES:
            value = getattr(self, name)
            if type(value) is not int or not 0 < value <= _LARGEST_SIZE:
                raise InvalidInput(f"{name} must be from 1 to {_LARGEST_SIZE:,}; got {value!r}")
        for name in ("norm_eps", "rope_theta"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise InvalidInput(f"{name} must be a finite number above 0; got {value!r}")
        if self.heads % self.kv_heads:
            raise InvalidInput(f"{self.heads} heads cannot share {self.kv_heads} key-value heads")
        if self.head_dim % 2:
            raise InvalidInput(f"rotary embeddings need an even head size; got {self.head_dim}")

    @property
    def matmul_parameters(self) -> int:
        """Weights that multiply activations: all linear layers and the head, once if tied."""
        attention = self.hidden_size * self.head_dim * 2 * (self.heads + self.kv_heads)
        mlp = 3 * self.hidden_size * self.intermediate_size
        return self.layers * (attention + mlp) + self.vocab_size * self.hidden_size

    @classmethod
    def from_folder(cls, folder: Path) -> ModelConfig:
        """Read `config.json`.

        Raises:
            IntegrityError: it is missing or not JSON.
            InvalidInput: an architecture or setting that the decoder does not have.
        """
        path = folder / "config.json"
        try:
            tree = json.loads(path.read_text())
        except FileNotFoundError:
            raise IntegrityError(
                f"{folder} has no config.json, so it is not a Hugging Face model folder"
            ) from None
        except ValueError as fault:
            raise IntegrityError(f"{path} is not JSON: {fault}") from fault
        if not isinstance(tree, dict):
            raise IntegrityError(f"{path} holds a {type(tree).__name__}, not an object of settings")
        return cls.from_hf(tree)

    @classmethod
    def from_hf(cls, tree: dict[str, Any]) -> ModelConfig:
        """From the parsed `config.json`; both spellings of the rotary settings are read."""
        family = tree.get("model_type")
        if not isinstance(family, str) or family not in ARCHITECTURES:
            raise InvalidInput(
                f"model_type {family!r} is not one of {', '.join(ARCHITECTURES)}",
                next_step="convert the model, or serve it with another engine",
            )
        try:
            _refuse_what_is_not_here(tree)
            return cls(
                family=family,
                vocab_size=tree["vocab_size"],
                hidden_size=tree["hidden_size"],
                intermediate_size=tree["intermediate_size"],
                layers=tree["num_hidden_layers"],
                heads=tree["num_attention_heads"],
                kv_heads=tree.get("num_key_value_heads") or tree["num_attention_heads"],
                head_dim=tree.get("head_dim") or _default_head_dim(family, tree),
                context_length=tree.get("max_position_embeddings", 2048),
                norm_eps=tree.get("rms_norm_eps", 1e-6),
                rope_theta=float(_rope(tree).get("rope_theta", 10_000.0)),
                rope_scaling=_llama3(_rope(tree)),
                tied=tree.get("tie_word_embeddings", False),
                qkv_bias=family == "qwen2" or tree.get("attention_bias", False),
                output_bias=family != "qwen2" and tree.get("attention_bias", False),
                mlp_bias=family == "llama" and tree.get("mlp_bias", False),
                qk_norm=family == "qwen3",
                initializer_range=tree.get("initializer_range", 0.02),
                bos_token_id=tree.get("bos_token_id"),
                eos_token_id=tree.get("eos_token_id"),
                pad_token_id=tree.get("pad_token_id"),
            )
        except KeyError as fault:
            raise IntegrityError(f"config.json lacks {fault.args[0]!r}") from fault
        except (TypeError, ValueError, AttributeError, ArithmeticError) as fault:
            raise IntegrityError(f"config.json has a value of the wrong kind: {fault}") from fault

    def to_hf(self, dtype: str = "float32") -> dict[str, Any]:
        """As `config.json`, in the spelling that every reader knows (`rope_theta` at the top)."""
        tree: dict[str, Any] = {
            "architectures": [ARCHITECTURES[self.family]],
            "model_type": self.family,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.context_length,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": None,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tied,
            "attention_bias": self.output_bias,
            "initializer_range": self.initializer_range,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_id,
            "pad_token_id": self.pad_token_id,
            "torch_dtype": dtype,
            "use_cache": True,
        }
        if self.family == "llama":
            tree["mlp_bias"] = self.mlp_bias
        if self.rope_scaling is not None:
            tree["rope_scaling"] = {
                "rope_type": "llama3",
                "factor": self.rope_scaling.factor,
                "low_freq_factor": self.rope_scaling.low_freq_factor,
                "high_freq_factor": self.rope_scaling.high_freq_factor,
                "original_max_position_embeddings": self.rope_scaling.original_context_length,
            }
        return tree


def _refuse_what_is_not_here(tree: dict[str, Any]) -> None:
    problems = []
    if tree.get("hidden_act", "silu") != "silu":
        problems.append(f"hidden_act {tree['hidden_act']!r} (only silu)")
    if tree.get("use_sliding_window") and tree.get("sliding_window"):
        problems.append("sliding-window attention")
    if set(tree.get("layer_types") or ()) - {"full_attention"}:
        problems.append(f"layer_types {sorted(set(tree['layer_types']))}")
    if tree.get("quantization_config"):
        problems.append("weights quantized inside the folder")
    if float(_rope(tree).get("partial_rotary_factor", 1.0)) != 1.0:
        problems.append("partial rotary embeddings")
    kind = _rope_type(_rope(tree))
    if kind not in ("default", "llama3"):
        problems.append(f"rope_type {kind!r} (only default and llama3)")
    if problems:
        raise InvalidInput(
            "this model needs what the decoder does not have: " + "; ".join(problems)
        )


def _rope(tree: dict[str, Any]) -> dict[str, Any]:
    """Rotary settings: the newer `rope_parameters`, or `rope_theta` with `rope_scaling`."""
    top = {key: tree[key] for key in ("rope_theta", "partial_rotary_factor") if tree.get(key)}
    return top | (tree.get("rope_scaling") or {}) | (tree.get("rope_parameters") or {})


def _rope_type(rope: dict[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _llama3(rope: dict[str, Any]) -> Llama3Scaling | None:
    if _rope_type(rope) != "llama3":
        return None
    return Llama3Scaling(
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_context_length=int(rope["original_max_position_embeddings"]),
    )


def _default_head_dim(family: str, tree: dict[str, Any]) -> int:
    # Qwen3's own default does not follow from the hidden size.
    return 128 if family == "qwen3" else int(tree["hidden_size"] // tree["num_attention_heads"])
