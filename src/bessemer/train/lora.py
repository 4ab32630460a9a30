"""LoRA: train B A, a low-rank difference to a frozen matrix (Hu et al., 2021), in PEFT's layout.

    y = x W^T + (alpha / rank) x A^T B^T        A (rank, in), B (out, rank), both float32

The frozen matrix stays in the precision it was loaded in and gets no gradient. B starts at zero,
so training starts from exactly the base model.

    T tokens   I inputs   O outputs   R rank
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bessemer.core.errors import IntegrityError

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PREFIX = "base_model.model."  # PEFT's names for what wraps the network
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


class LoraLinear(nn.Module):
    """A frozen linear layer and its trained difference."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, generator: torch.Generator):
        super().__init__()
        self.weight = nn.Parameter(base.weight.detach(), requires_grad=False)
        self.bias = None
        if base.bias is not None:
            self.bias = nn.Parameter(base.bias.detach(), requires_grad=False)
        self.scale = alpha / rank
        outputs, inputs = base.weight.shape
        # Uniform in +-1/sqrt(inputs): PEFT's and nn.Linear's default.
        a_RI = torch.rand(rank, inputs, generator=generator) * 2 - 1
        self.lora_A = nn.Parameter(a_RI / inputs**0.5)
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x_TI: Tensor) -> Tensor:
        y_TO: Tensor = _LoraLinear.apply(  # type: ignore[no-untyped-call]
            x_TI, self.weight, self.bias, self.lora_A, self.lora_B, self.scale
        )
        return y_TO

    def difference(self) -> Tensor:
        """What training added to the base's matrix, (O, I) float32."""
        return (self.lora_B.detach() @ self.lora_A.detach()) * self.scale


class _LoraLinear(torch.autograd.Function):
    """One function, so that the scaled A and B are cast once and the base gets no gradient."""

    @staticmethod
    def forward(
        ctx: Any, x_TI: Tensor, w_OI: Tensor, bias: Tensor | None, a_RI: Tensor, b_OR: Tensor,
        scale: float,
    ) -> Tensor:  # fmt: skip
        a_RI = a_RI.to(x_TI.dtype)
        scaled_OR = (b_OR * scale).to(x_TI.dtype)
        inner_TR = x_TI @ a_RI.T
        y_TO = nn.functional.linear(x_TI, w_OI, bias).addmm_(inner_TR, scaled_OR.T)
        ctx.save_for_backward(x_TI, w_OI, a_RI, scaled_OR, inner_TR)
        ctx.scale, ctx.lora_dtype = scale, b_OR.dtype
        return y_TO

    @staticmethod
    def backward(ctx: Any, *d_y: Tensor) -> tuple[Tensor | None, ...]:
        (d_y_TO,) = d_y
        x_TI, w_OI, a_RI, scaled_OR, inner_TR = ctx.saved_tensors
        d_inner_TR = d_y_TO @ scaled_OR
        d_a_RI = (d_inner_TR.T @ x_TI).to(ctx.lora_dtype)
        d_b_OR = (d_y_TO.T @ inner_TR).to(ctx.lora_dtype) * ctx.scale
        d_x_TI = None
        if ctx.needs_input_grad[0]:
            d_x_TI = (d_y_TO @ w_OI).addmm_(d_inner_TR, a_RI)
        return d_x_TI, None, None, d_a_RI, d_b_OR, None


def add_lora(network: nn.Module, rank: int, alpha: float, seed: int) -> dict[str, LoraLinear]:
    """Freeze `network` and give each of its target layers a trained difference.

    Returns:
        The new layers by their full names, in the network's order.
    """
    network.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    added: dict[str, LoraLinear] = {}
    for name, module in list(network.named_modules()):
        parent, _, leaf = name.rpartition(".")
        if leaf in TARGETS and isinstance(module, nn.Linear):
            added[name] = LoraLinear(module, rank, alpha, generator)
            setattr(network.get_submodule(parent), leaf, added[name])
    assert added, f"no layer is named one of {TARGETS}"
    return added


def lora_layers(network: nn.Module) -> dict[str, LoraLinear]:
    """Every layer that has a difference, by name."""
    return {name: m for name, m in network.named_modules() if isinstance(m, LoraLinear)}


@torch.no_grad()
def merge_into(base: nn.Module, layers: dict[str, LoraLinear]) -> None:
    """Add the differences to the matrices of `base`, a network without LoRA, in its precision.

    The base is loaded anew in float32 for this: merging into the rounded copy that was trained
    on would keep its rounding.
    """
    for name, layer in layers.items():
        weight = base.get_parameter(f"{name}.weight")
        weight.add_(layer.difference().to(weight.dtype))


def save_adapter(
    layers: dict[str, LoraLinear], folder: Path, *, rank: int, alpha: float, base: str
) -> None:
    """Write the adapter as `peft` does; `PeftModel.from_pretrained` opens it.

    Args:
        base: name or folder of the base model, for `adapter_config.json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, layer in layers.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = layer.lora_A.detach().contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = layer.lora_B.detach().contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted({name.rpartition(".")[2] for name in layers}),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


@torch.no_grad()
def load_adapter(layers: dict[str, LoraLinear], folder: Path) -> None:
    """Read an adapter in PEFT's layout into layers of the same rank.

    Raises:
        IntegrityError: its tensors are not those of these layers.
    """
    tensors = load_file(folder / WEIGHTS)
    expected = {
        f"{PREFIX}{name}.{part}.weight": getattr(layer, part)
        for name, layer in layers.items()
        for part in ("lora_A", "lora_B")
    }
    wrong = sorted(
        name
        for name in set(tensors) | set(expected)
        if name not in tensors
        or name not in expected
        or tensors[name].shape != expected[name].shape
    )
    if wrong:
        raise IntegrityError(
            f"the adapter in {folder} does not fit this model: {len(wrong)} tensors are missing,"
            f" left over or of another shape ({', '.join(wrong[:3])})",
            next_step="use the base model and rank that its adapter_config.json names",
        )
    for name, parameter in expected.items():
        parameter.copy_(tensors[name])
