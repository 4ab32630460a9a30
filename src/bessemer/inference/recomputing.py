"""Requests computed again, in a fresh engine in deterministic mode, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from bessemer.core.protocols import GenerateRequest, TokenLogprob
from bessemer.inference.engine import EngineSettings, NativeEngine


class Recomputed(NamedTuple):
    """What each request drew this time, and what the engine's bits depended on."""

    answers: list[list[TokenLogprob]]
    conditions: Mapping[str, str]


def recompute(
    folder: Path, requests: Sequence[GenerateRequest], conditions: Mapping[str, str]
) -> Recomputed:
    """Answer the requests with the precision and the number of threads of `conditions`.

    Sets the threads of this process. The requests ask for log-probabilities.
    """
    torch.set_num_threads(int(conditions["threads"]))
    precision = cast(Any, conditions["precision"])
    settings = EngineSettings(precision=precision, deterministic=True, max_running=1)
    engine = NativeEngine.open(folder, "recomputed", settings)
    try:
        return Recomputed(asyncio.run(_answer_all(engine, requests)), engine.info_now().conditions)
    finally:
        engine.close()


async def _answer_all(
    engine: NativeEngine, requests: Sequence[GenerateRequest]
) -> list[list[TokenLogprob]]:
    return [
        [token async for chunk in engine.generate(request) for token in chunk.drawn]
        for request in requests
    ]
