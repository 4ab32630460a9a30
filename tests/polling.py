"""Waiting for another process, bounded: poll a condition instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PAUSE_S = 0.01


def until(condition: Callable[[], object], what: str, wait_s: float = 30.0) -> None:
    """Return as soon as `condition()` is true; fail the test after `wait_s`."""
    deadline = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < deadline, f"after {wait_s} s still not: {what}"
        time.sleep(PAUSE_S)


async def until_async(condition: Callable[[], object], what: str, wait_s: float = 30.0) -> None:
    """`until` that lets the event loop go on."""
    deadline = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < deadline, f"after {wait_s} s still not: {what}"
        await asyncio.sleep(PAUSE_S)
