"""One decoder for every native family, in plain PyTorch; its parameter names are Hugging Face's.

The Llama family with its mixtures of experts (`experts`) and latent attention is here; GPT-2's
layers are in `gpt2`.

Everything is flat over tokens: T tokens of however many documents or requests go through the
linear layers as one matrix, and the `attend` that the caller hands in decides which token sees
which. Training, prefill and decode are therefore the same code.

    T tokens   N chosen tokens   V vocabulary   D hidden size   F feed-forward size
    H heads    K key-value heads   (in q_THD the last D is the head size)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bessemer.models import functions
from bessemer.models.attention import Attend
from bessemer.models.config import ModelConfig
from bessemer.models.experts import MixtureOfExperts, routers
from bessemer.models.gpt2 import Gpt2Trunk
from bessemer.models.latent_attention import LatentAttention
from bessemer.models.norm import RMSNorm
from bessemer.models.rotary import RotaryTable, Rotation


class SelfAttention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        hidden, bias = config.hidden_size, config.qkv_bias
        self.q_proj = nn.Linear(hidden, config.heads * config.head_dim, bias=bias)
        self.k_proj = nn.Linear(hidden, config.kv_heads * config.head_dim, bias=bias)
        self.v_proj = nn.Linear(hidden, config.kv_heads * config.head_dim, bias=bias)
        self.o_proj = nn.Linear(config.heads * config.head_dim, hidden, bias=config.output_bias)
        if config.qk_norm:
            self.q_norm: nn.Module = RMSNorm(config.head_dim, config.norm_eps)
            self.k_norm: nn.Module = RMSNorm(config.head_dim, config.norm_eps)
        else:
            self.q_norm = self.k_norm = nn.Identity()

    def forward(self, x_TD: Tensor, rotation: Rotation, layer: int, attend: Attend) -> Tensor:
        projections = (self.q_proj, self.k_proj, self.v_proj)
        norms = (self.q_norm, self.k_norm)
        q_THD, k_TKD, v_TKD = functions.heads(x_TD, *rotation, projections, norms)
        mixed_THD = attend(layer, q_THD, k_TKD, v_TKD)
        out: Tensor = self.o_proj(mixed_THD.reshape(len(x_TD), -1))
        return out


class FeedForward(nn.Module):
    def __init__(self, config: ModelConfig, inner: int) -> None:
        super().__init__()
        hidden, bias = config.hidden_size, config.mlp_bias
        self.gate_proj = nn.Linear(hidden, inner, bias=bias)
        self.up_proj = nn.Linear(hidden, inner, bias=bias)
        self.down_proj = nn.Linear(inner, hidden, bias=bias)

    def forward(self, x_TD: Tensor) -> Tensor:
        return functions.swiglu(x_TD, self.gate_proj, self.up_proj, self.down_proj)


class Layer(nn.Module):
    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.self_attn: nn.Module = (
            LatentAttention(config) if config.latent else SelfAttention(config)
        )
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = _feed_forward(config, index)

    def forward(self, x_TD: Tensor, rotation: Rotation, layer: int, attend: Attend) -> Tensor:
        x_TD = x_TD + self.self_attn(self.input_layernorm(x_TD), rotation, layer, attend)
        out: Tensor = x_TD + self.mlp(self.post_attention_layernorm(x_TD))
        return out


def _feed_forward(config: ModelConfig, layer: int) -> nn.Module:
    moe = config.moe
    if moe is None or not config.has_experts(layer):
        return FeedForward(config, config.intermediate_size)
    shared = FeedForward(config, moe.shared_size) if moe.shared_size else None
    return MixtureOfExperts(config.hidden_size, moe, shared)


class Trunk(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.recompute = False
        self._rotary = RotaryTable(config)

    def forward(self, ids_T: Tensor, positions_T: Tensor, attend: Attend) -> Tensor:
        x_TD = self.embed_tokens(ids_T)
        rotation = self._rotary.at(positions_T, x_TD.dtype)
        for index, layer in enumerate(self.layers):
            if self.recompute and torch.is_grad_enabled():
                x_TD = checkpoint(layer, x_TD, rotation, index, attend, use_reentrant=False)
            else:
                x_TD = layer(x_TD, rotation, index, attend)
        out: Tensor = self.norm(x_TD)
        return out


class Decoder(nn.Module):
    """A causal language model.

    >>> hidden_TD = decoder(ids_T, positions_T, PackedAttention([3, 5]))
    >>> logits_NV = decoder.logits(hidden_TD[[2, 7]])   # after each document's last token
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        if config.family == "gpt2":
            self.transformer = Gpt2Trunk(config)
        else:
            self.model = Trunk(config)
        if not config.tied:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def trunk(self) -> Trunk | Gpt2Trunk:
        """Everything but the head."""
        return self.transformer if self.config.family == "gpt2" else self.model

    @property
    def layer_windows(self) -> tuple[int | None, ...] | None:
        """Of each layer, how many tokens back it sees; None for all."""
        return self.config.layer_windows

    def recompute_layers(self, on: bool) -> None:
        """Keep each layer's input only, and compute it again going backward."""
        self.trunk.recompute = on

    @property
    def attention_width(self) -> int:
        """Sizes of a query and a value head, summed over heads and layers."""
        config = self.config
        return config.heads * (config.head_dim + config.value_dim) * config.layers

    @property
    def head_weight(self) -> Tensor:
        """The (V, D) matrix that turns hidden states into logits; the embedding if tied."""
        return self.embedding_weight if self.config.tied else self.lm_head.weight

    @property
    def embedding_weight(self) -> Tensor:
        """The (V, D) table of the tokens' vectors."""
        trunk = self.trunk
        return trunk.wte.weight if isinstance(trunk, Gpt2Trunk) else trunk.embed_tokens.weight

    def balance(self, rate: float) -> None:
        """Even the load of experts without a gradient; see `experts.Router.balance`."""
        for router in routers(self):
            router.balance(rate)

    def forward(self, ids_T: Tensor, positions_T: Tensor, attend: Attend) -> Tensor:
        """Hidden states after the final norm, (T, D).

        Args:
            ids_T: int64 token ids of all documents, one after another.
            positions_T: int64 position of each within its document.
            attend: who sees whom; see `bessemer.models.attention`.
        """
        out: Tensor = self.trunk(ids_T, positions_T, attend)
        return out

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Scores of every next token, (N, V), for the hidden states you choose."""
        return nn.functional.linear(hidden_ND, self.head_weight)

    @torch.no_grad()
    def init_weights(self, seed: int) -> Decoder:
        """Normal with the config's range for matrices, ones for norms, zeros for biases."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, self.config.initializer_range, generator=generator)
        return self
