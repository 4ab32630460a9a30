"""Run cycles, side by side, and note what each client was answered in them."""

from __future__ import annotations

import asyncio
import http.client
import json
import traceback
from collections.abc import Callable, Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.conformance.cycle import Cycle, Desk
from tests.conformance.home import MODEL, Customer, Site
from tests.conformance.recording import Kind, Record, Recorder
from tests.specification import PREFIX, Operation, operations

KINDS: tuple[Kind, ...] = ("sync", "async")
MOST_AT_ONCE = 64


class Outcome(NamedTuple):
    """A cycle by one client. `fault` says what it met that was not as it should be."""

    cycle: Cycle
    kind: Kind
    records: Sequence[Record]
    fault: str | None


class Shared(NamedTuple):
    """What all cycles of a run share; see `Desk`."""

    customer: Callable[[], Customer]
    alone: asyncio.Lock


def run(site: Site, cycles: Sequence[Cycle], absent: Container[Operation] = ()) -> list[Outcome]:
    """Each cycle by each client, but for those of operations that the server does not have."""
    there = [each for each in cycles if not any(one in absent for one in each.proves)]
    return asyncio.run(_run(site, there))


async def _run(site: Site, cycles: Sequence[Cycle]) -> list[Outcome]:
    # The synchronous client's calls wait in threads.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(MOST_AT_ONCE))
    shared = Shared(partial(next, iter(site.customers)), asyncio.Lock())
    return await asyncio.gather(
        *(_one(site, each, kind, shared) for each in cycles for kind in KINDS)
    )


async def _one(site: Site, cycle: Cycle, kind: Kind, shared: Shared) -> Outcome:
    recorder = Recorder(kind, site.url)
    desk = Desk(
        client=recorder.client(site.key, site.admin_key),
        client_of=recorder.client,
        model=MODEL,
        project=site.project,
        word=f"{cycle.name}-{kind}".replace("_", "-"),
        **shared._asdict(),
    )
    fault = None
    try:
        await cycle.run(desk)
    except Exception as raised:
        fault = "".join(traceback.format_exception(raised)[-4:])
    finally:
        await recorder.close()
    return Outcome(cycle, kind, recorder.records, fault)


def refusals(url: str) -> dict[Operation, str]:
    """The operations that the server says it does not have, or no more, with the code of its error.

    Asked without a key, so that nothing happens where there is something.
    """
    found = {}
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    for operation in operations():
        connection.request(
            operation.method, PREFIX + operation.path.replace("{", "").replace("}", "")
        )
        reply = connection.getresponse()
        code = json.loads(reply.read())["error"]["code"]
        if reply.status in (404, 501):
            found[operation] = code
        else:
            assert reply.status == 401, (operation, reply.status, code)
    connection.close()
    return found
