"""GPT-2's layers (Radford et al., 2019): LayerNorm, learned positions, GELU, biases everywhere.

Names and layout are Hugging Face's: matrices are stored transposed, inputs first, and query, key
and value are one. Dropout is left out, as everywhere in this house.

    T tokens   D hidden size   H heads
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bessemer.models.attention import Attend
from bessemer.models.config import ModelConfig


class Conv1D(nn.Module):
    """A linear layer whose matrix is stored inputs first. (It never was a convolution.)"""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    @property
    def matrix(self) -> Tensor:
        """(outputs, inputs), as `nn.Linear` has it: the same storage."""
        return self.weight.T

    def forward(self, x_TD: Tensor) -> Tensor:
        return torch.addmm(self.bias, x_TD, self.weight)


class Gpt2Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.c_attn = Conv1D(config.hidden_size, 3 * config.hidden_size)
        self.c_proj = Conv1D(config.hidden_size, config.hidden_size)
        by_size, by_layer = config.attention_scales
        # `attend` divides by the root of the head size; what differs from that goes into q.
        self._factor = (1.0 if by_size else config.head_dim**0.5) / (layer + 1 if by_layer else 1)

    def forward(self, x_TD: Tensor, layer: int, attend: Attend) -> Tensor:
        parts = self.c_attn(x_TD).chunk(3, dim=-1)
        q_THD, k_THD, v_THD = (part.view(len(x_TD), self.heads, -1) for part in parts)
        if self._factor != 1.0:
            q_THD = q_THD * self._factor
        mixed_THD = attend(layer, q_THD, k_THD, v_THD)
        out: Tensor = self.c_proj(mixed_THD.reshape(len(x_TD), -1))
        return out


class Gpt2FeedForward(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_fc = Conv1D(config.hidden_size, config.intermediate_size)
        self.c_proj = Conv1D(config.intermediate_size, config.hidden_size)

    def forward(self, x_TD: Tensor) -> Tensor:
        out: Tensor = self.c_proj(F.gelu(self.c_fc(x_TD), approximate="tanh"))
        return out


class Gpt2Layer(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.attn = Gpt2Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.mlp = Gpt2FeedForward(config)

    def forward(self, x_TD: Tensor, layer: int, attend: Attend) -> Tensor:
        x_TD = x_TD + self.attn(self.ln_1(x_TD), layer, attend)
        out: Tensor = x_TD + self.mlp(self.ln_2(x_TD))
        return out


class Gpt2Trunk(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.wpe = nn.Embedding(config.context_length, config.hidden_size)
        self.h = nn.ModuleList(Gpt2Layer(config, i) for i in range(config.layers))
        self.ln_f = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.recompute = False

    def forward(self, ids_T: Tensor, positions_T: Tensor, attend: Attend) -> Tensor:
        x_TD = self.wte(ids_T) + self.wpe(positions_T)
        for index, layer in enumerate(self.h):
            if self.recompute and torch.is_grad_enabled():
                x_TD = checkpoint(layer, x_TD, index, attend, use_reentrant=False)
            else:
                x_TD = layer(x_TD, index, attend)
        out: Tensor = self.ln_f(x_TD)
        return out
