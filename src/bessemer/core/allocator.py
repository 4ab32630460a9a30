"""Keep freed memory instead of handing it back to the kernel between two operations.

By default glibc maps every large block anew and unmaps it when it is freed, so each activation
pays for fresh, zeroed pages: a fifth of the time of a small model's step. Training frees and
takes the same sizes over and over; keeping them costs nothing but the peak it has anyway.
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
