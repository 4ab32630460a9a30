"""What a decoder looks like, read from and written as Hugging Face's `config.json`. No torch.

One shape covers the Llama family (Llama, Mistral, Qwen2, Qwen3), its mixtures of experts (Mixtral,
Qwen3-MoE, DeepSeek-V3) and GPT-2. How each family spells it is in `spelling`. A setting that would
change the computation and is not known here is refused, never ignored.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bessemer.core.errors import IntegrityError, InvalidInput

Family = Literal[
    "llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe", "deepseek_v3", "gpt2"
]
ARCHITECTURES: dict[Family, str] = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}
_SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "layers", "heads", "kv_heads"),
    *("head_dim", "context_length"),
)
HEAD_SIZE = 64  # of a new model
_LARGEST_SIZE = 1 << 24  # beyond any model; a changed byte must not allocate the machine's memory


class Llama3Scaling(NamedTuple):
    """Llama 3's frequency scaling of rotary embeddings (its config's `rope_type: llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context_length: int


class YarnScaling(NamedTuple):
    """YaRN (Peng et al., 2023), as DeepSeek writes it (`rope_type: yarn`).

    Attributes:
        attention: factor of cosines and sines.
        softmax: factor of the attention scores, from `mscale_all_dim`; 1 where it is not set.
    """

    factor: float
    original_context_length: int
    beta_fast: float
    beta_slow: float
    attention: float
    softmax: float
    truncate: bool
    written: tuple[tuple[str, Any], ...]  # the settings as they were read, to be written again


@dataclass(frozen=True, kw_only=True)
class MoeConfig:
    """Which layers have experts, and how a token finds its own.

    Attributes:
        size: inner size of each expert.
        shared_size: inner size of the experts that every token goes through, together; or 0.
        gate: `softmax` over all experts, or `sigmoid` of each with a bias that only steers
            (DeepSeek-V3).
        normalize: divide the chosen experts' weights by their sum.
        groups, top_groups: experts are chosen within the best groups (DeepSeek-V3).
        scale: factor of the weights.
        dense_layers: indices of layers that have one ordinary feed-forward instead.
        loss_rate: weight of the balancing loss that the model was published with.
    """

    experts: int
    top_k: int
    size: int
    shared_size: int = 0
    gate: Literal["softmax", "sigmoid"] = "softmax"
    normalize: bool = True
    groups: int = 1
    top_groups: int = 1
    scale: float = 1.0
    dense_layers: frozenset[int] = frozenset()
    loss_rate: float = 0.001

    def __post_init__(self) -> None:
        if not 0 < self.top_k <= self.experts:
            raise InvalidInput(f"{self.top_k} of {self.experts} experts cannot be chosen")
        if self.experts % self.groups or not 0 < self.top_groups <= self.groups:
            raise InvalidInput(
                f"{self.experts} experts in {self.groups} groups, {self.top_groups} of them best"
            )
        if self.top_k > self.experts // self.groups * self.top_groups:
            raise InvalidInput(f"{self.top_groups} groups have fewer than {self.top_k} experts")


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """Multi-head latent attention (DeepSeek-V2, 2024): keys and values through a small vector.

    Attributes:
        query_rank: inner size of the queries' product; None for one matrix.
        kv_rank: size of the vector that keys and values come from.
        plain_dim, rotary_dim: a query's and key's part without and with position.
        value_dim: a value's size.
        interleaved: pairs of the rotary part stand side by side, not half a head apart.
    """

    query_rank: int | None
    kv_rank: int
    plain_dim: int
    rotary_dim: int
    value_dim: int
    interleaved: bool = True


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The numbers of one decoder. `head_dim` is explicit: Qwen3's differs from hidden / heads.

    Attributes:
        head_dim: size of a query and key head; with latent attention plain and rotary part.
        layer_windows: of each layer, how many tokens back it sees, itself counted; None for all.
        attention_scales: GPT-2's settings: divide scores by the root of the head size; and by the
            number of the layer.
    """

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
    rope_scaling: Llama3Scaling | YarnScaling | None = None
    tied: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    layer_windows: tuple[int | None, ...] | None = None
    moe: MoeConfig | None = None
    latent: LatentConfig | None = None
    attention_scales: tuple[bool, bool] = (True, False)
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
        if self.rotary_dim % 2 and self.family != "gpt2":
            raise InvalidInput(f"rotary embeddings need an even head size; got {self.rotary_dim}")
        if self.layer_windows is not None:
            widths = [width for width in self.layer_windows if width is not None]
            if len(self.layer_windows) != self.layers or any(width < 1 for width in widths):
                raise InvalidInput(f"{self.layers} layers cannot have windows {self.layer_windows}")

    @property
    def rotary_dim(self) -> int:
        """How much of a query or key turns with its position."""
        return self.latent.rotary_dim if self.latent else self.head_dim

    @property
    def value_dim(self) -> int:
        """Size of a value head."""
        return self.latent.value_dim if self.latent else self.head_dim

    def window(self, layer: int) -> int | None:
        """How many tokens back a layer sees, itself counted; None for all of them."""
        return self.layer_windows[layer] if self.layer_windows else None

    @property
    def is_plain(self) -> bool:
        """Whether this is the Llama family without experts, latent attention or windows."""
        return (
            self.moe is None
            and self.latent is None
            and self.layer_windows is None
            and self.family != "gpt2"
        )

    def has_experts(self, layer: int) -> bool:
        """Whether this layer's feed-forward is a mixture of experts."""
        return self.moe is not None and layer not in self.moe.dense_layers

    @property
    def matmul_parameters(self) -> int:
        """Weights that one token is multiplied with: linear layers and the head, once if tied.

        Of experts only those that it goes through are counted.
        """
        layers = sum(
            self._attention_parameters + self._mlp_parameters(i) for i in range(self.layers)
        )
        return layers + self.vocab_size * self.hidden_size

    @property
    def _attention_parameters(self) -> int:
        if self.latent is None:
            return self.hidden_size * self.head_dim * 2 * (self.heads + self.kv_heads)
        part, hidden = self.latent, self.hidden_size
        queries = self.heads * self.head_dim
        asked = hidden * queries
        if part.query_rank is not None:
            asked = part.query_rank * (hidden + queries)
        down = hidden * (part.kv_rank + part.rotary_dim)
        up = part.kv_rank * self.heads * (part.plain_dim + part.value_dim)
        return asked + down + up + self.heads * part.value_dim * hidden

    def _mlp_parameters(self, layer: int) -> int:
        if self.family == "gpt2":
            return 2 * self.hidden_size * self.intermediate_size
        if self.moe is None or not self.has_experts(layer):
            return 3 * self.hidden_size * self.intermediate_size
        inner = self.moe.top_k * self.moe.size + self.moe.shared_size
        return 3 * self.hidden_size * inner + self.hidden_size * self.moe.experts

    @classmethod
    def from_folder(cls, folder: Path) -> ModelConfig:
        """Read `config.json`.

        Raises:
            IntegrityError: it is missing or not JSON.
            InvalidInput: an architecture or setting that the decoder does not have.
        """
        return cls.from_hf(read_tree(folder))

    @classmethod
    def from_hf(cls, tree: dict[str, Any]) -> ModelConfig:
        """From the parsed `config.json`; both spellings of the rotary settings are read."""
        from bessemer.models.spelling import read  # it is made of this module's nouns

        return read(tree)

    def to_hf(self, dtype: str = "float32") -> dict[str, Any]:
        """As `config.json`, in the spelling that every reader knows (`rope_theta` at the top)."""
        from bessemer.models.spelling import write

        return write(self, dtype)


def new_config(
    depth: int,
    context_length: int,
    *,
    vocab_size: int,
    bos_token_id: int | None,
    eos_token_id: list[int],
) -> ModelConfig:
    """A Llama of `depth` layers: width 64 a layer, heads of 64, two query heads a key head."""
    hidden = HEAD_SIZE * depth
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // HEAD_SIZE * HEAD_SIZE,
        layers=depth,
        heads=depth,
        kv_heads=depth // 2 if depth % 2 == 0 else depth,
        head_dim=HEAD_SIZE,
        context_length=context_length,
        tied=True,
        bos_token_id=bos_token_id,
        eos_token_id=eos_token_id,
    )


def read_tree(folder: Path) -> dict[str, Any]:
    """`config.json` as it is.

    Raises:
        IntegrityError: it is missing or not JSON.
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
    return tree
