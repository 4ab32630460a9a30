"""Starting `tests/fake_worker.py`, for tests that need a real engine process."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from bessemer.core.engine_client import EngineClient

SCRIPT = Path(__file__).parent / "fake_worker.py"
DIGEST = "sha256:" + "ab" * 32


class Serving(NamedTuple):
    """A fake worker that serves, and a client of it."""

    process: asyncio.subprocess.Process
    client: EngineClient
    socket: Path


def fake_command(socket: Path, *options: str, threads: int = 1) -> list[str]:
    """The command line of a fake worker at `socket`."""
    needed = ("--model", "none", "--digest", DIGEST, "--socket", str(socket))
    return [sys.executable, str(SCRIPT), *needed, "--threads", str(threads), *options]


@contextlib.asynccontextmanager
async def fake_engine(*options: str) -> AsyncIterator[Serving]:
    """A fake worker in a process of its own, with a client connected to it."""
    with tempfile.TemporaryDirectory(prefix="bsm") as folder:
        socket = Path(folder) / "s"
        process = await asyncio.create_subprocess_exec(
            *fake_command(socket, *options),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None and process.stdin is not None
        assert await process.stdout.readline() == b"ready\n"
        client = await EngineClient.connect(socket)
        try:
            yield Serving(process, client, socket)
        finally:
            await client.close()
            process.stdin.close()
            await asyncio.wait_for(process.wait(), 10)
