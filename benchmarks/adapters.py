"""What LoRA per request costs: decode and prefill tokens/s with none, 1, 8 and 32 adapters.

    python benchmarks/adapters.py [--rank 16] [--repeat 3] [--new 48] [--who ours|peer|gap]

The default model in the precision that this machine's engine picks, prompts of 128 tokens, 1, 8
and 32 requests at once. The adapters have random weights over every linear layer but the head;
requests take them in turn. `none` is the same engine before any is loaded. The peer is peft over
transformers in bf16, whose `adapter_names` gives each row of a batch its own. Ours are medians over
the repeats; theirs is one run. `gap` is how far log-probabilities of a page of text are from those
of the merged model in float32: with the adapter beside a base in bf16, and merged in bf16.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bessemer.app.catalog import DEFAULT_MODEL
from bessemer.app.machine import usable_cores
from bessemer.app.platform import Platform
from bessemer.app.pull import pull
from bessemer.core.protocols import GenerateRequest, Sampling
from bessemer.inference.engine import EngineSettings, NativeEngine
from bessemer.inference.precision import Precision
from bessemer.models.adapter import merge_adapter, save_adapter
from bessemer.models.folder import copy_companions, load_decoder, save_decoder
from bessemer.models.lora import add_lora
from bessemer.text.tokenizer import Tokenizer

PROMPT_TOKENS = 128
CASES = ((1, 0), (1, 1), (8, 0), (8, 1), (8, 8), (32, 0), (32, 1), (32, 8), (32, 32))
"""(requests, adapters)"""


class Speed(NamedTuple):
    """Tokens per second, over all requests together."""

    prefill: float
    decode: float


def make_adapters(base: Path, folder: Path, count: int, rank: int) -> list[Path]:
    layers = add_lora(load_decoder(base), rank, 2.0 * rank, seed=0)
    made = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        for layer in layers.values():
            layer.lora_B.data.normal_(0, 0.002, generator=generator)
        save_adapter(layers, folder / str(seed), base="base")
        made.append(folder / str(seed))
    return made


def prompts(count: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(100, 40_000, (count, PROMPT_TOKENS), generator=generator).tolist()


async def ours(
    engine: NativeEngine, texts: list[list[int]], adapters: Sequence[str | None], new: int
) -> Speed:
    """Decode counts only the tokens after every request had its first one."""

    async def one(ids: list[int], adapter: str | None) -> list[float]:
        asked = GenerateRequest(
            request_id="b",
            prompt_ids=ids,
            max_tokens=new,
            sampling=Sampling(temperature=0),
            adapter=adapter,
        )
        return [time.perf_counter() async for _ in engine.generate(asked)]

    begin = time.perf_counter()
    stamps = await asyncio.gather(
        *(one(ids, adapters[i % len(adapters)]) for i, ids in enumerate(texts))
    )
    last_first, end = max(ends[0] for ends in stamps), max(ends[-1] for ends in stamps)
    decoded = sum(1 for ends in stamps for at in ends if at > last_first)
    return Speed(len(texts) * PROMPT_TOKENS / (last_first - begin), decoded / (end - last_first))


class Stamps:
    """A streamer of `generate` that notes when each token came; the prompt comes first."""

    def __init__(self) -> None:
        self.at_s: list[float] = []

    def put(self, _: torch.Tensor) -> None:
        self.at_s.append(time.perf_counter())

    def end(self) -> None:
        pass


def theirs(model: Any, texts: list[list[int]], names: Sequence[str] | None, new: int) -> Speed:
    ids, stamps = torch.tensor(texts), Stamps()
    chosen = None if names is None else [names[i % len(names)] for i in range(len(texts))]
    more = {} if chosen is None else {"adapter_names": chosen}
    with torch.inference_mode():
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            streamer=stamps,
            **more,
        )
    began, first, *_, last = stamps.at_s
    return Speed(ids.numel() / (first - began), len(texts) * (new - 1) / (last - first))


def median(runs: Sequence[Speed]) -> Speed:
    return Speed(*(statistics.median(values) for values in zip(*runs, strict=True)))


def row(name: str, requests: int, adapters: int, speed: Speed) -> None:
    count = adapters or "none"
    print(
        f"{name:<22}{requests:>9}{count:>10}{speed.prefill:>12,.0f}{speed.decode:>12,.1f}",
        flush=True,
    )


async def load(engine: NativeEngine, folders: list[Path]) -> list[str]:
    took = []
    for folder in folders:
        begin = time.perf_counter()
        await engine.load_adapter(str(folder), folder)
        took.append(time.perf_counter() - begin)
    print(f"loading an adapter: {1e3 * statistics.median(took):.0f} ms")
    return [str(folder) for folder in folders]


def measure_ours(base: Path, folders: list[Path], repeat: int, new: int) -> None:
    engine = NativeEngine.open(base, "benchmark", EngineSettings(adapter_bytes=4 << 30))
    name = f"bessemer {engine.info_now().precision}"

    def measure(requests: int, adapters: Sequence[str | None]) -> Speed:
        return median(
            [
                asyncio.run(ours(engine, prompts(requests, seed), adapters, new))
                for seed in range(repeat)
            ]
        )

    try:
        asyncio.run(ours(engine, prompts(2, 99), [None], 8))
        plain = {n: measure(n, [None]) for n in dict(CASES)}
        digests = asyncio.run(load(engine, folders))
        for requests, count in CASES:
            speed = measure(requests, digests[:count]) if count else plain[requests]
            row(name, requests, count, speed)
    finally:
        engine.close()


def measure_theirs(base: Path, folders: list[Path], new: int) -> None:
    import peft
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).eval()
    plain.generation_config.eos_token_id = None
    theirs(plain, prompts(1, 99), None, 2)
    for requests in dict(CASES):
        row("transformers bf16", requests, 0, theirs(plain, prompts(requests, 0), None, new))
    model: Any = peft.PeftModel.from_pretrained(
        plain, folders[0], adapter_name="0", autocast_adapter_dtype=False
    )
    for number, folder in enumerate(folders[1:], 1):
        model.load_adapter(folder, adapter_name=str(number), autocast_adapter_dtype=False)
    model.eval()
    names = [str(number) for number in range(len(folders))]
    for requests, count in CASES:
        if count:
            speed = theirs(model, prompts(requests, 0), names[:count], new)
            row("peft bf16", requests, count, speed)


def measure_gap(base: Path, adapter: Path, merged: Path) -> None:
    decoder = load_decoder(base)
    merge_adapter(decoder, adapter)
    save_decoder(decoder, merged)
    copy_companions(base, merged)
    text = inspect.getsource(argparse)[10_000:14_000]
    ids = Tokenizer.load(base).encode(text)[:600]

    def score(folder: Path, precision: Precision, adapter: Path | None) -> torch.Tensor:
        async def ask() -> list[float]:
            if adapter is not None:
                await engine.load_adapter("x", adapter)
            return await engine.score(ids, adapter="x" if adapter else None)

        engine = NativeEngine.open(folder, "benchmark", EngineSettings(precision=precision))
        try:
            return torch.tensor(asyncio.run(ask()))
        finally:
            engine.close()

    truth = score(merged, "fp32", None)
    cases: dict[str, tuple[Path, Precision, Path | None]] = {
        "base alone, fp32": (base, "fp32", None),
        "adapter beside fp32": (base, "fp32", adapter),
        "adapter beside bf16": (base, "bf16", adapter),
        "merged, bf16": (merged, "bf16", None),
    }
    for name, case in cases.items():
        gaps = (score(*case) - truth).abs()
        print(f"{name:<22}{gaps.mean():>12.2g} nats on average, {gaps.max():.2g} at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--new", type=int, default=48, help="tokens to decode (ours)")
    parser.add_argument("--new-theirs", type=int, default=9, help="tokens to decode (peft)")
    parser.add_argument("--who", choices=("ours", "peer", "gap"), default="ours")
    options = parser.parse_args()
    torch.set_num_threads(usable_cores())
    with Platform.open() as platform:
        base = pull(platform, platform.local_principal(), DEFAULT_MODEL).path
    with tempfile.TemporaryDirectory() as temporary:
        most = max(count for _, count in CASES)
        folders = make_adapters(base, Path(temporary), most, options.rank)
        print(f"{DEFAULT_MODEL}, rank {options.rank}, {torch.get_num_threads()} threads")
        if options.who == "gap":
            measure_gap(base, folders[0], Path(temporary) / "merged")
            return
        print(f"{'tokens/s':<22}{'requests':>9}{'adapters':>10}{'prefill':>12}{'decode':>12}")
        if options.who == "ours":
            measure_ours(base, folders, options.repeat, options.new)
        else:
            measure_theirs(base, folders, options.new_theirs)


if __name__ == "__main__":
    main()
