"""Ways to compute the differences of K adapters for N rows: one layer's products, all layers.

    python benchmarks/adapter_products.py [--rank 16]

Shapes of the default model (30 layers; query, key, value joined, gate and up joined), base
products in bf16 with prepacked matrices, random numbers, milliseconds of one step's linear layers.
`one by one`: two products for each adapter. `batched`: adapters side by side in memory, two
products for all. Both in bf16 and in float32. `inference/adapters.py` does what is best here.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bessemer.app.machine import usable_cores
from bessemer.inference.products import plain

LAYERS = 30
SITES = ((576, (576, 192, 192)), (576, (576,)), (576, (1536, 1536)), (1536, (576,)))
CASES = ((1, 1), (8, 1), (8, 8), (32, 1), (32, 8), (32, 32))
REPEATS = 7


class Stack(NamedTuple):
    """The factors of K adapters at one site, B's along a diagonal."""

    a_KRI: Tensor
    b_KOR: Tensor


def make_stack(inputs: int, outputs: tuple[int, ...], count: int, rank: int) -> Stack:
    parts = [[torch.randn(size, rank) for size in outputs] for _ in range(count)]
    return Stack(
        torch.randn(count, len(outputs) * rank, inputs),
        torch.stack([torch.block_diag(*own) for own in parts]),
    )


def one_by_one(x_NI: Tensor, y_NO: Tensor, stack: Stack) -> None:
    rows = len(x_NI) // len(stack.a_KRI)
    x_NI, d_NO = x_NI.to(stack.a_KRI.dtype), y_NO.to(stack.a_KRI.dtype)
    for x, d, a, b in zip(x_NI.split(rows), d_NO.split(rows), *stack, strict=True):
        d.addmm_(x @ a.T, b.T)
    y_NO.copy_(d_NO)


def batched(x_NI: Tensor, y_NO: Tensor, stack: Stack) -> None:
    x_KNI = x_NI.to(stack.a_KRI.dtype).view(len(stack.a_KRI), -1, x_NI.shape[1])
    d_KNO = torch.bmm(torch.bmm(x_KNI, stack.a_KRI.mT), stack.b_KOR.mT)
    y_NO.add_(d_KNO.flatten(0, 1).to(y_NO.dtype))


def timed_ms(work: Callable[[], None]) -> float:
    work()
    took = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        work()
        took.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(took)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int, default=16)
    rank = parser.parse_args().rank
    torch.set_num_threads(usable_cores())
    base = [
        [plain(torch.randn(sum(o), i, dtype=torch.bfloat16), None) for i, o in SITES]
        for _ in range(LAYERS)
    ]
    print(f"{'rows':>5}{'adapters':>9}{'base':>7}   one by one: bf16, fp32   batched: bf16, fp32")
    for rows, count in CASES:
        inputs = [torch.randn(rows, i, dtype=torch.bfloat16) for i, _ in SITES]
        stacks = [[make_stack(i, o, count, rank) for i, o in SITES] for _ in range(LAYERS)]
        halves = [[Stack(s.a_KRI.bfloat16(), s.b_KOR.bfloat16()) for s in own] for own in stacks]

        def step(
            add: Callable[[Tensor, Tensor, Stack], None] | None,
            factors: list[list[Stack]],
            inputs: list[Tensor] = inputs,
        ) -> None:
            for products, own in zip(base, factors, strict=True):
                for product, x_NI, stack in zip(products, inputs, own, strict=True):
                    y_NO = product(x_NI)
                    if add is not None:
                        add(x_NI, y_NO, stack)

        found = [timed_ms(lambda step=step, stacks=stacks: step(None, stacks))]  # type: ignore[misc]
        for add in (one_by_one, batched):
            for factors in (halves, stacks):
                found.append(timed_ms(lambda s=step, a=add, f=factors: s(a, f)))  # type: ignore[misc]
        cells = (found[0], *found[1:])
        print(
            f"{rows:>5}{count:>9}{cells[0]:>7.1f}{cells[1]:>18.1f}{cells[2]:>9.1f}"
            f"{cells[3]:>14.1f}{cells[4]:>9.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
