"""Adapters with made-up weights, and what their merged models compute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from bessemer.models.adapter import read_adapter, save_adapter
from bessemer.models.attention import PackedAttention, positions
from bessemer.models.decoder import Decoder
from bessemer.models.folder import load_decoder
from bessemer.models.lora import add_lora, add_to


def write_adapter(
    base: Path,
    folder: Path,
    *,
    rank: int = 4,
    seed: int = 1,
    targets: Sequence[str] = ("all-linear",),
) -> Path:
    """An adapter of `base` in PEFT's layout whose difference is as large as its matrices."""
    layers = add_lora(load_decoder(base), rank, 2.0 * rank, seed, targets=targets)
    generator = torch.Generator().manual_seed(seed)
    for layer in layers.values():
        layer.lora_B.data.normal_(0, 0.2, generator=generator)
    save_adapter(layers, folder, base="base")
    return folder


@torch.no_grad()
def merged(base: Path, adapter: Path | None, dtype: torch.dtype = torch.float64) -> Decoder:
    """The base, loaded in `dtype`, with the adapter's differences in its matrices."""
    decoder = load_decoder(base, dtype)
    for name, (a_RI, b_OR, scale) in (read_adapter(adapter) if adapter else {}).items():
        add_to(decoder.get_submodule(name), b_OR.to(dtype) @ a_RI.to(dtype) * scale)
    return decoder


@torch.no_grad()
def logprobs(decoder: Decoder, ids: list[int]) -> torch.Tensor:
    """Of every next token after each of `ids`, (T, V)."""
    hidden = decoder(torch.tensor(ids), positions([len(ids)]), PackedAttention([len(ids)]))
    return torch.log_softmax(decoder.logits(hidden).double(), -1)


def score(decoder: Decoder, ids: list[int]) -> list[float]:
    """log p(ids[i] | ids[:i]) by one full forward pass."""
    found = logprobs(decoder, ids)
    return [float(found[i - 1, ids[i]]) for i in range(1, len(ids))]
