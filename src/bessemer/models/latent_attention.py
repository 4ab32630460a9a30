"""Multi-head latent attention (DeepSeek-V2, 2024, section 2.1).

Keys and values of all heads come from one small vector a token, and so may queries; position is in
a part of its own, which for keys is one for all heads. What attends is the same as ever: a query
or key is its plain part and its rotary part, side by side.

    T tokens   D hidden size   H heads   P plain, R rotary, V value size of a head   C kv rank
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bessemer.models import functions
from bessemer.models.attention import Attend
from bessemer.models.config import ModelConfig, YarnScaling
from bessemer.models.norm import RMSNorm
from bessemer.models.rotary import Rotation


class LatentAttention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.latent is not None
        self.latent = part = config.latent
        self.heads = config.heads
        hidden, queries, bias = config.hidden_size, config.heads * config.head_dim, config.qkv_bias
        if part.query_rank is None:
            self.q_proj = nn.Linear(hidden, queries, bias=False)
        else:
            self.q_a_proj = nn.Linear(hidden, part.query_rank, bias=bias)
            # DeepSeek's inner norms have an epsilon of their own, whatever the config says.
            self.q_a_layernorm = RMSNorm(part.query_rank, 1e-6)
            self.q_b_proj = nn.Linear(part.query_rank, queries, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(hidden, part.kv_rank + part.rotary_dim, bias=bias)
        self.kv_a_layernorm = RMSNorm(part.kv_rank, 1e-6)
        pairs = config.heads * (part.plain_dim + part.value_dim)
        self.kv_b_proj = nn.Linear(part.kv_rank, pairs, bias=False)
        values = config.heads * part.value_dim
        self.o_proj = nn.Linear(values, hidden, bias=config.output_bias)
        # What YaRN does to the scores is done to the queries: `attend` divides by the root of
        # the head size and knows nothing else.
        scaling = config.rope_scaling
        self._sharper = scaling.softmax if isinstance(scaling, YarnScaling) else 1.0

    def forward(self, x_TD: Tensor, rotation: Rotation, layer: int, attend: Attend) -> Tensor:
        part, tokens = self.latent, len(x_TD)
        q_THE = self._queries(x_TD).view(tokens, self.heads, -1)
        q_plain, q_rotary = torch.split(q_THE, [part.plain_dim, part.rotary_dim], dim=-1)
        latent_TC, k_rotary = torch.split(
            self.kv_a_proj_with_mqa(x_TD), [part.kv_rank, part.rotary_dim], dim=-1
        )
        kv_TH = self.kv_b_proj(self.kv_a_layernorm(latent_TC)).view(tokens, self.heads, -1)
        k_plain, v_THV = torch.split(kv_TH, [part.plain_dim, part.value_dim], dim=-1)
        q_THE = torch.cat((q_plain, self._turn(q_rotary, rotation)), dim=-1)
        turned_T1R = self._turn(k_rotary.unsqueeze(1), rotation)
        k_THE = torch.cat((k_plain, turned_T1R.expand(-1, self.heads, -1)), dim=-1)
        if self._sharper != 1.0:
            q_THE = q_THE * self._sharper
        mixed_THV = attend(layer, q_THE, k_THE, v_THV)
        out: Tensor = self.o_proj(mixed_THV.reshape(tokens, -1))
        return out

    def _queries(self, x_TD: Tensor) -> Tensor:
        if self.latent.query_rank is None:
            queries: Tensor = self.q_proj(x_TD)
        else:
            queries = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_TD)))
        return queries

    def _turn(self, x_THR: Tensor, rotation: Rotation) -> Tensor:
        if self.latent.interleaved:
            x_THR = torch.cat((x_THR[..., 0::2], x_THR[..., 1::2]), dim=-1)
        return functions.rotate(x_THR, *rotation)
