"""What an engine takes of memory: reckoned from its files before it runs, then measured.

The reckoning is for the moment of loading, when the files and what the engine makes of them are
there together; on the default model it says 1.21 GB and 1.13 GB are measured. The KV cache comes
on top: it fills as answers grow, up to its limit. A draft model is a second model in the same
process, with a cache of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from bessemer.app.models import NamedModel
from bessemer.core.errors import BessemerError
from bessemer.core.memory import gb, measure
from bessemer.models.config import ModelConfig
from bessemer.models.encoder_config import is_encoder

# Of what is free when the server starts; runs, pages and the system need memory too.
DEFAULT_SHARE = 0.8
# A process with torch in it, before there is a model: 331 MB are measured.
RUNTIME_BYTES = 400_000_000
# The files, mapped, and half as much again: what float32 becomes in bf16.
LOADING = 1.5
KV_BYTES = 1 << 30
# Of the budget, for each engine's KV cache: a small budget must not go into one of them.
KV_SHARE = 4
_ROWS = 32  # sequences that an engine computes together
_WIDEST_BYTES = 4  # of a number in the cache


class Need(NamedTuple):
    """Bytes of one engine: its process with the weights, and its KV cache when that is full."""

    process: int
    kv: int

    @property
    def total(self) -> int:
        return self.process + self.kv

    def __str__(self) -> str:
        return f"{gb(self.total)} ({gb(self.process)} loaded, {gb(self.kv)} of KV cache)"


def default_budget() -> int:
    """Bytes for all engines: a share of what this machine, or control group, has free now."""
    return int(measure().available * DEFAULT_SHARE)


def kv_limit(budget_bytes: int | None) -> int:
    """Bytes that one engine's KV cache may take; None for no budget."""
    return KV_BYTES if budget_bytes is None else min(KV_BYTES, budget_bytes // KV_SHARE)


def reckon(model: NamedModel, kv_bytes: int, draft: NamedModel | None = None) -> Need:
    """What a model will need whose engine has not run yet; `draft` guesses ahead of decoders."""
    process = RUNTIME_BYTES + int(LOADING * model.artifact.size_bytes)
    kv = _kv(model.path, kv_bytes)
    if draft is not None and not is_encoder(model.path):
        process += int(LOADING * draft.artifact.size_bytes)
        kv += _kv(draft.path, kv_bytes)
    return Need(process, kv)


def _kv(folder: Path, kv_bytes: int) -> int:
    if is_encoder(folder):
        return 0
    try:
        config = ModelConfig.from_folder(folder)
    except BessemerError:
        return kv_bytes  # loading it will say what is wrong
    a_token = config.layers * 2 * config.kv_heads * config.head_dim * _WIDEST_BYTES
    return min(kv_bytes, _ROWS * config.context_length * a_token)
