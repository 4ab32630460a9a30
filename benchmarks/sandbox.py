"""What the sandbox costs: an empty program in it, beside the same interpreter without it.

    python benchmarks/sandbox.py [--calls 200]

Printed: the median and the 95th percentile of milliseconds for one call, from one thread and from
two, and how many calls a second two threads make.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bessemer.core.sandbox import require_sandbox, run_python
from bessemer.core.unit_tests import passed


def bare() -> None:
    subprocess.run([sys.executable, "-S", "-s", "-P", "-c", "pass"], check=True)


def sandboxed() -> None:
    assert run_python("pass").status == "passed"


def judged() -> None:
    assert all(passed("def f(x): return x", ["assert f(1) == 1"] * 5))


def measure(name: str, call: Callable[[], None], calls: int, threads: int) -> None:
    def timed(_: int) -> float:
        begin_s = time.perf_counter()
        call()
        return (time.perf_counter() - begin_s) * 1000

    begin_s = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        found_ms = sorted(pool.map(timed, range(calls)))
    rate = calls / (time.perf_counter() - begin_s)
    median, high = statistics.median(found_ms), found_ms[int(0.95 * calls)]
    print(f"{name:<28} {threads:>7} {median:>9.1f} {high:>9.1f} {rate:>9.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200)
    calls = parser.parse_args().calls
    require_sandbox()
    print(f"{'':<28} {'threads':>7} {'median':>9} {'95%':>9} {'calls/s':>9}   (ms)")
    for threads in (1, 2):
        measure("bare interpreter", bare, calls, threads)
        measure("sandbox", sandboxed, calls, threads)
        measure("sandbox, five unit tests", judged, calls, threads)


if __name__ == "__main__":
    main()
