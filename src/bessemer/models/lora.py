"""LoRA: train B A, a low-rank difference to a frozen matrix (Hu et al., 2021).

    y = x W^T + (alpha / rank) drop(x) A^T B^T      A (rank, in), B (out, rank), both float32

The frozen matrix stays in the precision it was loaded in, or in 8 or 4 bits (`models.quantized`;
QLoRA, Dettmers et al., 2023), and gets no gradient. B starts at zero, so training starts from
exactly the base model. Folders are `adapter`'s work.

    T tokens   I inputs   O outputs   R rank
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bessemer.core.errors import InvalidInput
from bessemer.models.gpt2 import Conv1D
from bessemer.models.quantized import Bits, QuantizedMatrix, quantize

Linear = nn.Linear | Conv1D
ALL_LINEAR = "all-linear"
NOT_A_TARGET = ("lm_head", "embed_out", "output_projection", "score")  # heads


class LoraLinear(nn.Module):
    """A frozen linear layer and its trained difference.

    Args:
        dropout: share of the difference's inputs left out, in training mode.
        bits: keep the frozen matrix in 8 or 4 bits.
    """

    weight: Tensor | None

    def __init__(
        self,
        base: Linear,
        rank: int,
        alpha: float,
        generator: torch.Generator,
        *,
        dropout: float = 0.0,
        bits: Bits | None = None,
    ):
        super().__init__()
        matrix_OI = matrix_of(base)
        self._quantized = quantize(matrix_OI, bits) if bits else None
        kept = None if bits else nn.Parameter(matrix_OI.detach(), requires_grad=False)
        self.register_parameter("weight", kept)
        bias = base.bias
        kept = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.register_parameter("bias", kept)
        self.scale, self.dropout = alpha / rank, dropout
        outputs, inputs = matrix_OI.shape
        self.stored_transposed = isinstance(base, Conv1D)
        self.matrix_elements = outputs * inputs
        # Uniform in +-1/sqrt(inputs): PEFT's and nn.Linear's default.
        a_RI = torch.rand(rank, inputs, generator=generator) * 2 - 1
        self.lora_A = nn.Parameter(a_RI / inputs**0.5)
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank))

    @property
    def frozen(self) -> Tensor | QuantizedMatrix:
        """The base's matrix, as it is kept."""
        if self._quantized is not None:
            return self._quantized
        assert self.weight is not None
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        # A model of `transformers` has batches of tokens.
        return self._on_tokens(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)

    def _on_tokens(self, x_TI: Tensor) -> Tensor:
        frozen, bias = self.frozen, self.bias
        if not (self.training and self.dropout):
            y_TO: Tensor = _LoraLinear.apply(  # type: ignore[no-untyped-call]
                x_TI, frozen, bias, self.lora_A, self.lora_B, self.scale
            )
            return y_TO
        y_TO = _FrozenLinear.apply(x_TI, frozen, bias)  # type: ignore[no-untyped-call]
        inner_TR = F.dropout(x_TI, self.dropout) @ self.lora_A.to(x_TI.dtype).T
        return y_TO + inner_TR @ (self.lora_B * self.scale).to(x_TI.dtype).T

    def difference(self) -> Tensor:
        """What training added to the base's matrix, (O, I) float32."""
        return (self.lora_B.detach() @ self.lora_A.detach()) * self.scale


class _FrozenLinear(torch.autograd.Function):
    """x W^T + bias, where only x has a gradient and W may be quantized."""

    @staticmethod
    def forward(
        ctx: Any, x_TI: Tensor, frozen: Tensor | QuantizedMatrix, bias: Tensor | None
    ) -> Tensor:
        ctx.frozen = frozen
        return F.linear(x_TI, _whole(frozen, x_TI.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *d_y: Tensor) -> tuple[Tensor | None, ...]:
        d_x_TI = d_y[0] @ _whole(ctx.frozen, d_y[0].dtype) if ctx.needs_input_grad[0] else None
        return d_x_TI, None, None


class _LoraLinear(torch.autograd.Function):
    """One function, so that the scaled A and B are cast once and the base gets no gradient."""

    @staticmethod
    def forward(
        ctx: Any, x_TI: Tensor, frozen: Tensor | QuantizedMatrix, bias: Tensor | None, a_RI: Tensor,
        b_OR: Tensor, scale: float,
    ) -> Tensor:  # fmt: skip
        a_RI = a_RI.to(x_TI.dtype)
        scaled_OR = (b_OR * scale).to(x_TI.dtype)
        inner_TR = x_TI @ a_RI.T
        y_TO = F.linear(x_TI, _whole(frozen, x_TI.dtype), bias).addmm_(inner_TR, scaled_OR.T)
        ctx.save_for_backward(x_TI, a_RI, scaled_OR, inner_TR)
        ctx.frozen, ctx.scale, ctx.lora_dtype = frozen, scale, b_OR.dtype
        return y_TO

    @staticmethod
    def backward(ctx: Any, *d_y: Tensor) -> tuple[Tensor | None, ...]:
        (d_y_TO,) = d_y
        x_TI, a_RI, scaled_OR, inner_TR = ctx.saved_tensors
        d_inner_TR = d_y_TO @ scaled_OR
        d_a_RI = (d_inner_TR.T @ x_TI).to(ctx.lora_dtype)
        d_b_OR = (d_y_TO.T @ inner_TR).to(ctx.lora_dtype) * ctx.scale
        d_x_TI = None
        if ctx.needs_input_grad[0]:
            d_x_TI = (d_y_TO @ _whole(ctx.frozen, d_y_TO.dtype)).addmm_(d_inner_TR, a_RI)
        return d_x_TI, None, None, d_a_RI, d_b_OR, None


def _whole(frozen: Tensor | QuantizedMatrix, dtype: torch.dtype) -> Tensor:
    return frozen.dequantize(dtype) if isinstance(frozen, QuantizedMatrix) else frozen.to(dtype)


def add_lora(
    network: nn.Module,
    rank: int,
    alpha: float,
    seed: int,
    *,
    targets: Sequence[str] = (ALL_LINEAR,),
    dropout: float = 0.0,
    bits: Bits | None = None,
) -> dict[str, LoraLinear]:
    """Freeze `network` and give each of its target layers a trained difference.

    Args:
        targets: last parts of layers' names, or `all-linear`: every one but the head.

    Returns:
        The new layers by their full names, in the network's order.

    Raises:
        InvalidInput: a target that is no linear layer's name.
    """
    network.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    return {
        name: add_lora_layer(
            network, name, layer, rank=rank, alpha=alpha, dropout=dropout, bits=bits,
            generator=generator,
        )
        for name, layer in target_layers(network, targets).items()
    }  # fmt: skip


def target_layers(network: nn.Module, targets: Sequence[str]) -> dict[str, Linear]:
    """The linear layers that `targets` name, by their full names."""
    linear = {name: m for name, m in network.named_modules() if isinstance(m, Linear)}
    leaves = {name.rpartition(".")[2] for name in linear} - set(NOT_A_TARGET)
    wanted = leaves if ALL_LINEAR in targets else set(targets)
    if unknown := sorted(wanted - leaves):
        raise InvalidInput(
            f"no linear layer is called {', '.join(unknown)}; this model has"
            f" {', '.join(sorted(leaves))}",
            next_step='set lora.targets to some of these, or to ["all-linear"]',
        )
    return {name: layer for name, layer in linear.items() if name.rpartition(".")[2] in wanted}


def add_lora_layer(
    network: nn.Module,
    name: str,
    layer: Linear,
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    bits: Bits | None = None,
    generator: torch.Generator | None = None,
) -> LoraLinear:
    """Put a layer with a difference in the place of the linear layer called `name`."""
    parent, _, leaf = name.rpartition(".")
    generator = generator or torch.Generator().manual_seed(0)
    added = LoraLinear(layer, rank, alpha, generator, dropout=dropout, bits=bits)
    setattr(network.get_submodule(parent), leaf, added)
    return added


def lora_layers(network: nn.Module) -> dict[str, LoraLinear]:
    """Every layer that has a difference, by name."""
    return {name: m for name, m in network.named_modules() if isinstance(m, LoraLinear)}


@contextmanager
def without_difference(layers: Mapping[str, LoraLinear]) -> Iterator[None]:
    """Within the `with`, the layers compute what their base does."""
    scales = {name: layer.scale for name, layer in layers.items()}
    try:
        for layer in layers.values():
            layer.scale = 0.0
        yield
    finally:
        for name, layer in layers.items():
            layer.scale = scales[name]


@torch.no_grad()
def merge_into(base: nn.Module, layers: Mapping[str, LoraLinear]) -> None:
    """Add the differences to the matrices of `base`, a network without LoRA, in its precision.

    The base is loaded anew in float32 for this: merging into the rounded (or quantized) copy that
    was trained against would keep its rounding for good.
    """
    for name, layer in layers.items():
        add_to(base.get_submodule(name), layer.difference())


@torch.no_grad()
def add_to(layer: nn.Module, difference_OI: Tensor) -> None:
    """Add to a linear layer's matrix, in its precision."""
    assert isinstance(layer, Linear), type(layer)
    matrix_OI = matrix_of(layer)
    matrix_OI.add_(difference_OI.to(matrix_OI.dtype))


def matrix_of(layer: Linear) -> Tensor:
    """(outputs, inputs), however it is stored."""
    return layer.matrix if isinstance(layer, Conv1D) else layer.weight
