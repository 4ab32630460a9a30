"""Sentences/s of the pinned sentence model at 1 and 32 sentences a request, beside transformers.

    python benchmarks/embeddings.py [--repeat 5]

Same weights, same sentences (docstrings of this Python's own library, cut to the model's context),
same threads, tokens given: what is timed is the network, pooling included. Ours goes through the
engine, in the precision it picks on this machine and in float32; transformers' BertModel in both,
in batches of similar length, padded to the longest. One after the other in one process; medians
over the repeats.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bessemer.app.catalog import SENTENCE_MODEL
from bessemer.app.machine import usable_cores
from bessemer.app.platform import Platform
from bessemer.app.pull import pull
from bessemer.data.corpus import read_source, source_files
from bessemer.data.symbols import symbols_of
from bessemer.inference.engine import EngineSettings, NativeEngine
from bessemer.inference.precision import Precision
from bessemer.text.tokenizer import Tokenizer

BATCHES = (1, 32)
SENTENCES = 256
LONGEST = 256


def sentences(folder: Path) -> list[list[int]]:
    """First sentences of docstrings, as the model's token ids."""
    tokenizer = Tokenizer.load(folder)
    texts = sorted(
        {
            symbol.docstring.split("\n\n")[0]
            for path in source_files()
            for symbol in symbols_of(read_source(path), path.stem)
            if symbol.docstring
        }
    )
    chosen = texts[:: max(1, len(texts) // SENTENCES)][:SENTENCES]
    found = [tokenizer.encode_document(text)[:LONGEST] for text in chosen]
    return sorted(found, key=len)  # so that who pads has little to pad


def ours(folder: Path, precision: Precision, batches: list[list[list[int]]]) -> list[float]:
    """Seconds of each batch; a batch is as many requests at the same time."""

    async def run() -> list[float]:
        times = []
        for batch in batches:
            begin = time.perf_counter()
            await asyncio.gather(*(engine.embed(ids) for ids in batch))
            times.append(time.perf_counter() - begin)
        return times

    engine = NativeEngine.open(folder, "benchmark", EngineSettings(precision=precision))
    try:
        asyncio.run(run())
        return asyncio.run(run())
    finally:
        engine.close()


def theirs(folder: Path, dtype: torch.dtype, batches: list[list[list[int]]]) -> list[float]:
    from transformers import BertModel

    model = BertModel.from_pretrained(folder, dtype=dtype).eval()

    def vectors(batch: list[list[int]]) -> torch.Tensor:
        longest = max(map(len, batch))
        ids_NL = torch.tensor([ids + [0] * (longest - len(ids)) for ids in batch])
        mask_NL = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in batch])
        with torch.inference_mode():
            hidden_NLD = model(ids_NL, attention_mask=mask_NL).last_hidden_state.float()
            mean_ND = (hidden_NLD * mask_NL[..., None]).sum(1) / mask_NL.sum(1, keepdim=True)
            return torch.nn.functional.normalize(mean_ND, dim=1)

    def run() -> list[float]:
        times = []
        for batch in batches:
            begin = time.perf_counter()
            vectors(batch)
            times.append(time.perf_counter() - begin)
        return times

    run()
    return run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(usable_cores())
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with Platform.open() as platform:
        folder = pull(platform, platform.local_principal(), SENTENCE_MODEL).path
    texts = sentences(folder)
    mean = sum(map(len, texts)) / len(texts)
    print(
        f"{SENTENCE_MODEL}, {len(texts)} sentences of {mean:.0f} tokens on average, "
        f"{torch.get_num_threads()} threads"
    )
    print(f"{'sentences/s':<28}" + "".join(f"{f'batch {size}':>12}" for size in BATCHES))
    rows: dict[str, Callable[[list[list[list[int]]]], list[float]]] = {
        "bessemer auto": lambda batches: ours(folder, "auto", batches),
        "bessemer fp32": lambda batches: ours(folder, "fp32", batches),
        "transformers bfloat16": lambda batches: theirs(folder, torch.bfloat16, batches),
        "transformers float32": lambda batches: theirs(folder, torch.float32, batches),
    }
    for name, measure in rows.items():
        cells = []
        for size in BATCHES:
            batches = [texts[i : i + size] for i in range(0, len(texts), size)]
            speeds = [len(texts) / sum(measure(batches)) for _ in range(options.repeat)]
            cells.append(f"{statistics.median(speeds):>12,.0f}")
        print(f"{name:<28}{''.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
