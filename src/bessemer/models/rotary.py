"""The angles of rotary position embeddings, with Llama 3's scaling and YaRN.

The table is kept in float32 outside the module's state: casting the network to another precision
must not round the frequencies.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bessemer.models.config import Llama3Scaling, ModelConfig, YarnScaling


class Rotation(NamedTuple):
    """Cosines and sines of each token's angles, each (T, head_dim / 2)."""

    cos_TD: Tensor
    sin_TD: Tensor


class RotaryTable:
    """Cosines and sines by position, grown on demand, kept per device and dtype."""

    def __init__(self, config: ModelConfig) -> None:
        self._frequencies = inverse_frequencies(
            config.rotary_dim, config.rope_theta, config.rope_scaling
        )
        scaling = config.rope_scaling
        self._factor = scaling.attention if isinstance(scaling, YarnScaling) else 1.0
        self._tables: dict[tuple[torch.device, torch.dtype], Rotation] = {}

    def at(self, positions_T: Tensor, dtype: torch.dtype) -> Rotation:
        """The rotation of each position (int64, any order)."""
        needed = int(positions_T.max()) + 1 if positions_T.numel() else 0
        key = (positions_T.device, dtype)
        table = self._tables.get(key)
        if table is None or len(table.cos_TD) < needed:
            table = self._tables[key] = self._build(needed, positions_T.device, dtype)
        return Rotation(table.cos_TD[positions_T], table.sin_TD[positions_T])

    def _build(self, needed: int, device: torch.device, dtype: torch.dtype) -> Rotation:
        length = 1 << max(needed - 1, 255).bit_length()
        with torch.no_grad():
            positions = torch.arange(length, dtype=torch.float32)
            angles = positions[:, None] * self._frequencies
            cos, sin = angles.cos() * self._factor, angles.sin() * self._factor
            return Rotation(cos.to(device, dtype), sin.to(device, dtype))


def inverse_frequencies(
    head_dim: int, theta: float, scaling: Llama3Scaling | YarnScaling | None
) -> Tensor:
    """Angle per position of each pair, float32, (head_dim / 2,)."""
    # An explicit device: the caller may be building the network without storage.
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
    periods = theta**exponents
    if isinstance(scaling, YarnScaling):
        return _yarn(periods, theta, scaling)
    return 1.0 / periods if scaling is None else _llama3(1.0 / periods, scaling)


def _yarn(periods: Tensor, theta: float, scaling: YarnScaling) -> Tensor:
    """Pairs that turn often within the original context are kept, slow ones stretched.

    In the reference's own order of float32 operations: one unit in the last place of a frequency
    is 1e-6 in the logits a hundred tokens on.
    """
    pairs = len(periods)

    def pair_that_turns(times: float) -> float:
        wavelength = scaling.original_context_length / (times * 2 * math.pi)
        return 2 * pairs * math.log(wavelength) / (2 * math.log(theta))

    low, high = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * pairs - 1)
    width = high - low or 0.001
    kept = 1 - ((torch.arange(pairs, dtype=torch.float32, device="cpu") - low) / width).clamp(0, 1)
    return 1.0 / (scaling.factor * periods) * (1 - kept) + 1.0 / periods * kept


def _llama3(frequencies: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Slow waves are stretched by `factor`, fast ones kept, those between blended."""
    wavelengths = 2 * math.pi / frequencies
    turns = scaling.original_context_length / wavelengths
    span = scaling.high_freq_factor - scaling.low_freq_factor
    kept = ((turns - scaling.low_freq_factor) / span).clamp(0, 1)
    return (1 - kept) * frequencies / scaling.factor + kept * frequencies
