"""Closing what was opened: an async iterator that must not outlive its reader.

Python closes a forgotten async generator whenever its garbage collector comes by; an engine that
works for nobody cannot wait for that. So whoever iterates a stream holds it by `closing`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TypeVar

Item = TypeVar("Item")


@contextlib.asynccontextmanager
async def closing(stream: AsyncIterator[Item]) -> AsyncIterator[AsyncIterator[Item]]:
    """Close `stream` at the end of the block, however it ends.

    `contextlib.aclosing` for the protocols' `AsyncIterator`: one without `aclose` has nothing
    to cancel and is left alone.
    """
    try:
        yield stream
    finally:
        aclose = getattr(stream, "aclose", None)
        if aclose is not None:
            await aclose()
