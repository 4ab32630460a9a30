"""Prefill and decode tokens/s of the default model at 1, 8 and 32 requests, beside transformers.

    python benchmarks/decode.py [--repeat 3] [--new 64]

Same weights, same random prompts of 128 tokens, same threads, one after the other in one process.
Ours runs in the precision that it picks on this machine; transformers in bf16 and in fp32, of
which its better one is what to compare with. Medians over the repeats.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from bessemer.app.catalog import DEFAULT_MODEL
from bessemer.app.machine import usable_cores
from bessemer.app.platform import Platform
from bessemer.app.pull import pull
from bessemer.core.protocols import GenerateRequest, Sampling
from bessemer.inference.engine import EngineSettings, NativeEngine

PROMPT_TOKENS = 128
REQUESTS = (1, 8, 32)


class Speed(NamedTuple):
    """Tokens per second, over all requests together."""

    prefill: float
    decode: float


def prompts(count: int, seed: int, vocabulary: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(100, vocabulary, (count, PROMPT_TOKENS), generator=generator).tolist()


async def ours(engine: NativeEngine, texts: list[list[int]], new: int) -> Speed:
    """Decode counts only the tokens after every request had its first one."""

    async def one(ids: list[int]) -> list[float]:
        asked = GenerateRequest(
            request_id="b", prompt_ids=ids, max_tokens=new, sampling=Sampling(temperature=0)
        )
        return [time.perf_counter() async for _ in engine.generate(asked)]

    begin = time.perf_counter()
    stamps = await asyncio.gather(*(one(ids) for ids in texts))
    last_first, end = max(ends[0] for ends in stamps), max(ends[-1] for ends in stamps)
    decoded = sum(1 for ends in stamps for at in ends if at > last_first)
    return Speed(len(texts) * PROMPT_TOKENS / (last_first - begin), decoded / (end - last_first))


def theirs(model: object, texts: list[list[int]], new: int) -> Speed:
    ids = torch.tensor(texts)

    def generate(count: int) -> float:
        begin = time.perf_counter()
        with torch.inference_mode():
            model.generate(  # type: ignore[attr-defined]
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
            )
        return time.perf_counter() - begin

    first = generate(1)
    whole = generate(new)
    return Speed(ids.numel() / first, len(texts) * (new - 1) / max(whole - first, 1e-9))


def median(measure: Callable[[int], Speed], repeat: int) -> Speed:
    runs = [measure(seed) for seed in range(repeat)]
    return Speed(*(statistics.median(values) for values in zip(*runs, strict=True)))


def row(name: str, count: int, speed: Speed) -> None:
    print(f"{name:<28}{count:>9}{speed.prefill:>12,.0f}{speed.decode:>12,.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--new", type=int, default=64, help="tokens to decode (ours)")
    parser.add_argument(
        "--new-theirs", type=int, default=33, help="tokens to decode (transformers)"
    )
    options = parser.parse_args()
    torch.set_num_threads(usable_cores())
    with Platform.open() as platform:
        folder = pull(platform, platform.local_principal(), DEFAULT_MODEL).path
    print(f"{DEFAULT_MODEL}, {PROMPT_TOKENS}-token prompts, {torch.get_num_threads()} threads")
    print(f"{'tokens/s':<28}{'requests':>9}{'prefill':>12}{'decode':>12}")
    measure_ours(folder, options.repeat, options.new)
    for dtype in (torch.bfloat16, torch.float32):
        measure_theirs(folder, dtype, options.repeat, options.new_theirs)


def measure_ours(folder: Path, repeat: int, new: int) -> None:
    # Answers to random prompts soon repeat themselves, which guesses would profit from.
    engine = NativeEngine.open(folder, "benchmark", EngineSettings(guesses="off"))
    name = f"bessemer {engine.info_now().precision}"
    try:
        asyncio.run(ours(engine, prompts(2, 99, 40_000), 8))
        for count in REQUESTS:
            speed = median(
                lambda seed, n=count: asyncio.run(ours(engine, prompts(n, seed, 40_000), new)),
                repeat,
            )
            row(name, count, speed)
    finally:
        engine.close()


def measure_theirs(folder: Path, dtype: torch.dtype, repeat: int, new: int) -> None:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    model.generation_config.eos_token_id = None
    theirs(model, prompts(1, 99, 40_000), 2)
    name = f"transformers {str(dtype).removeprefix('torch.')}"
    for count in REQUESTS:
        speed = median(lambda seed, n=count: theirs(model, prompts(n, seed, 40_000), new), repeat)
        row(name, count, speed)


if __name__ == "__main__":
    main()
