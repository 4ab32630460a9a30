"""The decoder, prepared for speed: the same function as `models.decoder`, in fewer, larger steps.

Query, key and value weights become one matrix, gate and up another; on a CPU with oneDNN, 16-bit
matrices are reordered once into the layout its kernels want (a plain bf16 product with one row
costs twice as much). Tests hold it to `Decoder`'s logits.

    T tokens   N chosen tokens   D hidden size   H heads   K kv heads   E head size   V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bessemer.models import functions
from bessemer.models.config import ModelConfig
from bessemer.models.decoder import Decoder, FeedForward, Layer, SelfAttention
from bessemer.models.rotary import RotaryTable

Linear = Callable[[Tensor], Tensor]
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

    def __init__(self, decoder: Decoder) -> None:
        assert decoder.config.is_plain, decoder.config
        self.config: ModelConfig = decoder.config
        self._embedding_VD = decoder.model.embed_tokens.weight.detach()
        self.dtype = self._embedding_VD.dtype
        self.device = self._embedding_VD.device
        self._rotary = RotaryTable(decoder.config)
        self._layers = [
            _prepare_layer(layer) for layer in decoder.model.layers if isinstance(layer, Layer)
        ]
        self._norm_D = decoder.model.norm.weight.detach()
        self._head = make_linear(decoder.head_weight.detach(), None)

    @torch.inference_mode()
    def forward(self, ids_T: Tensor, positions_T: Tensor, attend: AttendFused) -> Tensor:
        """Hidden states after the final norm, (T, D)."""
        eps = self.config.norm_eps
        x_TD = F.embedding(ids_T, self._embedding_VD)
        cos, sin = self._rotary.at(positions_T, self.dtype)
        cos_T1E = torch.cat((cos, cos), -1).unsqueeze(1)
        sin_T1E = torch.cat((-sin, sin), -1).unsqueeze(1)
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


def make_linear(weight_OI: Tensor, bias_O: Tensor | None) -> Linear:
    """`x @ weight.T + bias`, with the weight reordered once where that pays."""
    if weight_OI.dtype == torch.bfloat16 and weight_OI.device.type == "cpu" and _has_onednn():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous(), None)
        product = torch.ops.mkldnn._linear_pointwise
        return lambda x: product(x, packed, bias_O, "none", [], "")
    return lambda x: F.linear(x, weight_OI, bias_O)


def _has_onednn() -> bool:
    return bool(
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def _prepare_layer(layer: Layer) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    assert isinstance(attention, SelfAttention) and isinstance(mlp, FeedForward)
    q_norm = getattr(attention.q_norm, "weight", None)
    k_norm = getattr(attention.k_norm, "weight", None)
    return _Layer(
        input_norm_D=layer.input_layernorm.weight.detach(),
        qkv=join(attention.q_proj, attention.k_proj, attention.v_proj),
        query_norm_E=None if q_norm is None else q_norm.detach(),
        key_norm_E=None if k_norm is None else k_norm.detach(),
        out=join(attention.o_proj),
        post_norm_D=layer.post_attention_layernorm.weight.detach(),
        gate_up=join(mlp.gate_proj, mlp.up_proj),
        down=join(mlp.down_proj),
    )


def join(*linears: torch.nn.Linear) -> Linear:
    """Several linear layers of one input as one, their outputs side by side."""
    weight_OI = torch.cat([linear.weight.detach() for linear in linears])
    biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
    return make_linear(weight_OI, torch.cat(biases) if biases else None)
