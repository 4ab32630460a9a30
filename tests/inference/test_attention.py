"""Attention of decoding rows by batched products is torch's own, within bf16's rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from bessemer.inference import attention
from bessemer.inference.attention import BatchAttention, Span
from bessemer.inference.cache import KVCache
from bessemer.models.config import ModelConfig

CONFIG = ModelConfig(
    vocab_size=50, hidden_size=64, intermediate_size=64, layers=1, heads=6, kv_heads=2,
    head_dim=16, context_length=64,
)  # fmt: skip


def attend(spans: list[Span], chunks: list[Span], dtype: torch.dtype) -> torch.Tensor:
    cache = KVCache(CONFIG, dtype, rows=12, context_length=64, kv_bytes=1 << 20)
    generator = torch.Generator().manual_seed(1)
    for layer in cache.layers_2RKSE:
        layer.copy_(torch.randn(layer.shape, generator=generator))
    tokens = sum(span.fresh for span in (*spans, *chunks))
    qkv = torch.randn(tokens, 10, 16, generator=generator).to(dtype)
    return BatchAttention(CONFIG, cache, spans, chunks, dtype)(0, qkv)


SPANS = {
    "one length": [Span(row, 20, 1) for row in range(8)],
    "many lengths": [Span(row, 3 + 5 * row, 1) for row in range(8)],
    "gaps between rows": [Span(row, 3 + 4 * row, 1) for row in (0, 2, 3, 7, 8, 11)],
    "several tokens a row": [Span(row, 10 + row, 1 + row % 3) for row in range(7)],
}


@pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS)
def test_products_of_all_rows_are_the_fused_attention(
    spans: list[Span], monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = [Span(9, 4, 6)]
    exact = attend(spans, chunks, torch.float64)
    by_products = attend(spans, chunks, torch.bfloat16).double()
    monkeypatch.setattr(attention, "MANY_ROWS", 1000)
    fused = attend(spans, chunks, torch.bfloat16).double()
    assert not torch.equal(by_products, fused)  # both ways were taken
    assert float((by_products - exact).norm() / exact.norm()) < 0.012
    assert float((fused - exact).norm() / exact.norm()) < 0.012


def test_what_a_neighbor_left_in_memory_is_not_read() -> None:
    """Places behind a row's own length hold the numbers of earlier sequences."""
    short, spans = Span(0, 2, 1), [Span(row, 30, 1) for row in range(1, 8)]
    together = attend([short, *spans], [], torch.bfloat16)[0]
    cache = KVCache(CONFIG, torch.bfloat16, rows=12, context_length=64, kv_bytes=1 << 20)
    generator = torch.Generator().manual_seed(1)
    for layer in cache.layers_2RKSE:
        layer.copy_(torch.randn(layer.shape, generator=generator))
        layer[:, 0, :, 3:] = 1e4
    qkv = torch.randn(8, 10, 16, generator=generator).bfloat16()
    assert torch.equal(
        BatchAttention(CONFIG, cache, [short, *spans], [], torch.bfloat16)(0, qkv)[0], together
    )


@pytest.mark.parametrize(("past", "fresh"), [(0, 64), (0, 33), (7, 40), (20, 44), (0, 32)])
def test_a_chunk_in_blocks_is_causal_attention(
    past: int, fresh: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = [Span(3, past, fresh)]
    exact = attend([], chunks, torch.float64)
    for block in (64, 16):  # one block, and several with a rest
        monkeypatch.setattr(attention, "BLOCK", block)
        mixed = attend([], chunks, torch.bfloat16).double()
        assert float((mixed - exact).norm() / exact.norm()) < 0.012


class _Shapes(TorchFunctionMode):
    """The shapes of all batched products."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.Size, ...]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.bmm:
            self.seen.append(tuple(argument.shape for argument in args))
        return func(*args, **(kwargs or {}))


def test_shapes_of_products_repeat_while_sequences_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN compiles, and keeps, a program for each: memory would grow with every token."""
    monkeypatch.setattr(attention, "BLOCK", 16)
    with _Shapes() as shapes:
        for past in range(16, 48):
            attend([Span(row, past, 1) for row in range(8)], [], torch.bfloat16)
            attend([], [Span(9, past, 16 - past % 3)], torch.bfloat16)
    assert len(shapes.seen) == 2 * 32 * 2
    assert len(set(shapes.seen)) == 2 * (2 + 3)  # lengths of 32 and 48, and up to 64 for chunks
