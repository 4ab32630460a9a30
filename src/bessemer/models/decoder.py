"""One decoder for the Llama family, in plain PyTorch; its parameter names are Hugging Face's.

Everything is flat over tokens: T tokens of however many documents or requests go through the
linear layers as one matrix, and the `attend` that the caller hands in decides which token sees
which. Training, prefill and decode are therefore the same code.

    T tokens   N chosen tokens   V vocabulary   D hidden size   F feed-forward size
    H heads    K key-value heads   (in q_THD the last D is the head size)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bessemer.models import functions
from bessemer.models.attention import Attend
from bessemer.models.config import ModelConfig
from bessemer.models.rotary import RotaryTable, Rotation


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x_TD: Tensor) -> Tensor:
        return functions.rms_norm(x_TD, self.weight, self.eps)


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
        heads = (len(x_TD), -1, self.head_dim)
        q_THD = functions.rotate(self.q_norm(self.q_proj(x_TD).view(heads)), *rotation)
        k_TKD = functions.rotate(self.k_norm(self.k_proj(x_TD).view(heads)), *rotation)
        v_TKD = self.v_proj(x_TD).view(heads)
        mixed_THD = attend(layer, q_THD, k_TKD, v_TKD)
        out: Tensor = self.o_proj(mixed_THD.reshape(len(x_TD), -1))
        return out


class FeedForward(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(hidden, inner, bias=bias)
        self.up_proj = nn.Linear(hidden, inner, bias=bias)
        self.down_proj = nn.Linear(inner, hidden, bias=bias)

    def forward(self, x_TD: Tensor) -> Tensor:
        out: Tensor = self.down_proj(functions.gate(self.gate_proj(x_TD), self.up_proj(x_TD)))
        return out


class Layer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.self_attn = SelfAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x_TD: Tensor, rotation: Rotation, layer: int, attend: Attend) -> Tensor:
        x_TD = x_TD + self.self_attn(self.input_layernorm(x_TD), rotation, layer, attend)
        out: Tensor = x_TD + self.mlp(self.post_attention_layernorm(x_TD))
        return out


class Trunk(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)


class Decoder(nn.Module):
    """A causal language model.

    >>> hidden_TD = decoder(ids_T, positions_T, PackedAttention([3, 5]))
    >>> logits_NV = decoder.logits(hidden_TD[[2, 7]])   # after each document's last token
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Trunk(config)
        if not config.tied:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._rotary = RotaryTable(config)

    @property
    def head_weight(self) -> Tensor:
        """The (V, D) matrix that turns hidden states into logits; the embedding if tied."""
        return self.model.embed_tokens.weight if self.config.tied else self.lm_head.weight

    def forward(self, ids_T: Tensor, positions_T: Tensor, attend: Attend) -> Tensor:
        """Hidden states after the final norm, (T, D).

        Args:
            ids_T: int64 token ids of all documents, one after another.
            positions_T: int64 position of each within its document.
            attend: who sees whom; see `bessemer.models.attention`.
        """
        x_TD = self.model.embed_tokens(ids_T)
        rotation = self._rotary.at(positions_T, x_TD.dtype)
        for index, layer in enumerate(self.model.layers):
            x_TD = layer(x_TD, rotation, index, attend)
        out: Tensor = self.model.norm(x_TD)
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
