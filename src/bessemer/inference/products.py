"""Products of many tokens with one matrix, prepared once for how the processor multiplies.

    numbers   on a CPU with oneDNN, 16-bit matrices are reordered once into the layout that its
              kernels want (a plain bf16 product with one row costs twice as much)
    int8      few rows: the codes as they are, activations in 16 bits. More rows: 8-bit products,
              each row of activations rounded to 255 steps of its own largest number
    int4      few rows: the codes as they are. More rows: the matrix as 16-bit numbers

A product with few rows is as fast as its matrix is read, so fewer bits pay there; one with many
rows is as fast as its multiplications. So a quantized matrix is held twice. A row's result never
depends on the other rows' numbers.

    M rows (tokens)   I inputs   O outputs
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bessemer.models.codes import CodedLinear, Int4Matrix, Int8Matrix, beside
from bessemer.models.scheme import GROUP

Linear = Callable[[Tensor], Tensor]

# Up to so many rows the codes are multiplied as they are (benchmarks/products.py).
FEW_INT8 = 10
FEW_INT4 = 10


def join(*linears: nn.Module, dtype: torch.dtype, rounds: bool = True) -> Linear:
    """Several linear layers of one input as one, their outputs side by side.

    Args:
        rounds: whether activations may be rounded to 8 bits.
    """
    biases = [part.bias.detach() for part in linears if isinstance(part.bias, Tensor)]
    bias_O = torch.cat(biases) if biases else None
    coded = [linear.matrix for linear in linears if isinstance(linear, CodedLinear)]
    if not coded:
        weights = [linear.get_parameter("weight").detach() for linear in linears]
        return plain(torch.cat(weights), bias_O)
    assert len(coded) == len(linears), linears
    matrix = beside(coded)
    return (
        int8(matrix, bias_O, dtype, rounds=rounds)
        if isinstance(matrix, Int8Matrix)
        else int4(matrix, bias_O, dtype)
    )


def plain(weight_OI: Tensor, bias_O: Tensor | None) -> Linear:
    """`x @ weight.T + bias`, with the weight reordered once where that pays."""
    if weight_OI.dtype == torch.bfloat16 and weight_OI.device.type == "cpu" and _has_onednn():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous(), None)
        product = torch.ops.mkldnn._linear_pointwise
        return lambda x: product(x, packed, bias_O, "none", [], "")
    return lambda x: F.linear(x, weight_OI, bias_O)


def int8(
    matrix: Int8Matrix, bias_O: Tensor | None, dtype: torch.dtype, *, rounds: bool = True
) -> Linear:
    """Products with 8-bit codes, for activations of `dtype`; as numbers where there are none."""
    if dtype != torch.bfloat16 or not _multiplies_int8():
        return plain(matrix.whole(dtype), bias_O)
    codes_OI, scales_O = matrix.codes.contiguous(), matrix.scales[:, 0].contiguous()
    many = _rounded_rows(matrix) if rounds else plain(matrix.whole(dtype), None)

    def product(x_MI: Tensor) -> Tensor:
        few = len(x_MI) <= FEW_INT8
        y_MO = torch._weight_int8pack_mm(x_MI, codes_OI, scales_O) if few else many(x_MI)
        return y_MO if bias_O is None else y_MO.add_(bias_O)

    return product


def int4(matrix: Int4Matrix, bias_O: Tensor | None, dtype: torch.dtype) -> Linear:
    """Products with 4-bit codes, for activations of `dtype`; as numbers where there are none."""
    many = plain(matrix.whole(dtype), bias_O)
    if dtype != torch.bfloat16 or not _multiplies_int4() or matrix.shape[0] % 16:
        return many
    packed = _packed(matrix)

    def product(x_MI: Tensor) -> Tensor:
        if len(x_MI) > FEW_INT4:
            return many(x_MI)
        y_MO = torch._weight_int4pack_mm_for_cpu(x_MI, *packed)
        return y_MO if bias_O is None else y_MO.add_(bias_O)

    return product


def head(weight_VD: Tensor) -> Linear:
    """The head of a quantized model: few rows read it in 8 bits, more as it is."""
    many = plain(weight_VD, None)
    if weight_VD.dtype != torch.bfloat16 or not _multiplies_int8():
        return many
    matrix = Int8Matrix.of(weight_VD)
    scales_V = matrix.scales[:, 0].contiguous()

    def product(x_MD: Tensor) -> Tensor:
        if len(x_MD) > FEW_INT8:
            return many(x_MD)
        return torch._weight_int8pack_mm(x_MD, matrix.codes, scales_V)

    return product


def _rounded_rows(matrix: Int8Matrix) -> Linear:
    """Rows of activations rounded to -127 .. 127 of their largest number, times the codes."""
    packed = torch.ops.onednn.qlinear_prepack(matrix.codes, None)
    scales_O = matrix.scales[:, 0].float()
    zeros_O = torch.zeros(len(scales_O), dtype=torch.long)
    product = torch.ops.onednn.qlinear_pointwise

    def multiply(x_MI: Tensor) -> Tensor:
        most_M1 = x_MI.abs().amax(1, keepdim=True).float()
        # In bfloat16, so that multiplying the result is cheap; 126 leaves room for its rounding.
        step_M1 = most_M1.clamp_(min=1e-30).div_(126).bfloat16()
        codes_MI = x_MI.float().mul_(step_M1.float().reciprocal_()).round_().to(torch.int8)
        # The processor multiplies unsigned with signed bytes. Flipping the first bit adds 128,
        # and is five times as fast as conversion to unsigned.
        codes_MI = codes_MI.view(torch.uint8).bitwise_xor_(128)
        y_MO: Tensor = product(
            codes_MI, 1.0, 128, packed, scales_O, zeros_O, None, 1.0, 0, torch.bfloat16, "none",
            [], "",
        )  # fmt: skip
        return y_MO.mul_(step_M1)

    return multiply


@cache
def _has_onednn() -> bool:
    return bool(
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


@cache
def _multiplies_int8() -> bool:
    """Whether both 8-bit products are here and right: tried against the matrix made whole."""
    matrix = Int8Matrix.of(_sample(64, 64))
    try:
        few = torch._weight_int8pack_mm(_sample(2, 64), matrix.codes, matrix.scales[:, 0])
        many = _rounded_rows(matrix)(_sample(8, 64))
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return _is_product(few, matrix) and _is_product(many, matrix)


@cache
def _multiplies_int4() -> bool:
    """The same of the 4-bit product."""
    matrix = Int4Matrix.of(_sample(64, 64))
    try:
        few = torch._weight_int4pack_mm_for_cpu(_sample(2, 64), *_packed(matrix))
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return _is_product(few, matrix)


def _sample(rows: int, columns: int) -> Tensor:
    return torch.linspace(-1, 1, rows * columns).sin().view(rows, columns).bfloat16()


def _is_product(y_MO: Tensor, matrix: Int8Matrix | Int4Matrix) -> bool:
    right_MO = _sample(len(y_MO), 64).float() @ matrix.whole(torch.float32).T
    return float((y_MO - right_MO).norm() / right_MO.norm()) < 0.02


def _packed(matrix: Int4Matrix) -> tuple[Tensor, int, Tensor]:
    """In the order of the 4-bit product's parameters."""
    codes = torch._convert_weight_to_int4pack_for_cpu(matrix.codes().int(), 1)
    pairs_GO2 = torch.stack((matrix.scales, matrix.zeros), -1).transpose(0, 1).contiguous()
    return codes, GROUP, pairs_GO2
