"""How many floating-point operations a training step needs: what MFU counts.

A multiplication and an addition are two. Counted are matrix products only, and of attention the
half below the diagonal, whatever the implementation computes on top. What a model of `transformers`
has besides matrices and softmax attention (a recurrence) is not counted:

    forward                 2 per weight and token that goes through it
    gradient of the input   2 more, through frozen matrices as well
    gradient of the weight  2 more, where the matrix is trained
    attention               2 x 2 x n^2 / 2 x heads x head size a document of n tokens, three times

The head is counted for target tokens only, because only those go through it, and of experts those
that a token goes through. With LoRA a frozen matrix so counts 4 a token, its A and B 6. The first
layer's matrices have no input gradient to compute with LoRA; that is ignored (under 1 % of a
30-layer model).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from bessemer.models.decoder import Decoder
from bessemer.models.experts import Experts, Router
from bessemer.models.foreign import ForeignDecoder
from bessemer.models.gpt2 import Conv1D
from bessemer.models.lora import LoraLinear
from bessemer.models.reward_model import RewardModel


class StepCost(NamedTuple):
    """Floating-point operations, forward and backward, by what they grow with."""

    per_token: int
    per_target: int
    per_square: int  # of a document's length

    def flops(self, tokens: int, targets: int, lengths: Sequence[int]) -> int:
        squares = sum(length * length for length in lengths)
        return tokens * self.per_token + targets * self.per_target + squares * self.per_square


def step_cost(decoder: Decoder | ForeignDecoder | RewardModel) -> StepCost:
    """The cost of training this decoder as its parameters are now frozen or not."""
    top_k = decoder.experts_of_a_token if isinstance(decoder, ForeignDecoder) else 1
    per_token = sum(_layer_cost(module, top_k) for module in decoder.trunk.modules())
    head = decoder.head_weight
    per_target = head.numel() * (6 if head.requires_grad else 4)
    # A window is ignored: documents here are seldom longer.
    return StepCost(per_token, per_target, 3 * decoder.attention_width)


def _layer_cost(module: nn.Module, top_k: int) -> int:
    if isinstance(module, LoraLinear):
        return 4 * module.matrix_elements + 6 * (module.lora_A.numel() + module.lora_B.numel())
    if isinstance(module, Experts):
        return module.active_elements * (6 if module.down_proj.requires_grad else 4)
    if isinstance(module, nn.Linear | Conv1D | Router):
        return module.weight.numel() * (6 if module.weight.requires_grad else 4)
    if isinstance(module, nn.Embedding):
        return 0
    # Of a model of `transformers`: other matrices, and experts as a stack of them.
    own = [p for p in module.parameters(recurse=False) if p.dim() > 1]
    active = [p.numel() * top_k // len(p) if _is_stack(module, p) else p.numel() for p in own]
    factors = [6 if p.requires_grad else 4 for p in own]
    return sum(count * factor for count, factor in zip(active, factors, strict=True))


def _is_stack(module: nn.Module, parameter: nn.Parameter) -> bool:
    return parameter.dim() == 3 and not isinstance(module, nn.Conv1d)
