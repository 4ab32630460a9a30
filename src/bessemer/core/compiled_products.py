"""How many compiled products a process keeps: one for every shape, in two caches.

For each shape of a product oneDNN compiles a program and keeps it, and torch, thread by thread,
keeps the description by which it asked for it: a few hundred kilobytes of each (docs/logbook.md).
By default both keep 1,024. A server's steps come to have every number of tokens, so its memory
would grow for hours; making a program again costs a millisecond or two.
"""

from __future__ import annotations

import os

PROGRAMS = 128
DESCRIPTIONS = 64  # of each kind of product


def keep_few() -> None:
    """Say so to this process's libraries, before its first product; what is set already holds."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(PROGRAMS))
    os.environ.setdefault("LRU_CACHE_CAPACITY", str(DESCRIPTIONS))
