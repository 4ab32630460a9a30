"""The engine's client against a real worker process: answers, errors, cancels, deaths."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from bessemer.core.engine_client import EngineClient
from bessemer.core.errors import Busy, ContextLengthExceeded, EngineDied, EngineUnavailable
from bessemer.core.frames import encode_frame
from bessemer.core.protocols import GenerateRequest, TokenChunk
from tests.fake_worker import CONTEXT_LENGTH, DIE_ID
from tests.polling import until_async
from tests.worker_process import DIGEST, Serving, fake_engine


def drive(test: Callable[[Serving], Awaitable[None]], *options: str) -> None:
    async def run() -> None:
        async with fake_engine(*options) as serving:
            await test(serving)

    asyncio.run(run())


def ask(prompt: list[int], most: int = 4, **more: object) -> GenerateRequest:
    return GenerateRequest(request_id="r", prompt_ids=prompt, max_tokens=most, **more)


async def collect(client: EngineClient, request: GenerateRequest) -> list[TokenChunk]:
    return [chunk async for chunk in client.generate(request)]


def test_tokens_stream_and_end_with_exact_counts() -> None:
    async def test(serving: Serving) -> None:
        *chunks, last = await collect(serving.client, ask([7, 8], 3, top_logprobs=0))
        assert [token for chunk in chunks for token in chunk.ids] == [7, 8, 7]
        assert [chunk.logprobs[0].logprob for chunk in chunks if chunk.logprobs] == [
            -0.07, -0.08, -0.07,
        ]  # fmt: skip
        assert (last.finish_reason, last.prompt_tokens, last.completion_tokens) == ("length", 2, 3)

    drive(test)


def test_many_requests_share_one_connection_without_mixing() -> None:
    async def test(serving: Serving) -> None:
        answers = await asyncio.gather(
            *(collect(serving.client, ask([n], 5)) for n in range(8)),
            *(serving.client.score([0, n]) for n in range(8)),
        )
        for n in range(8):
            chunks = answers[n]
            assert isinstance(chunks[0], TokenChunk)
            assert [i for chunk in chunks for i in chunk.ids] == [n] * 5
        assert answers[8:] == [[-n / 100] for n in range(8)]

    drive(test, "--step-s", "0.001", "--most-running", "100")


def test_info_and_embed_answer() -> None:
    async def test(serving: Serving) -> None:
        info = await serving.client.info()
        assert (info.model_digest, info.context_length) == (DIGEST, CONTEXT_LENGTH)
        assert await serving.client.embed([1, 2]) == [1.0, 0.0]

    drive(test)


def test_an_error_crosses_the_border_whole() -> None:
    async def test(serving: Serving) -> None:
        with pytest.raises(ContextLengthExceeded) as caught:
            await collect(serving.client, ask([1] * 10, CONTEXT_LENGTH))
        assert caught.value.facts == {"prompt_tokens": 10, "context_length": CONTEXT_LENGTH}
        assert f"{CONTEXT_LENGTH} fit" in caught.value.message
        assert await serving.client.score([1, 2]) == [-0.02]

    drive(test)


def test_busy_keeps_when_to_try_again() -> None:
    async def test(serving: Serving) -> None:
        with pytest.raises(Busy) as caught:
            await collect(serving.client, ask([1]))
        assert caught.value.retry_after_s == 1.5

    drive(test, "--most-running", "0")


def operations(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def test_closing_the_stream_early_cancels_in_the_worker(tmp_path: Path) -> None:
    log = tmp_path / "ops"

    async def test(serving: Serving) -> None:
        stream = serving.client.generate(ask([5], 200))
        assert (await anext(stream)).ids == [5]
        await stream.aclose()
        await until_async(
            lambda: {"op": "cancel", "id": 1} in operations(log), "the worker got the cancel"
        )
        assert (await serving.client.info()).running == 0

    drive(test, "--step-s", "0.01", "--log", str(log))


def test_cancelling_the_task_that_reads_cancels_in_the_worker(tmp_path: Path) -> None:
    log = tmp_path / "ops"

    async def test(serving: Serving) -> None:
        reading = asyncio.create_task(collect(serving.client, ask([5], 200)))
        await until_async(lambda: operations(log), "the worker got the request")
        reading.cancel()
        await until_async(lambda: len(operations(log)) == 2, "the worker got the cancel")
        assert operations(log)[1] == {"op": "cancel", "id": 1}

    drive(test, "--step-s", "0.01", "--log", str(log))


def test_a_finished_stream_sends_no_cancel(tmp_path: Path) -> None:
    log = tmp_path / "ops"

    async def test(serving: Serving) -> None:
        await collect(serving.client, ask([5], 2))
        await serving.client.info()
        assert [entry["op"] for entry in operations(log)] == ["generate", "info"]

    drive(test, "--log", str(log))


def test_the_death_of_the_worker_reaches_everyone_who_waits() -> None:
    async def test(serving: Serving) -> None:
        client = serving.client
        waiting = [asyncio.create_task(collect(client, ask([n], 200))) for n in range(5)]
        first = client.generate(ask([9], 200))
        await anext(first)
        serving.process.kill()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [EngineDied] * 5
        with pytest.raises(EngineUnavailable):
            async for _ in first:
                pass
        await client.gone()
        assert not client.alive
        with pytest.raises(EngineUnavailable):
            await client.score([1, 2])

    drive(test, "--step-s", "0.01")


def test_the_request_that_kills_the_worker_gets_an_answer_too() -> None:
    async def test(serving: Serving) -> None:
        with pytest.raises(EngineUnavailable):
            await collect(serving.client, ask([DIE_ID]))

    drive(test)


def test_closing_the_client_ends_its_waiters() -> None:
    async def test(serving: Serving) -> None:
        stream = serving.client.generate(ask([9], 200))
        await anext(stream)
        await serving.client.close()
        with pytest.raises(EngineUnavailable):
            async for _ in stream:
                pass

    drive(test, "--step-s", "0.01")


def test_nobody_at_the_socket_is_an_unavailable_engine(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="no engine at"):
        asyncio.run(EngineClient.connect(tmp_path / "none"))


@pytest.mark.parametrize("garbage", [b"\xff" * 64, encode_frame(7), encode_frame([1, 2])])
def test_a_worker_that_speaks_nonsense_is_hung_up_on(tmp_path: Path, garbage: bytes) -> None:
    hung_up = asyncio.Event()

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(garbage)
        while await reader.read(1000):
            pass
        hung_up.set()
        writer.close()

    async def run() -> None:
        server = await asyncio.start_unix_server(babble, str(tmp_path / "s"))
        client = await EngineClient.connect(tmp_path / "s")
        with pytest.raises(EngineUnavailable):
            await client.info()
        await asyncio.wait_for(hung_up.wait(), 10)
        await client.close()
        server.close()

    asyncio.run(run())
