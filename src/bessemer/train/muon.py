"""Muon: momentum whose matrix is made orthogonal before it is added (Jordan et al., 2024).

    B = momentum B + (1 - momentum) G             G gradient of an (O, I) matrix
    U = (1 - momentum) G + momentum B             Nesterov's look ahead
    W = W (1 - rate decay) - rate 0.2 sqrt(max(O, I)) orthogonal(U)

The factor 0.2 sqrt(max(O, I)) gives the update the size that AdamW's usually has, so a rate found
for one serves the other (Liu et al., 2025, "Muon is Scalable for LLM Training"). `orthogonal` is
five steps of a quintic Newton-Schulz iteration; singular values end between 0.7 and 1.2, which is
near enough to 1. Matrices of one shape are computed as one batch.

For matrices between hidden states. Embeddings, the head, vectors, and LoRA's factors (whose product
is the matrix, not they) are AdamW's; see `optimizer`.

    K matrices of one shape   R rows   C columns, R <= C
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
SMALLEST = 1e-7


class Muon:
    """Moves float32 masters along their gradients; the state is one momentum for each.

    Args:
        masters: matrices by name, or (experts, O, I) stacks of them.
        dtype: of the iteration; bfloat16 is as good as float32 for it (Jordan et al., 2024).
    """

    def __init__(
        self,
        masters: Mapping[str, Tensor],
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        assert all(master.dim() >= 2 for master in masters.values()), list(masters)
        self.masters = masters
        self.buffers = {name: torch.zeros_like(master) for name, master in masters.items()}
        self._momentum, self._weight_decay, self._dtype = momentum, weight_decay, dtype

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move every master that has a gradient."""
        moving = [name for name, master in self.masters.items() if master.grad is not None]
        for names in _by_shape({name: self.masters[name] for name in moving}):
            updates_KRC = orthogonalize(
                torch.cat([_short_side_first(self._look_ahead(n)).to(self._dtype) for n in names])
            )
            sizes = [self.masters[name].shape[:-2].numel() for name in names]
            for name, update_KRC in zip(names, torch.split(updates_KRC, sizes), strict=True):
                self._move(self.masters[name], update_KRC, rate)

    def _look_ahead(self, name: str) -> Tensor:
        gradient, buffer = self.masters[name].grad, self.buffers[name]
        assert gradient is not None
        buffer.lerp_(gradient, 1 - self._momentum)
        return gradient.lerp(buffer, self._momentum)

    def _move(self, master: Tensor, update_KRC: Tensor, rate: float) -> None:
        rows, columns = master.shape[-2:]
        update = update_KRC.mT if rows > columns else update_KRC
        scale = 0.2 * float(max(rows, columns)) ** 0.5
        master.mul_(1 - rate * self._weight_decay)
        master.add_(update.reshape(master.shape), alpha=-rate * scale)


def orthogonalize(matrices_KRC: Tensor) -> Tensor:
    """Approximately U V^T of each matrix's singular value decomposition U S V^T.

    Args:
        matrices_KRC: no more rows than columns; not changed.

    >>> torch.linalg.svdvals(orthogonalize(torch.diag(torch.tensor([5.0, 1.0]))[None]))
    tensor([[0.7967, 0.7222]])
    """
    a, b, c = COEFFICIENTS
    length_K11 = torch.linalg.vector_norm(matrices_KRC, dim=(-2, -1), keepdim=True)
    x_KRC: Tensor = matrices_KRC / length_K11.clamp(min=SMALLEST)
    for _ in range(ITERATIONS):
        gram_KRR = torch.bmm(x_KRC, x_KRC.mT)
        polynomial_KRR = torch.baddbmm(gram_KRR, gram_KRR, gram_KRR, beta=b, alpha=c)
        x_KRC = torch.baddbmm(x_KRC, polynomial_KRR, x_KRC, beta=a)
    return x_KRC


def _short_side_first(matrix: Tensor) -> Tensor:
    rows, columns = matrix.shape[-2:]
    stack_KOI = matrix.reshape(-1, rows, columns)
    return stack_KOI.mT if rows > columns else stack_KOI


def _by_shape(masters: Mapping[str, Tensor]) -> Sequence[list[str]]:
    """Names of matrices that make one batch: the same shape, or each other's transpose's."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, master in masters.items():
        groups.setdefault(tuple(sorted(master.shape[-2:])), []).append(name)
    return list(groups.values())
