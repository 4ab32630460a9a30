"""The server that the crash drill kills: a real one with a real ledger, over a fake engine.

    python -m tests.gateway.drill HOME

Prints its URL when it answers. Tokens take about a millisecond each, so requests are under way at
any moment.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from bessemer.app.metering import Meter
from bessemer.app.platform import Platform
from bessemer.core.home import Home
from bessemer.core.protocols import ChatRequest, Delta
from bessemer.gateway.asgi import build
from bessemer.gateway.server import serve
from tests.fakes import FakeResponder, FakeServing
from tests.gateway.calling import FakeKeyRing
from tests.metered import charge


class Unhurried(FakeResponder):
    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        async for delta in super().respond(request):
            await asyncio.sleep(0.001)
            yield delta


def main() -> None:
    with Platform.open(Home(Path(sys.argv[1]))) as platform:
        charge(platform)
        serving = FakeServing({"tiny": Unhurried(["word "] * 8)})
        app = build(serving, FakeKeyRing(), meter=Meter.of(platform))
        serve(app, port=0, started=lambda url: print(url, flush=True))


if __name__ == "__main__":
    main()
