"""What the C library does with freed memory: keep it for the next operation, or give it back.

By default glibc maps every large block anew and unmaps it when it is freed, so each activation
pays for fresh, zeroed pages: a fifth of the time of a small model's step. Training frees and
takes the same sizes over and over; keeping them costs nothing but the peak it has anyway. Serving
takes other sizes at every step, and what lies free between them grows (docs/logbook.md).
"""

from __future__ import annotations

import ctypes

# From <malloc.h>.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell this process's allocator; False where the C library has no such setting."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, 2**30) and mallopt(M_TRIM_THRESHOLD, LARGEST))


def give_back_freed_memory() -> bool:
    """Hand the kernel every whole page that is free, in all arenas: milliseconds. False where the C
    library cannot."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and bool(trim(0))
