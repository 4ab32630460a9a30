"""What a known prefix saves: times to the first token over HTTP, and how much is remembered.

    python benchmarks/prefix_cache.py [--repeat 9] [--tiny]

1. A system prompt of 1,000 tokens that nobody sent before, then the same with another question:
   medians of the time to the first token, each repeat with a system prompt of its own.
2. 48 conversations of 600 tokens, one after the other, then all of them again: how much of the
   second round was known. There are 32 rows, so rows alone would know nothing of it.
3. Without HTTP: what copying a prefix out of the store, hashing it and giving pages back cost.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from serving.client import Client
from serving.server import Server, served
from serving.texts import Texts

from bessemer.inference import precision
from bessemer.inference.blocks import extend_chain
from bessemer.inference.cache import KVCache
from bessemer.models.config import ModelConfig

SYSTEM_TOKENS = 1000
CONVERSATIONS, CONVERSATION_TOKENS = 48, 600


def chat(system: str, question: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": question}]


async def first_and_second(client: Client, texts: Texts, repeat: int) -> None:
    times: list[tuple[float, float]] = []
    computed: list[tuple[int, int]] = []
    for _ in range(repeat):
        system = texts.of(SYSTEM_TOKENS)
        once = await client.ask(chat(system, texts.of(12)), 4)
        again = await client.ask(chat(system, texts.of(12)), 4)
        assert once.fault is None and again.fault is None, (once, again)
        times.append((once.first_s, again.first_s))
        computed.append(
            (
                once.usage["prompt_tokens"] - once.cached_tokens,
                again.usage["prompt_tokens"] - again.cached_tokens,
            )
        )
    first, second = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(b / a for a, b in times)
    print(f"a system prompt of {SYSTEM_TOKENS:,} tokens, {repeat} times, medians")
    print(f"  first use   {1000 * first:8.1f} ms, {computed[-1][0]:,} tokens computed")
    print(f"  second use  {1000 * second:8.1f} ms, {computed[-1][1]:,} tokens computed")
    print(f"  ratio       {ratio:8.3f}", flush=True)


async def many_conversations(client: Client, texts: Texts) -> None:
    prompts = [chat(texts.of(CONVERSATION_TOKENS), f"Question {n}?") for n in range(CONVERSATIONS)]
    for prompt in prompts:
        await client.ask(prompt, 1)
    answers = [await client.ask(prompt, 1) for prompt in prompts]
    known = sum(answer.cached_tokens for answer in answers)
    whole = sum(answer.usage["prompt_tokens"] for answer in answers)
    print(f"{CONVERSATIONS} conversations of {CONVERSATION_TOKENS} tokens, asked again")
    print(f"  known: {known:,} of {whole:,} prompt tokens, {known / whole:.0%}", flush=True)


def parts(folder: Path) -> None:
    """Medians of the cache's own work for a prefix of 1,000 tokens."""
    config = ModelConfig.from_folder(folder)
    cache = KVCache(
        config,
        precision.choose("auto"),
        rows=32,
        context_length=config.context_length,
        kv_bytes=1 << 30,
    )
    ids = list(range(SYSTEM_TOKENS))
    row = cache.acquire([*ids, 0])
    assert row is not None
    row.computed = SYSTEM_TOKENS
    cache.release(row)

    def take() -> None:
        for _ in range(32):
            taken = cache.acquire([*ids, 1])
            assert taken is not None and taken.computed == 992, taken

    def leave() -> None:
        for taken in cache.rows:
            cache.release(taken)

    took, left = [], []
    for _ in range(5):
        took.append(seconds(take))
        left.append(seconds(leave))
    chain_s = [seconds(lambda: extend_chain([], ids)) for _ in range(9)]
    size = SYSTEM_TOKENS * cache.bytes_per_token
    print(f"a prefix of {SYSTEM_TOKENS:,} tokens ({size / 1e6:.1f} MB), 32 sequences at once")
    print(f"  copied into a row that was not used yet  {1000 * took[0] / 32:6.2f} ms")
    print(f"  copied into a row with pages             {1000 * min(took[1:]) / 32:6.2f} ms")
    print(f"  at the end, when all of it is known      {1000 * min(left) / 32:6.2f} ms")
    print(f"  digests of its blocks                    {1000 * statistics.median(chain_s):6.2f} ms")


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


async def over_http(server: Server, repeat: int) -> None:
    texts = Texts(server.folder)
    async with Client(server, sorted(texts.tokenizer.eos_ids)) as client:
        await client.ask(chat("Warm up.", "Hello"), 8)
        await first_and_second(client, texts, repeat)
        await many_conversations(client, texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--tiny", action="store_true", help="a random model, made on the spot")
    options = parser.parse_args()
    with served(tiny=options.tiny) as server:
        print(server.model)
        asyncio.run(over_http(server, options.repeat))
        folder = server.folder
        torch.set_num_threads(1)
        parts(folder)


if __name__ == "__main__":
    main()
