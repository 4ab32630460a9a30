"""A request's own time: what is not done when it has passed ends with DeadlineExceeded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from bessemer.core.errors import DeadlineExceeded


@contextlib.asynccontextmanager
async def within(deadline_s: float | None, otherwise: str) -> AsyncIterator[None]:
    """Cancel the block after so many seconds; None gives it all the time it needs.

    Args:
        otherwise: what had not come yet, for the error ("before the model was ready").

    Raises:
        DeadlineExceeded: the time has passed.
    """
    timer = asyncio.timeout(deadline_s)
    try:
        async with timer:
            yield
    except TimeoutError:
        if not timer.expired():
            raise
        raise DeadlineExceeded(
            f"{deadline_s:.3g} s were given to this request, and they passed {otherwise}",
            next_step="give it more time, or ask for less at once",
        ) from None
