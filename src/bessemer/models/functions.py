"""The small functions between the matrix products: norm, rotation, gate.

T tokens   H heads   K key-value heads   D size (of a head or of the hidden state)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bessemer.models.gradients import Heads, RmsNorm, Rotate, SwiGlu


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm (Zhang and Sennrich, 2019).

    In float64 the statistics are still taken in float32, as the reference implementations
    define it, so that parity tests in float64 compare the same function.
    """
    if x_TD.dtype == torch.float64:
        x = x_TD.float()
        normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
        return weight_D * normed.to(x_TD.dtype)
    if _trains_here(x_TD, weight_D):
        normed_TD: Tensor = RmsNorm.apply(x_TD, weight_D, eps)  # type: ignore[no-untyped-call]
        return normed_TD
    return F.rms_norm(x_TD, (x_TD.shape[-1],), weight_D, eps)


def rotate(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Rotary position embedding (Su et al., 2021), halves layout.

    `cos_TD` and `sin_TD` have half the head size: one angle per pair.
    """
    if _trains_here(x_THD):
        turned_THD: Tensor = Rotate.apply(x_THD, cos_TD, sin_TD)  # type: ignore[no-untyped-call]
        return turned_THD
    cos, sin = cos_TD.unsqueeze(1), sin_TD.unsqueeze(1)
    first, second = x_THD.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def gate(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    """SwiGLU's product: silu(gate) * up (Shazeer, 2020)."""
    return F.silu(gate_TF) * up_TF


def heads(
    x_TD: Tensor,
    cos_TD: Tensor,
    sin_TD: Tensor,
    projections: tuple[nn.Module, nn.Module, nn.Module],
    norms: tuple[nn.Module, nn.Module],
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, (T, H, D) each, the first two normed and rotated."""
    if all(type(norm) is nn.Identity for norm in norms) and _train_here(x_TD, projections):
        q_THD, k_THD, v_THD = Heads.apply(x_TD, cos_TD, sin_TD, *_weights(projections))  # type: ignore[no-untyped-call]
        return q_THD, k_THD, v_THD
    shape = (len(x_TD), -1, 2 * cos_TD.shape[1])
    q_THD, k_THD, v_THD = (projection(x_TD).view(shape) for projection in projections)
    q_THD, k_THD = norms[0](q_THD), norms[1](k_THD)
    return rotate(q_THD, cos_TD, sin_TD), rotate(k_THD, cos_TD, sin_TD), v_THD


def swiglu(x_TD: Tensor, gate: nn.Module, up: nn.Module, down: nn.Module) -> Tensor:
    """down(silu(gate(x)) * up(x)) (Shazeer, 2020)."""
    if _train_here(x_TD, (down, gate, up)):
        y_TD: Tensor = SwiGlu.apply(x_TD, *_weights((down, gate, up)))  # type: ignore[no-untyped-call]
        return y_TD
    out_TD: Tensor = down(F.silu(gate(x_TD)) * up(x_TD))
    return out_TD


def _train_here(x_TD: Tensor, layers: tuple[nn.Module, ...]) -> bool:
    """Whether these are plain matrices (no bias, no LoRA) of a network that is trained here."""
    plain = all(type(layer) is nn.Linear and layer.bias is None for layer in layers)
    return plain and _trains_here(x_TD, *_weights(layers))


def _weights(layers: tuple[nn.Module, ...]) -> list[Tensor]:
    return [layer.get_parameter("weight") for layer in layers]


def _trains_here(*inputs: Tensor) -> bool:
    """Whether a gradient will be asked for, on a processor where the written ones are faster."""
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    return wanted and inputs[0].device.type == "cpu"
