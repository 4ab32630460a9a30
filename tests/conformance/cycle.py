"""What a cycle is, and what it is given. Another one is one function in `cycles/`:

    @cycle("POST /files", "DELETE /files/{file_id}")
    async def files(desk: Desk) -> None:
        made = await desk.client.files.create(file=("a.txt", b"a"), purpose="user_data")
        await desk.client.files.delete(made.id)
        await gone(desk.client.files.retrieve(made.id))

It names the operations whose effect it looks at, in the specification's words, and nothing else is
counted. It is written once for both clients: calls are awaited, lists and streams go through
`every`. Cycles run side by side, so each works on what it made itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import openai

from tests.conformance.home import Customer
from tests.specification import Operation, operations

WAIT_S = 120.0
PAUSE_S = 0.05


class Desk(NamedTuple):
    """What a cycle works with.

    `client` has the key of a project's owner and an admin key; `client_of` makes another by its
    key. `model` is a model that answers, `word` tells this run of the cycle from the other one's.
    `customer` gives a project of one's own that has the model, with a key.
    `alone` is held by who changes what there is only one of.
    """

    client: Any
    client_of: Callable[[str], Any]
    model: str
    project: str
    word: str
    customer: Callable[[], Customer]
    alone: asyncio.Lock


Run = Callable[[Desk], Awaitable[None]]


class Cycle(NamedTuple):
    name: str
    proves: tuple[Operation, ...]
    run: Run


CYCLES: list[Cycle] = []


def cycle(*proves: str) -> Callable[[Run], Run]:
    """Keep a function as the cycle that shows the effect of these operations."""
    named = tuple(Operation(*one.split()) for one in proves)
    unknown = set(named) - set(operations())
    assert not unknown, f"not in the specification: {unknown}"

    def keep(run: Run) -> Run:
        CYCLES.append(Cycle(run.__name__, named, run))
        return run

    return keep


async def every(found: Any) -> list[Any]:
    """All of a stream or of a list's pages."""
    found = await found
    if hasattr(found, "__aiter__"):
        return [one async for one in found]
    return await asyncio.to_thread(list, found)


async def ids(found: Any) -> list[str]:
    return [one.id for one in await every(found)]


async def gone(call: Awaitable[Any]) -> None:
    """There is no such thing any more."""
    await refused(call, openai.NotFoundError)


async def refused(call: Awaitable[Any], error: type[openai.APIError]) -> None:
    try:
        found = await call
    except error:
        return
    raise AssertionError(f"{error.__name__} was due; there is {found!r}")


async def until(look: Callable[[], Awaitable[Any]], enough: Callable[[Any], object]) -> Any:
    """What `look` finds, once it is `enough`."""
    deadline_s = time.monotonic() + WAIT_S
    while not enough(found := await look()):
        assert time.monotonic() < deadline_s, f"after {WAIT_S} s still {found!r}"
        await asyncio.sleep(PAUSE_S)
    return found


async def until_refused(call: Callable[[], Awaitable[Any]], error: type[openai.APIError]) -> None:
    """A server learns of a key that ended within about a second."""

    async def look() -> bool:
        try:
            await call()
        except error:
            return True
        return False

    await until(look, bool)


async def until_let_in(call: Callable[[], Awaitable[Any]]) -> Any:
    """What it answers, once the server knows the key: within about a second."""

    async def look() -> Any:
        try:
            return (await call(),)
        except openai.AuthenticationError:
            return None

    return (await until(look, bool))[0]
