"""Tests for bessemer.core.compiled_products, each trial in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# The bytes in use before and after products of 400 shapes, as an engine's attention makes them.
TRIAL = """
import ctypes, sys
from bessemer.core import compiled_products
if sys.argv[1] == "few":
    compiled_products.keep_few()
import torch

class Heap(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost")]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Heap
torch.set_num_threads(1)

def multiply(lengths):
    for length in lengths:
        torch.bmm(torch.ones(3, 8, 64, dtype=torch.bfloat16), torch.ones(3, 64, length).bfloat16())

multiply(range(1, 129))
before = libc.mallinfo2().uordblks
multiply(range(129, 529))
print(libc.mallinfo2().uordblks - before)
"""


def grown(programs: str) -> int:
    environment = {name: value for name, value in os.environ.items() if "CACHE_CAP" not in name}
    done = subprocess.run(
        [sys.executable, "-c", TRIAL, programs],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="asks glibc what is in use")
def test_products_of_ever_new_shapes_take_no_more_memory() -> None:
    assert grown("few") < 10e6
    # Where oneDNN computes them, else nothing is kept in the first place.
    if "avx512" in Path("/proc/cpuinfo").read_text():
        assert grown("all") > 50e6
