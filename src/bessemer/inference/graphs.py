"""Work that is recorded once and replayed: CUDA graphs, behind a face that tests can stand in for.

A recorded piece of work reads and writes the same memory at every replay. So its inputs are
copied into tensors that stay, and its output is read before the next replay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

Work = Callable[[], Tensor]


class Graph(Protocol):
    """One recording."""

    def capture(self, work: Work) -> Tensor:
        """Record `work`. What it returns has its values only after `replay`."""
        ...

    def replay(self) -> None: ...


class CudaGraph:
    """`torch.cuda.CUDAGraph`; all of one process share their memory, since none run together."""

    _pool: Any = None

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()

    def capture(self, work: Work) -> Tensor:
        # Libraries set themselves up in the first calls, which may not be recorded.
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                work()
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(self._graph, pool=CudaGraph._pool):
            output = work()
        CudaGraph._pool = CudaGraph._pool or self._graph.pool()
        return output

    def replay(self) -> None:
        self._graph.replay()
