"""Names on disk. A network's own names are those on disk, but for experts.

Experts are stacked in memory and stored one by one, as every published mixture is:

    in memory                             on disk, for each expert
    mlp.experts.gate_up_proj (E, 2I, D)   mlp.experts.0.gate_proj.weight, .0.up_proj.weight
    mlp.experts.down_proj (E, D, I)       mlp.experts.0.down_proj.weight

Mixtral calls the same things block_sparse_moe, w1, w3 and w2. A folder whose experts are stored
stacked is read as well.

    E experts   I inner size   D hidden size
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from bessemer.models.config import ModelConfig

STACKS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
MIXTRAL = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


def to_disk(name: str, tensor: Tensor, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """A tensor of the network's state as it is stored."""
    head, _, stack = name.rpartition(".experts.")
    if not head:
        yield _plain_name(name, config), tensor
        return
    for number, matrix in enumerate(tensor.unbind(0)):
        parts = STACKS[stack]
        for part, rows in zip(parts, matrix.chunk(len(parts), dim=0), strict=True):
            yield _expert_name(head, number, part, config), rows


def from_disk(
    stored: Iterable[tuple[str, Tensor]], expected: Mapping[str, list[int]], config: ModelConfig
) -> dict[str, Tensor]:
    """The network's state from what is stored, whichever way its experts are.

    Args:
        expected: names and shapes of the network's own state; what is not of it is left out.
    """
    found = dict(stored)
    state = {}
    for name, shape in expected.items():
        if (direct := _plain_name(name, config)) in found:
            state[name] = found[direct]
        elif name in found:
            state[name] = found[name]
        elif ".experts." in name:
            state[name] = _stacked(name, shape[0], found, config)
    return state


def stored_shapes(
    expected: Mapping[str, list[int]], config: ModelConfig, found: Iterable[str] = ()
) -> dict[str, list[int]]:
    """Names and shapes on disk of a network's state; stacked experts where `found` has those."""
    there = set(found)
    shapes: dict[str, list[int]] = {}
    for name, shape in expected.items():
        if ".experts." in name and name in there:
            shapes[name] = shape
            continue
        empty = torch.empty(shape, device="meta")
        shapes |= {n: list(part.shape) for n, part in to_disk(name, empty, config)}
    return shapes


def _stacked(name: str, experts: int, found: Mapping[str, Tensor], config: ModelConfig) -> Tensor:
    head, _, stack = name.rpartition(".experts.")
    return torch.stack(
        [
            torch.cat([found[_expert_name(head, number, part, config)] for part in STACKS[stack]])
            for number in range(experts)
        ]
    )


def _expert_name(head: str, number: int, part: str, config: ModelConfig) -> str:
    if config.family == "mixtral":
        head = f"{head.removesuffix('mlp')}block_sparse_moe"
        part = MIXTRAL[part]
    return f"{head}.experts.{number}.{part}.weight"


def _plain_name(name: str, config: ModelConfig) -> str:
    if config.family == "mixtral":
        return name.replace(".mlp.gate.", ".block_sparse_moe.gate.")
    return name
