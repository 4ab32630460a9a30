"""The trained weights, and the float32 masters that the optimizer moves.

A weight in bfloat16 has 8 bits of mantissa: a step of a thousandth of it would round to nothing.
So the network computes with a rounded copy of a float32 master, gradients are summed in float32
over micro-batches, and after each step the copy is made anew. A float32 weight (LoRA's A and B)
is its own master.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class TrainedWeights:
    """All parameters of `network` that require a gradient, by name.

    Attributes:
        masters: float32 tensors with `.grad`, what the optimizer is given.
    """

    def __init__(self, network: nn.Module) -> None:
        self._working = {n: p for n, p in network.named_parameters() if p.requires_grad}
        assert self._working, "nothing to train"
        self.masters: dict[str, Tensor] = {}
        for name, parameter in self._working.items():
            own = parameter.dtype == torch.float32
            master = parameter if own else parameter.detach().float().requires_grad_()
            self.masters[name] = master

    @property
    def count(self) -> int:
        """How many numbers are trained."""
        return sum(master.numel() for master in self.masters.values())

    @torch.no_grad()
    def collect(self) -> None:
        """Add the gradients of the last backward pass to the masters'."""
        for name, parameter in self._working.items():
            master = self.masters[name]
            if master is parameter or parameter.grad is None:
                continue
            if master.grad is None:
                master.grad = parameter.grad.float()
            else:
                master.grad += parameter.grad
            parameter.grad = None

    def take_gradients(self) -> dict[str, Tensor]:
        """The gradients collected so far; the masters start again from none."""
        taken = {n: m.grad for n, m in self.masters.items() if m.grad is not None}
        for master in self.masters.values():
            master.grad = None
        return taken

    def give_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        """Make these the masters' gradients."""
        for name, gradient in gradients.items():
            self.masters[name].grad = gradient

    @torch.no_grad()
    def clip(self, longest: float) -> float:
        """Shorten the gradient to at most `longest`; returns how long it was.

        Both are Euclidean norms over all weights. NaN or infinity in a gradient shows here.
        """
        return float(nn.utils.clip_grad_norm_(self.masters.values(), longest))

    @torch.no_grad()
    def publish(self) -> None:
        """Round the moved masters into the network, and forget the gradients."""
        for name, parameter in self._working.items():
            master = self.masters[name]
            if master is not parameter:
                parameter.copy_(master)
            master.grad = None

    def forget_gradients(self) -> None:
        for name, parameter in self._working.items():
            parameter.grad = self.masters[name].grad = None

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the masters, and the network with them."""
        assert tensors.keys() == self.masters.keys(), set(tensors) ^ set(self.masters)
        for name, master in self.masters.items():
            master.copy_(tensors[name])
        self.publish()
