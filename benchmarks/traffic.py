"""A trace's shape replayed through the HTTP server: speed, waiting, losses and memory.

    python benchmarks/traffic.py [--minutes 2] [--load 0.7 | --rate R] [--threads N] [--tiny]

Requests look like the traces of two services in "Splitwise" (Patel et al., 2024): conversations
of about 1,000 tokens in and a median of 129 out, and code completions with a median of 13 out; here
outputs are between 13 and 600 tokens, and every other conversation begins with one of three system
prompts of 600 tokens. First the KV cache is filled, so that memory has reached its height; then 16
clients that ask as fast as they are answered say what the server can take; then requests arrive at
`--load` of that, in turns of at most 150 s as a Poisson process and in bursts (gamma distributed
gaps with a coefficient of variation of 3). The client shares the machine.

Exit status 1 if a request was lost, or if memory grew. In runs of ten minutes and more: if even the
lower end of the 95% interval of its slope, after the first two turns, is above 4 MB a minute. In
shorter ones, where a slope says little, if a process at rest after them has a quarter more than it
had at rest before: how high it goes between depends on how many requests came at once.
`make soak` runs 30 minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from serving.client import Answer, Client
from serving.memory_watch import MemoryWatch, slope
from serving.server import Server, served
from serving.texts import Texts

from bessemer.inference import precision
from bessemer.inference.engine import EngineSettings
from bessemer.models.config import ModelConfig

SHARED_TOKENS, SHARED_PROMPTS = 600, 3
MIN_OUTPUT, MAX_OUTPUT = 13, 600
CLIENTS, SETTLING_S, CAPACITY_S = 16, 12.0, 20.0
BURSTINESS = 3.0
FILL_TOKENS = 500
TURN_S = 150.0
LONG_MINUTES, MOST_GROWTH_MB, MOST_GROWTH = 10, 4, 1.25
# An engine's process hands free pages back every 10 s.
REST_S = 12.0
MB = 1e6


class Request(NamedTuple):
    messages: list[dict[str, str]]
    max_tokens: int


class Capacity(NamedTuple):
    requests_per_s: float
    tokens_per_s: float


class Shape:
    """Draws requests."""

    def __init__(self, texts: Texts, seed: int) -> None:
        self._texts, self._random = texts, random.Random(seed)
        self._shared = [texts.of(SHARED_TOKENS) for _ in range(SHARED_PROMPTS)]

    def request(self) -> Request:
        conversation = self._random.random() < 0.75
        tokens = round(self._between(self._lognormal(1000, 0.35), 300, 2400))
        median, spread = (129, 0.9) if conversation else (13, 0.7)
        output = round(self._between(self._lognormal(median, spread), MIN_OUTPUT, MAX_OUTPUT))
        if not conversation or self._random.random() < 0.5:
            return Request([_said("user", self._texts.of(tokens))], output)
        system = _said("system", self._random.choice(self._shared))
        own = _said("user", self._texts.of(max(60, tokens - SHARED_TOKENS)))
        return Request([system, own], output)

    def gaps_s(self, rate: float, seconds: float, variation: float) -> Iterator[float]:
        """Times between arrivals until `seconds` have passed; 1 as variation is Poisson."""
        shape = 1 / variation**2
        passed = 0.0
        while (passed := passed + (gap := self._random.gammavariate(shape, 1 / rate / shape))) < (
            seconds
        ):
            yield gap

    def _lognormal(self, median: float, spread: float) -> float:
        return median * self._random.lognormvariate(0, spread)

    def _between(self, value: float, low: float, high: float) -> float:
        return max(low, min(high, value))


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


async def fill(client: Client, texts: Texts, folder: Path) -> None:
    """So many different tokens that the cache reaches its budget, a few requests at a time."""
    config, settings = ModelConfig.from_folder(folder), EngineSettings()
    size = precision.choose(settings.precision).itemsize
    token_bytes = 2 * config.layers * config.kv_heads * config.head_dim * size
    count = math.ceil(1.05 * settings.kv_bytes / token_bytes / FILL_TOKENS)
    waiting = [Request([_said("user", texts.of(FILL_TOKENS))], 1) for _ in range(count)]
    print(f"filling the cache: {count} prompts of {FILL_TOKENS:,} tokens", flush=True)

    async def worker() -> None:
        while waiting:
            answer = await client.ask(*waiting.pop())
            assert answer.fault is None, answer.fault

    await asyncio.gather(*(worker() for _ in range(8)))


async def capacity(client: Client, shape: Shape) -> Capacity:
    """What 16 clients get that ask again as soon as they are answered.

    They begin all at once, with prompts that are all new: that is left out.
    """
    begin_s = time.perf_counter() + SETTLING_S
    end_s = begin_s + CAPACITY_S
    arrivals = 0
    outputs: list[int] = []

    async def worker() -> None:
        nonlocal arrivals
        while time.perf_counter() < end_s:
            request = shape.request()
            outputs.append(request.max_tokens)
            answer = await client.ask(*request)
            assert answer.fault is None, answer.fault
            arrivals += sum(1 for at in answer.arrivals_s if begin_s <= at < end_s)

    await asyncio.gather(*(worker() for _ in range(CLIENTS)))
    per_s = arrivals / CAPACITY_S
    return Capacity(per_s / statistics.fmean(outputs), per_s)


async def replay(
    client: Client, requests: Sequence[Request], gaps_s: Sequence[float]
) -> list[Answer]:
    """Send each at its time, whatever became of the others; wait for all answers."""
    tasks: list[asyncio.Task[Answer]] = []
    due_s = time.perf_counter()
    for request, gap_s in zip(requests, gaps_s, strict=True):
        due_s += gap_s
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        tasks.append(asyncio.create_task(client.ask(*request)))
    return list(await asyncio.gather(*tasks))


async def run(server: Server, options: argparse.Namespace) -> bool:
    texts = Texts(server.folder)
    shape = Shape(texts, options.seed)
    watch = MemoryWatch({"server": server.process, "worker": server.worker()})
    watching = asyncio.create_task(watch.run())
    async with Client(server, sorted(texts.tokenizer.eos_ids)) as client:
        await fill(client, texts, server.folder)
        found = await capacity(client, shape)
        rate = options.rate or options.load * found.requests_per_s
        print(
            f"{server.model}: takes {found.requests_per_s:.2f} requests/s"
            f" ({found.tokens_per_s:,.0f} output tokens/s); now {rate:.2f} requests/s",
            flush=True,
        )
        await asyncio.sleep(REST_S)
        rested = {name: sizes[-1] for name, sizes in watch.sizes.items()}
        began_s = time.perf_counter()
        answers: dict[str, list[Answer]] = {"Poisson": [], "bursts": []}
        cycles = max(1, round(60 * options.minutes / (2 * TURN_S)))
        flat_from_s = began_s
        for cycle in range(cycles):
            for name, variation in (("Poisson", 1.0), ("bursts", BURSTINESS)):
                gaps_s = list(shape.gaps_s(rate, 30 * options.minutes / cycles, variation))
                answers[name] += await replay(client, [shape.request() for _ in gaps_s], gaps_s)
            if cycle == 0 and cycles > 1:
                flat_from_s = time.perf_counter()
        spent_s = time.perf_counter() - began_s
        await asyncio.sleep(REST_S)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    for name, half in answers.items():
        report(name, half)
    every = [answer for half in answers.values() for answer in half]
    tokens = sum(answer.usage.get("completion_tokens", 0) for answer in every)
    lost = [answer for answer in every if answer.fault is not None]
    print(
        f"sent {len(every)}, answered {len(every) - len(lost)},"
        f" told to come back {sum(answer.retried for answer in every)} times, lost {len(lost)};"
        f" {len(every) / spent_s:.2f} requests/s, {tokens / spent_s:,.0f} output tokens/s"
    )
    for answer in lost[:5]:
        print(f"lost: {answer.fault}")
    is_flat = [
        flat(name, watch, flat_from_s, options.minutes, rested[name]) for name in watch.sizes
    ]
    return not lost and all(is_flat)


def report(name: str, answers: Sequence[Answer]) -> None:
    whole = [answer for answer in answers if answer.fault is None]
    if len(whole) < 2:
        print(f"{name:<8} {len(answers)} requests: too few to say anything")
        return
    firsts = [answer.first_s for answer in whole]
    gaps = [gap for answer in whole for gap in answer.gaps_s]
    known = sum(answer.cached_tokens for answer in whole)
    prompts = sum(answer.usage["prompt_tokens"] for answer in whole)
    print(
        f"{name:<8} {len(answers)} requests, {prompts / len(whole):,.0f} tokens in"
        f" ({known / prompts:.0%} known); first token p50 {_percentile(firsts, 50):.2f} s,"
        f" p99 {_percentile(firsts, 99):.2f} s; between tokens"
        f" p50 {1000 * _percentile(gaps, 50):.0f} ms, p99 {1000 * _percentile(gaps, 99):.0f} ms",
        flush=True,
    )


def flat(name: str, watch: MemoryWatch, began_s: float, minutes: float, rested: int) -> bool:
    """Print how memory went since `began_s`, and say whether it stayed. It had `rested` before."""
    start = next(i for i, at in enumerate(watch.times_s) if at >= began_s)
    sizes = watch.sizes[name][start:]
    found = slope(watch.times_s[start:], sizes)
    per_minute = [60 * value / MB for value in found]
    print(
        f"{name:<8} {min(sizes) / MB:,.0f} to {max(sizes) / MB:,.0f} MB, at rest"
        f" {rested / MB:,.0f} before and {sizes[-1] / MB:,.0f} after; slope"
        f" {per_minute[0]:+.2f} MB a minute, 95% interval {per_minute[1]:+.2f} to"
        f" {per_minute[2]:+.2f}"
    )
    if minutes >= LONG_MINUTES:
        if per_minute[1] <= MOST_GROWTH_MB:
            return True
        print(f"{name} grows by more than {MOST_GROWTH_MB} MB a minute")
        return False
    if sizes[-1] <= MOST_GROWTH * rested:
        return True
    print(f"{name} at rest has more than {MOST_GROWTH} times the memory that it began with")
    return False


def _percentile(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="of arrivals, after the warm-up")
    parser.add_argument("--load", type=float, default=0.7, help="share of the measured capacity")
    parser.add_argument("--rate", type=float, help="requests a second, in place of a share")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="of the engine; by default all cores")
    parser.add_argument("--tiny", action="store_true", help="a random model, made on the spot")
    options = parser.parse_args()
    with served(tiny=options.tiny, threads=options.threads) as server:
        return 0 if asyncio.run(run(server, options)) else 1


if __name__ == "__main__":
    sys.exit(main())
