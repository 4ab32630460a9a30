"""What it takes to read usage and costs of a day in which a million requests were settled.

    python benchmarks/usage.py [--requests 1000000] [--folder .]

Ten callers ask two models at random times of one day. Each question is asked as the endpoints ask
it: a day and its hours are read from the sums that the ledger keeps, 60 minutes from the rows by
their index. "row by row" adds the day up from the rows themselves, which is what the sums spare.
Medians of 5, in milliseconds.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bessemer.app import costs, usage
from bessemer.app.platform import Platform
from bessemer.core.home import Home
from bessemer.ledger import cards, hours, tables
from bessemer.ledger.counts import Counts
from bessemer.ledger.usage import UsageQuery

DAY_MS = 86_400_000
START_MS = 20_000 * DAY_MS
AT_ONCE = 10_000
ROUNDS = 5


def fill(platform: Platform, requests: int) -> None:
    """Usage rows and their sums, as the ledger writes them, without the reservations."""
    who, draw, known = platform.local_principal(), random.Random(1), set[hours.Key]()
    ids = {"org_id": who.org_id, "project_id": who.project_id, "owner_id": who.owner_id}
    for first in range(0, requests, AT_ONCE):
        rows: list[dict[str, Any]] = []
        for number in range(first, min(first + AT_ONCE, requests)):
            at_ms = START_MS + draw.randrange(DAY_MS)
            used = Counts(draw.randrange(2000), draw.randrange(500), draw.randrange(400))
            rows.append(
                {**ids, **used._asdict(), "id": f"req_{number}", "created_ms": at_ms,
                 "key_id": f"key_{draw.randrange(10)}", "model": draw.choice(("small", "large")),
                 "kind": "chat", "card": cards.FREE.digest, "cost_micro": used.prompt,
                 "settled_ms": at_ms}
            )  # fmt: skip
        with platform.db.write() as connection:
            connection.execute(tables.usage.insert(), rows)
            hours.add(connection, rows, known)


def row_by_row(platform: Platform) -> None:
    row = tables.usage.c
    query = (
        sa.select(row.model, row.key_id, sa.func.sum(row.prompt), sa.func.sum(row.completion))
        .where(row.org_id == platform.local_principal().org_id)
        .where(row.created_ms >= START_MS, row.created_ms < START_MS + DAY_MS)
        .group_by(row.model, row.key_id)
    )
    with platform.db.read() as connection:
        connection.execute(query).all()


def median_ms(ask: Callable[[], object]) -> float:
    found = []
    for _ in range(ROUNDS):
        begin_s = time.perf_counter()
        ask()
        found.append((time.perf_counter() - begin_s) * 1000)
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path())
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=asked.folder) as name,
        Platform.open(Home(Path(name) / "home")) as platform,
    ):
        fill(platform, asked.requests)
        who = platform.local_principal()
        day = UsageQuery("", START_MS, START_MS + DAY_MS, "day", ("model", "key"))
        hour = UsageQuery("", START_MS, START_MS + DAY_MS, "hour", ("model", "key"))
        minute = UsageQuery("", START_MS, START_MS + DAY_MS, "minute", ("model", "key"))
        print(f"{asked.requests:,} requests in a day")
        for what, ask in {
            "a day, by model and key": lambda: usage.read_page(platform, who, day, 7),
            "its 24 hours, by model and key": lambda: usage.read_page(platform, who, hour, 24),
            "60 minutes, by model and key": lambda: usage.read_page(platform, who, minute, 60),
            "costs of the day, by line": lambda: costs.read_costs(
                platform, who, day, ["line_item"], 7
            ),
            "the day, row by row": lambda: row_by_row(platform),
        }.items():
            print(f"{what:32} {median_ms(ask):10.1f} ms", flush=True)


if __name__ == "__main__":
    main()
