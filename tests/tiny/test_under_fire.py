"""Kill -9 of a real worker under a load of streams, whole answers and vectors, through HTTP."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import openai

from tests.tiny.house import House, Server

EACH = 8  # of streams, whole answers and vectors; what they ask for fits the queue
HI: Any = [{"role": "user", "content": "Hi"}]
# Half a second of back-off, and a new process that imports torch and loads.
RESTART_S = 30.0


class Load:
    """Requests under way, and what became of them."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self._client = client
        self.begun = 0  # streams of which a piece was seen
        self.broken: list[openai.APIError] = []
        self.whole: list[int] = []
        self.vectors: list[int] = []

    async def stream(self) -> None:
        chunks = await self._client.chat.completions.create(
            model="tiny", messages=HI, n=8, max_tokens=200, stream=True
        )
        try:
            async for chunk in chunks:
                if chunk.choices[0].delta.content:
                    break
            self.begun += 1
            async for _ in chunks:
                pass
        except openai.APIError as fault:
            self.broken.append(fault)

    async def answer(self) -> None:
        found = await self._client.chat.completions.create(
            model="tiny", messages=HI, n=4, max_tokens=200
        )
        self.whole.append(len(found.choices))

    async def vector(self) -> None:
        texts = [f"The {n}th text, which is of some length." for n in range(16)]
        found = await self._client.embeddings.create(model="tiny", input=texts)
        self.vectors.append(len(found.data))


async def fire(server: Server) -> Load:
    """Kill the worker while everything is under way; ask once more, at once."""
    worker = server.engine("tiny")
    async with openai.AsyncOpenAI(
        base_url=server.url, api_key=server.house.key, max_retries=0, timeout=RESTART_S * 2
    ) as client:
        load = Load(client)
        works = [work() for _ in range(EACH) for work in (load.stream, load.answer, load.vector)]
        tasks = [asyncio.create_task(work) for work in works]
        while not load.begun:
            await asyncio.sleep(0.005)
        killed_s = time.monotonic()
        worker.kill()
        await load.answer()
        print(f"answered again {time.monotonic() - killed_s:.2f} s after the kill")
        assert time.monotonic() - killed_s < RESTART_S
        await asyncio.gather(*tasks)  # what raised anything but a broken stream fails here
    return load


def test_a_worker_killed_under_load_loses_no_request(house: House) -> None:
    with house.up("--model", "tiny") as server:
        server.wait_ready("tiny")
        load = asyncio.run(fire(server))
        assert len(server.engines()) == 1
    assert load.whole == [4] * (EACH + 1)
    assert load.vectors == [16] * EACH
    # A stream ends whole, or with the error that says why; those not yet begun are not broken.
    assert 1 <= len(load.broken) <= load.begun
    assert {fault.code for fault in load.broken} == {"engine_died"}
    assert "Traceback" not in server.output()
