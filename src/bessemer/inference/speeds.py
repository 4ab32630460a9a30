"""How fast this machine multiplies one model's matrices in 16, 8 and 4 bits: two seconds' measure.

Only the products are timed: everything else of a step is the same in each precision.
"""

from __future__ import annotations

import statistics
import time
from typing import NamedTuple, TypeVar

import torch

from bessemer.inference import products
from bessemer.inference.products import Linear
from bessemer.models.codes import Int4Matrix, Int8Matrix
from bessemer.models.config import ModelConfig

Matrix = TypeVar("Matrix", Int8Matrix, Int4Matrix)

# More than the caches of most processors, so that weights come from memory as they do in a step.
_BYTES = 96 << 20
# What is not clearly faster is not worth its rounding.
_CLEARLY = 0.95


class Speed(NamedTuple):
    """Seconds that one token's products take in a precision."""

    precision: str
    token_s: float


def measure(config: ModelConfig, rows: int, seconds: float = 2.0) -> list[Speed]:
    """One token's products, most exact first, with `rows` sequences decoded together.

    The precisions take turns, so that a busy moment of the machine falls on all of them alike.
    """
    contestants = _prepare(config)
    width = config.hidden_size
    x_MI = torch.randn(rows, width, generator=torch.Generator().manual_seed(0)).bfloat16()
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    end = time.perf_counter() + seconds
    with torch.inference_mode():
        while time.perf_counter() < end or any(len(times) < 3 for times in taken.values()):
            for name, layers in contestants.items():
                start = time.perf_counter()
                for layer in layers:
                    layer(x_MI)
                taken[name].append(time.perf_counter() - start)
    share = config.matmul_parameters / (len(contestants["bf16"]) * width * config.intermediate_size)
    return [
        Speed(name, statistics.median(times[1:]) * share / rows) for name, times in taken.items()
    ]


def fastest(speeds: list[Speed]) -> str:
    """The most exact of those that no other clearly beats."""
    best = min(speed.token_s for speed in speeds)
    return next(speed.precision for speed in speeds if speed.token_s * _CLEARLY <= best)


def _prepare(config: ModelConfig) -> dict[str, list[Linear]]:
    """The matrix that most of a model's time goes to, several times, in each precision."""
    shape = (config.intermediate_size, config.hidden_size)
    copies = max(2, min(64, _BYTES // (2 * shape[0] * shape[1])))
    weight_OI = torch.randn(shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    whole, eight, four = weight_OI, Int8Matrix.of(weight_OI), Int4Matrix.of(weight_OI)
    return {
        "bf16": [products.plain(whole.clone(), None) for _ in range(copies)],
        "int8": [products.int8(_apart(eight), None, torch.bfloat16) for _ in range(copies)],
        "int4": [products.int4(_apart(four), None, torch.bfloat16) for _ in range(copies)],
    }


def _apart(matrix: Matrix) -> Matrix:
    """With bytes of its own, so that the caches do not hold one for all."""
    return type(matrix)(*(part.clone() for part in matrix))
