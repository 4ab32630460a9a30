"""A request whose engine died before anything of its answer was sent is asked again, once.

Once only: what was under way at two deaths may be their reason, and would go on killing. Who only
stood beside it then gets the same error and may come back.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

from bessemer.app.streams import closing
from bessemer.core.errors import EngineDied

Answer = TypeVar("Answer")
Item = TypeVar("Item")

_log = logging.getLogger(__name__)


async def second_try(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """What `ask` returns, at the first or the second try.

    Raises:
        EngineDied: the engine died both times.
    """
    try:
        return await ask()
    except EngineDied:
        _log.info("an engine died; its request is asked again")
    try:
        return await ask()
    except EngineDied as fault:
        raise _died_twice() from fault


async def stream_second_try(ask: Callable[[], AsyncIterator[Item]]) -> AsyncGenerator[Item, None]:
    """`second_try` for a stream: one that has begun is not begun again.

    Raises:
        EngineDied: after the first item, or both times.
    """
    for last in (False, True):
        begun = False
        try:
            async with closing(ask()) as items:
                async for item in items:
                    begun = True
                    yield item
            return
        except EngineDied as fault:
            if begun:
                raise
            if last:
                raise _died_twice() from fault
            _log.info("an engine died; its request is asked again")


def _died_twice() -> EngineDied:
    return EngineDied(
        "the engine died twice while it worked on this request, which may be the reason",
        next_step="the last lines of `bessemer up` say how it died; send another request",
        deaths=2,
    )
