"""How long token shards take to write, to open, and to read a row from.

    python benchmarks/open_shards.py [--gigabytes 1]

Writes uint16 shards of 1,000-token documents to a temporary folder, then opens them anew and reads
windows of 513 tokens at random places. "first touch" includes comparing the 256 KiB around a window
with their hash, which happens once for each. Beside it, for the opening: reading the same files.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bessemer.data.shard_writer import ShardWriter
from bessemer.data.shards import TokenShards

VOCABULARY, DOCUMENT, WINDOW = 50_000, 1000, 513


def seconds(work: Callable[[], object]) -> float:
    begin_s = time.perf_counter()
    work()
    return time.perf_counter() - begin_s


def write(folder: Path, documents: int) -> None:
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, DOCUMENT)
    with ShardWriter(folder, VOCABULARY) as writer:
        for number in range(documents):
            writer.add(f"document/{number}", tokens, source="random", licence="CC0-1.0")


def read_windows(shards: TokenShards, places: list[int]) -> None:
    for place in places:
        shards.window(place, place + WINDOW)
        shards.documents.starts(place, place + WINDOW)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    documents = max(1, int(parser.parse_args().gigabytes * 1e9 / 2 / DOCUMENT))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "tokens"
        write_s = seconds(lambda: write(folder, documents))
        open_s = [seconds(lambda: TokenShards(folder)) for _ in range(11)]
        read_s = seconds(lambda: [path.read_bytes() for path in folder.iterdir()])
        shards = TokenShards(folder)
        places = np.random.default_rng(1).integers(0, shards.tokens - WINDOW, 5000).tolist()
        first_s = seconds(lambda: read_windows(shards, places[:500])) / 500
        verify_s = seconds(shards.verify)
        again_s = seconds(lambda: read_windows(shards, places)) / len(places)
        find_s = seconds(lambda: shards.documents.find(f"document/{documents - 1}"))
        size_gb = shards.tokens * 2 / 1e9
    print(f"{size_gb:.2f} GB of tokens, {documents:,} documents, {shards.leaves:,} leaves")
    print(f"write                  {size_gb / write_s * 1000:10.0f} MB/s")
    print(f"open, median of 11     {statistics.median(open_s) * 1e3:10.2f} ms")
    print(f"read the same files    {read_s * 1e3:10.0f} ms")
    print(f"verify every byte      {verify_s:10.2f} s")
    print(f"window, first touch    {first_s * 1e6:10.0f} us")
    print(f"window, later          {again_s * 1e6:10.1f} us")
    print(f"document by id         {find_s * 1e3:10.2f} ms")


if __name__ == "__main__":
    main()
