"""What the crash drill kills: sixteen threads that reserve, settle and release without end.

    python -m tests.ledger.drill DATABASE JOURNAL NAME

Before each call a line goes to the journal (`ask reserve ID`), and after each answer another (`done
reserve ID`). A line is one `write` to a file opened for appending: SIGKILL does not take it back.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from pathlib import Path

from bessemer.ledger.ledger import Ledger
from tests.ledger.house import ALICE, make_database, written

THREADS = 16
RESERVED = 100


def tokens_of(request_id: str) -> int:
    """What the request turns out to use; anybody can tell from its id."""
    return sum(request_id.encode()) % 97


def work(ledger: Ledger, journal: int, name: str) -> None:
    def say(*words: str) -> None:
        os.write(journal, (" ".join(words) + "\n").encode())

    for number in range(10**9):
        request_id = f"{name}_{number}"
        say("ask", "reserve", request_id)
        ledger.reserve(ALICE, request_id, "smollm2", "chat", written(RESERVED)).result()
        say("done", "reserve", request_id)
        if random.random() < 0.2:
            say("ask", "release", request_id)
            ledger.release(request_id, "drill", "it failed").result()
            say("done", "release", request_id)
            continue
        for _ in range(random.choice((1, 1, 2))):  # now and then a second time
            say("ask", "settle", request_id)
            ledger.settle(request_id, written(tokens_of(request_id))).result()
            say("done", "settle", request_id)


def main() -> None:
    database, path, name = sys.argv[1:]
    journal = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    ledger = Ledger(make_database(Path(database)))
    threads = [
        threading.Thread(target=work, args=(ledger, journal, f"{name}_{number}"))
        for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    print("going", flush=True)


if __name__ == "__main__":
    main()
