"""What deterministic mode costs: prefill and decode tokens/s, beside the plain engine's.

    python benchmarks/deterministic.py [--repeat 3] [--new 64]

The default model at 1, 8 and 32 requests with prompts of 128 and of 300 tokens, one engine after
the other in one process, in the precision that engines pick on this machine; neither guesses ahead.
Medians over the repeats. The last lines say whether answers had the bits they have alone; the
plain engine's are counted too, so that the comparison is known to see a difference.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from pathlib import Path

import torch

from bessemer.app.catalog import DEFAULT_MODEL
from bessemer.app.machine import usable_cores
from bessemer.app.platform import Platform
from bessemer.app.pull import pull
from bessemer.core.protocols import GenerateRequest, Sampling
from bessemer.inference.engine import EngineSettings, NativeEngine

REQUESTS = (1, 8, 32)
PROMPT_TOKENS = (128, 300)
VOCABULARY = 40_000


def prompts(count: int, tokens: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(100, VOCABULARY, (count, tokens), generator=generator).tolist()


async def answer(engine: NativeEngine, ids: list[int], new: int) -> tuple[list[float], list[float]]:
    """When each token came, and its log-probability."""
    asked = GenerateRequest(
        request_id="b",
        prompt_ids=ids,
        max_tokens=new,
        sampling=Sampling(temperature=0),
        top_logprobs=0,
    )
    stamps, logprobs = [], []
    async for chunk in engine.generate(asked):
        stamps += [time.perf_counter()] * len(chunk.ids)
        logprobs += [each.logprob for each in chunk.logprobs or ()]
    return stamps, logprobs


async def speed(engine: NativeEngine, texts: list[list[int]], new: int) -> tuple[float, float]:
    """Prefill and decode tokens/s; decode counts only what comes after everybody's first token."""
    begin = time.perf_counter()
    answers = await asyncio.gather(*(answer(engine, ids, new) for ids in texts))
    stamps = [stamps for stamps, _ in answers]
    last_first, end = max(each[0] for each in stamps), max(each[-1] for each in stamps)
    decoded = sum(1 for each in stamps for at in each if at > last_first)
    prompt_tokens = sum(map(len, texts))
    return prompt_tokens / (last_first - begin), decoded / max(end - last_first, 1e-9)


async def changed(engine: NativeEngine, new: int) -> tuple[int, int]:
    """How many of 32 answers in company differ from the same ones alone, and of how many."""
    texts = prompts(32, 200, seed=77)
    texts = [ids[: 20 + 5 * number] for number, ids in enumerate(texts)]
    crowd = await asyncio.gather(*(answer(engine, ids, new) for ids in texts))
    alone = [await answer(engine, ids, new) for ids in texts]
    return sum(one[1] != other[1] for one, other in zip(crowd, alone, strict=True)), len(texts)


def measure(folder: Path, name: str, settings: EngineSettings, repeat: int, new: int) -> str:
    engine = NativeEngine.open(folder, "benchmark", settings)
    try:
        asyncio.run(speed(engine, prompts(2, 128, seed=99), 8))
        for tokens in PROMPT_TOKENS:
            for count in REQUESTS:
                runs = [
                    asyncio.run(speed(engine, prompts(count, tokens, seed), new))
                    for seed in range(repeat)
                ]
                prefill, decode = (statistics.median(values) for values in zip(*runs, strict=True))
                print(
                    f"{name:<16}{tokens:>8}{count:>10}{prefill:>12,.0f}{decode:>12,.1f}", flush=True
                )
        different, all_ = asyncio.run(changed(engine, 24))
        return f"{name}: {different} of {all_} answers differ in company, by a bit or more"
    finally:
        engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--new", type=int, default=64, help="tokens to decode")
    options = parser.parse_args()
    torch.set_num_threads(usable_cores())
    with Platform.open() as platform:
        folder = pull(platform, platform.local_principal(), DEFAULT_MODEL).path
    print(f"{DEFAULT_MODEL}, {torch.get_num_threads()} threads, tokens/s")
    print(f"{'engine':<16}{'prompt':>8}{'requests':>10}{'prefill':>12}{'decode':>12}")
    verdicts = [
        measure(folder, name, settings, options.repeat, options.new)
        for name, settings in (
            ("plain", EngineSettings(guesses="off")),
            ("deterministic", EngineSettings(deterministic=True)),
        )
    ]
    print("\n".join(verdicts))


if __name__ == "__main__":
    main()
