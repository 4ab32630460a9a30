"""What the engine says of a text, both ways it computes: decoding it, and reading it at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bessemer.core.protocols import GenerateRequest, Sampling
from bessemer.inference.engine import EngineSettings, NativeEngine
from bessemer.inference.precision import Precision


class Probed(NamedTuple):
    """One prompt, continued greedily.

    Attributes:
        ids: prompt and answer.
        answer: how many of them are the answer.
        decoded: log-probability of each token of the answer, as it was decoded token by token.
        read: log-probability of every token but the first, all of them read at once (prefill).
    """

    ids: list[int]
    answer: int
    decoded: list[float]
    read: list[float]


def probe(
    model: Path, prompts: Sequence[Sequence[int]], tokens: int, precision: Precision
) -> list[Probed]:
    """Open an engine, let it answer all prompts side by side, then score prompt and answer."""
    settings = EngineSettings(precision=precision)
    engine = NativeEngine.open(model, "probed", settings)
    try:
        return asyncio.run(_probe_all(engine, prompts, tokens))
    finally:
        engine.close()


async def _probe_all(
    engine: NativeEngine, prompts: Sequence[Sequence[int]], tokens: int
) -> list[Probed]:
    answers = await asyncio.gather(
        *(_answer(engine, number, prompt, tokens) for number, prompt in enumerate(prompts))
    )
    probed = []
    for prompt, (ids, decoded) in zip(prompts, answers, strict=True):
        whole = [*prompt, *ids]
        probed.append(Probed(whole, len(ids), decoded, await engine.score(whole)))
    return probed


async def _answer(
    engine: NativeEngine, number: int, prompt: Sequence[int], tokens: int
) -> tuple[list[int], list[float]]:
    request = GenerateRequest(
        request_id=f"probe-{number}",
        prompt_ids=prompt,
        max_tokens=tokens,
        sampling=Sampling(temperature=0.0),
        top_logprobs=0,
    )
    ids: list[int] = []
    logprobs: list[float] = []
    async for chunk in engine.generate(request):
        ids += chunk.ids
        logprobs += [each.logprob for each in chunk.logprobs or ()]
    return ids, logprobs
