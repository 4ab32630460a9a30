"""Memory for tensors that takes room only where it was written, and can be handed back in parts.

Elastic memory, of a CPU, is a private anonymous map: the system backs the pages that were written,
and drops the contents of a range on request. A device's memory is allocated at once and stays.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor


class Memory:
    """`size_bytes` on `device`, zeros at first: what is masked away must still be finite."""

    def __init__(self, size_bytes: int, device: torch.device, *, elastic: bool) -> None:
        self._map: mmap.mmap | None = None
        if elastic:
            # Private: the system keeps the pages of a shared map when they are given back.
            private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            self._map = mmap.mmap(-1, max(size_bytes, 1), flags=private)
            if hasattr(mmap, "MADV_NOHUGEPAGE"):
                # With huge pages 2 MB would be backed wherever one token was written.
                with contextlib.suppress(OSError):  # a kernel without them
                    self._map.madvise(mmap.MADV_NOHUGEPAGE)
            self._bytes = torch.frombuffer(self._map, dtype=torch.uint8, count=max(size_bytes, 1))
        else:
            self._bytes = torch.zeros(size_bytes, dtype=torch.uint8, device=device)

    @property
    def is_elastic(self) -> bool:
        """Whether only what was written takes room."""
        return self._map is not None

    def tensor(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """The whole of it, as a tensor."""
        size_bytes = math.prod(shape) * dtype.itemsize
        return self._bytes[:size_bytes].view(dtype).view(*shape)

    def give_back(self, start: int, length: int) -> None:
        """Drop the contents of whole pages inside a range of bytes; they read as zeros again.

        A page that is shared with a neighbor stays, and so does everything where the system or
        the device cannot do this.
        """
        if self._map is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        page = mmap.PAGESIZE
        first = -(-start // page) * page
        whole = (start + length) // page * page - first
        if whole > 0:
            self._map.madvise(mmap.MADV_DONTNEED, first, whole)
