"""The decoder, prepared for speed: the same function as `models.decoder`, in fewer, larger steps.

Query, key and value weights become one matrix, gate and up another, each prepared for how the
processor multiplies (`products`). Tests hold it to `Decoder`'s logits.

    T tokens   N chosen tokens   D hidden size   H heads   K kv heads   E head size   V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bessemer.inference import precision as precisions
from bessemer.inference import products
from bessemer.inference.adapters import Adapters
from bessemer.inference.products import Linear
from bessemer.models import functions
from bessemer.models.codes import CodedLinear, Int8Matrix
from bessemer.models.config import ModelConfig
from bessemer.models.decoder import Decoder, FeedForward, Layer, SelfAttention
from bessemer.models.rotary import RotaryTable, Rotation

Adapt = Callable[..., Linear]
"""(product, the layers it is of) -> the same with the differences of a step's adapters"""
AttendFused = Callable[[int, Tensor], Tensor]
"""(layer, qkv_TGE with queries and keys rotated; G = H + 2K) -> mixed_THE"""


class _Layer(NamedTuple):
    input_norm_D: Tensor
    qkv: Linear
    query_norm_E: Tensor | None
    key_norm_E: Tensor | None
    out: Linear
    post_norm_D: Tensor
    gate_up: Linear
    down: Linear


class PreparedDecoder:
    """Inference only; takes the weights of `decoder`, which must not be used afterwards."""

    def __init__(self, decoder: Decoder, adapters: Adapters | None = None) -> None:
        assert decoder.config.is_plain, decoder.config
        self.config: ModelConfig = decoder.config
        self._embedding_VD = decoder.model.embed_tokens.weight.detach()
        self.dtype = self._embedding_VD.dtype
        self.device = self._embedding_VD.device
        # All positions at once: looking for the largest would make a GPU wait for the processor.
        every_S = torch.arange(decoder.config.context_length)
        turns = _turns(RotaryTable(decoder.config).at(every_S, self.dtype))
        self._cos_SE, self._sin_SE = (table_SE.to(self.device) for table_SE in turns)
        adapt: Adapt = adapters.wrap if adapters else _as_it_is
        layers = [layer for layer in decoder.model.layers if isinstance(layer, Layer)]
        self._layers = [_prepare_layer(layer, self.dtype, adapt) for layer in layers]
        self._norm_D = decoder.model.norm.weight.detach()
        head_VD = decoder.head_weight.detach()
        self.precision = _precision(decoder, self.dtype)
        coded = self.precision in ("int8", "int4")
        self._head = products.head(head_VD) if coded else products.plain(head_VD, None)

    @torch.inference_mode()
    def forward(self, ids_T: Tensor, positions_T: Tensor, attend: AttendFused) -> Tensor:
        """Hidden states after the final norm, (T, D)."""
        eps = self.config.norm_eps
        x_TD = F.embedding(ids_T, self._embedding_VD)
        cos_T1E = self._cos_SE[positions_T].unsqueeze(1)
        sin_T1E = self._sin_SE[positions_T].unsqueeze(1)
        for index, layer in enumerate(self._layers):
            qkv_TGE = layer.qkv(functions.rms_norm(x_TD, layer.input_norm_D, eps))
            qkv_TGE = qkv_TGE.view(len(ids_T), -1, self.config.head_dim)
            self._rotate(qkv_TGE, layer, cos_T1E, sin_T1E)
            x_TD = x_TD + layer.out(attend(index, qkv_TGE).reshape(len(ids_T), -1))
            gate_TF, up_TF = layer.gate_up(functions.rms_norm(x_TD, layer.post_norm_D, eps)).chunk(
                2, dim=-1
            )
            x_TD = x_TD + layer.down(functions.gate(gate_TF, up_TF))
        return functions.rms_norm(x_TD, self._norm_D, eps)

    @torch.inference_mode()
    def logits(self, hidden_ND: Tensor) -> Tensor:
        """(N, V) in float32 or better."""
        logits_NV = self._head(hidden_ND)
        return logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()

    def _rotate(self, qkv_TGE: Tensor, layer: _Layer, cos_T1E: Tensor, sin_T1E: Tensor) -> None:
        """Norm and rotate queries and keys where they stand, together."""
        heads, keys = self.config.heads, self.config.heads + self.config.kv_heads
        if layer.query_norm_E is not None and layer.key_norm_E is not None:
            eps = self.config.norm_eps
            for part, weight in (
                (qkv_TGE[:, :heads], layer.query_norm_E),
                (qkv_TGE[:, heads:keys], layer.key_norm_E),
            ):
                part.copy_(functions.rms_norm(part, weight, eps))
        turned = qkv_TGE[:, :keys]
        swapped = turned.roll(self.config.head_dim // 2, -1)
        turned.mul_(cos_T1E).addcmul_(swapped, sin_T1E)


def _as_it_is(product: Linear, *_: nn.Module) -> Linear:
    return product


def _turns(rotation: Rotation) -> tuple[Tensor, Tensor]:
    """Cosines and sines for both halves of a head, as `_rotate` multiplies them."""
    cos, sin = rotation
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def _prepare_layer(layer: Layer, dtype: torch.dtype, adapt: Adapt) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    assert isinstance(attention, SelfAttention) and isinstance(mlp, FeedForward)
    q_norm = getattr(attention.q_norm, "weight", None)
    k_norm = getattr(attention.k_norm, "weight", None)

    def joined(*linears: nn.Module, rounds: bool = True) -> Linear:
        return adapt(products.join(*linears, dtype=dtype, rounds=rounds), *linears)

    return _Layer(
        input_norm_D=layer.input_layernorm.weight.detach(),
        qkv=joined(attention.q_proj, attention.k_proj, attention.v_proj),
        query_norm_E=None if q_norm is None else q_norm.detach(),
        key_norm_E=None if k_norm is None else k_norm.detach(),
        out=joined(attention.o_proj),
        post_norm_D=layer.post_attention_layernorm.weight.detach(),
        gate_up=joined(mlp.gate_proj, mlp.up_proj),
        # What the gate lets through has the widest range of all: rounding it costs more than half
        # of what rounding costs in all (logbook), and as much time as it saves.
        down=joined(mlp.down_proj, rounds=False),
    )


def _precision(decoder: Decoder, dtype: torch.dtype) -> str:
    for layer in decoder.modules():
        if isinstance(layer, CodedLinear):
            return "int8" if isinstance(layer.matrix, Int8Matrix) else "int4"
    return precisions.name_of(dtype)
