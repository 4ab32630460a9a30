"""How many requests a second the ledger reserves and settles, durably, beside a transaction each.

    python benchmarks/ledger.py [--seconds 3] [--folder .]

Each caller of an event loop reserves, waits until that is on disk, settles, waits again, and begins
anew. A project and an organization have budgets, so every reservation is checked against four
limits. "a transaction each" is the same code with lists of one entry. Both in the same run, three
times in turn; the medians are printed. `fsync` is what this disk takes to keep 4 KiB.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from bessemer.app.platform import Platform
from bessemer.core.home import Home
from bessemer.ledger import cards
from bessemer.ledger.budgets import set_budget
from bessemer.ledger.counts import Counts
from bessemer.ledger.group_commit import MOST_AT_ONCE
from bessemer.ledger.ledger import Ledger
from bessemer.ledger.rate_card import RateCard
from bessemer.ledger.reconciling import differences

CARD = RateCard.parse(
    'currency = "usd"\n[[rates]]\nmodel = "*"\nprompt = 150_000\ncompletion = 600_000'
)
MOST, USED = Counts(prompt=900, completion=500), Counts(prompt=500, cached=400, completion=123)
CALLERS = (1, 32, 200)
ROUNDS = 3


class Found(NamedTuple):
    """Of one run: requests in a second, and milliseconds from asking to holding a reservation."""

    rate: float
    p50_ms: float
    p99_ms: float


def fsync_ms(folder: Path) -> float:
    found = []
    with (folder / "probe").open("wb", buffering=0) as file:
        for _ in range(50):
            begin_s = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            found.append((time.perf_counter() - begin_s) * 1000)
    return statistics.median(found)


async def drive(ledger: Ledger, platform: Platform, callers: int, seconds: float) -> Found:
    principal, waits_ms = platform.local_principal(), []
    begin_s = time.perf_counter()

    async def call(caller: int) -> None:
        number = 0
        while time.perf_counter() - begin_s < seconds:
            name, asked_s = f"req_{begin_s}_{caller}_{number}", time.perf_counter()
            await asyncio.wrap_future(ledger.reserve(principal, name, "m", "chat", MOST))
            waits_ms.append((time.perf_counter() - asked_s) * 1000)
            await asyncio.wrap_future(ledger.settle(name, USED))
            number += 1

    await asyncio.gather(*(call(caller) for caller in range(callers)))
    waits_ms.sort()
    rate = len(waits_ms) / (time.perf_counter() - begin_s)
    return Found(rate, statistics.median(waits_ms), waits_ms[int(0.99 * len(waits_ms))])


def measure(folder: Path, at_once: int, callers: int, seconds: float) -> Found:
    with (
        tempfile.TemporaryDirectory(dir=folder) as name,
        Platform.open(Home(Path(name))) as platform,
    ):
        who = platform.local_principal()
        with platform.db.write() as connection:
            cards.adopt(connection, who, CARD)
            for scope in ("project", "org"):
                for period in ("month", "total"):
                    set_budget(connection, who, scope, period, 10**15)
        with Ledger(platform.db, at_once=at_once) as ledger:
            found = asyncio.run(drive(ledger, platform, callers, seconds))
        assert differences(platform.db) == []
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--folder", type=Path, default=Path())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        print(f"fsync of 4 KiB: {fsync_ms(Path(name)):.2f} ms")
    print(
        f"{'callers':>7}  {'':<20} {'requests/s':>10} {'p50':>7} {'p99':>7}   (ms to a reservation)"
    )
    ways = (("a transaction each", 1), ("group commit", MOST_AT_ONCE))
    for callers in CALLERS:
        runs: dict[str, list[Found]] = {name: [] for name, _ in ways}
        for _ in range(ROUNDS):
            for name, at_once in ways:
                runs[name].append(measure(options.folder, at_once, callers, options.seconds))
        for name, found in runs.items():
            rate, p50_ms, p99_ms = map(statistics.median, zip(*found, strict=True))
            print(f"{callers:>7}  {name:<20} {rate:>10,.0f} {p50_ms:>7.2f} {p99_ms:>7.2f}")


if __name__ == "__main__":
    main()
