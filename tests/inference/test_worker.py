"""The worker process: ready, served, cancelled, killed, and never left behind."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bessemer.core.engine_client import EngineClient
from bessemer.core.errors import (
    AdapterNotLoaded,
    ContextLengthExceeded,
    EngineUnavailable,
    IntegrityError,
    InvalidInput,
)
from bessemer.core.protocols import Constraint, GenerateRequest, Sampling
from tests.inference.adapting import merged, score, write_adapter
from tests.inference.test_engine import full_logits, ids_of, request

Tiny = Callable[[str], Path]
Process = asyncio.subprocess.Process


@asynccontextmanager
async def worker(folder: Path, socket: Path, *more: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bessemer.inference.worker", "--model", str(folder)),
        *("--digest", "sha256:x", "--socket", str(socket), "--threads", "1", *more),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def ready(process: Process) -> None:
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 60) == b"ready\n"


async def test_serves_its_life_through_a_socket(tiny: Tiny, tmp_path: Path) -> None:
    socket = tmp_path / "s"
    draft = ("--guesses", str(tiny("llama3")))
    async with worker(tiny("llama"), socket, "--precision", "fp64", *draft) as process:
        await ready(process)
        client = await EngineClient.connect(socket)
        assert (await client.info()).model_digest == "sha256:x"
        prompts = [ids_of(n) for n in (4, 11, 25)]
        streams = [[c async for c in client.generate(request(p, 6))] for p in prompts]
        for prompt, chunks in zip(prompts, streams, strict=True):
            drawn = [t for c in chunks for t in c.ids]
            logits = full_logits(tiny("llama"), prompt + drawn)
            assert drawn == logits[len(prompt) - 1 : -1].argmax(-1).tolist()
        assert len(await client.score(ids_of(10))) == 9
        with pytest.raises(ContextLengthExceeded) as caught:
            await client.score(ids_of(97))
        assert caught.value.facts["context_length"] == 96
        held = request([1], 4, constraint=Constraint("json_object", param="response_format"))
        with pytest.raises(InvalidInput, match=r"no tokenizer\.json") as refused:
            await anext(client.generate(held))
        assert refused.value.param == "response_format"

        # A stream left in the middle is cancelled in the worker.
        stream = client.generate(request(ids_of(4), 90))
        await anext(stream)
        await stream.aclose()
        async with asyncio.timeout(20):
            while (await client.info()).running:
                await asyncio.sleep(0.01)

        # A client that vanishes takes its requests with it.
        other = await EngineClient.connect(socket)
        orphan = other.generate(request(ids_of(4), 90))
        await anext(orphan)
        await other.close()
        async with asyncio.timeout(20):
            while (await client.info()).running:
                await asyncio.sleep(0.01)
        await client.close()

        assert process.stdin is not None
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), 20) == 0
    assert not socket.exists()


async def test_a_killed_worker_is_an_error_for_everyone_who_waits(
    tiny: Tiny, tmp_path: Path
) -> None:
    async with worker(tiny("llama"), tmp_path / "s") as process:
        await ready(process)
        client = await EngineClient.connect(tmp_path / "s")
        long = GenerateRequest(
            request_id="r", prompt_ids=ids_of(3), max_tokens=93, sampling=Sampling(temperature=0)
        )
        streams = [client.generate(long) for _ in range(3)]
        for stream in streams:
            await anext(stream)
        process.send_signal(signal.SIGSTOP)  # so that no answer can end before the kill
        process.kill()
        for stream in streams:
            with pytest.raises(EngineUnavailable):
                async for _ in stream:
                    pass
        with pytest.raises(EngineUnavailable):
            await client.info()
        await client.close()


async def test_a_model_that_cannot_be_loaded_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    async with worker(tmp_path, tmp_path / "s") as process:
        out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1 and out == b""
    assert b"model_type None is not one of" in err and b"Traceback" not in err


async def test_adapters_come_and_go_while_it_serves(tiny: Tiny, tmp_path: Path) -> None:
    socket, base = tmp_path / "s", tiny("llama")
    folders = {name: write_adapter(base, tmp_path / name, seed=ord(name)) for name in "xy"}
    async with worker(base, socket, "--precision", "fp64") as process:
        await ready(process)
        client = await EngineClient.connect(socket)
        with pytest.raises(AdapterNotLoaded, match="adapter x is not loaded"):
            await client.score(ids_of(9), adapter="x")
        with pytest.raises(AdapterNotLoaded):
            _ = [chunk async for chunk in client.generate(request(ids_of(9), adapter="x"))]
        speaking = client.generate(request(ids_of(9), 80))
        await anext(speaking)
        for name, folder in folders.items():
            await client.load_adapter(name, folder)
        assert list((await client.info()).adapters) == ["x", "y"]
        found = await asyncio.gather(
            *(client.score(ids_of(20), adapter=name) for name in (None, *folders))
        )
        for name, scores in zip((None, *folders), found, strict=True):
            model = merged(base, folders[name] if name else None)
            assert scores == pytest.approx(score(model, ids_of(20)), abs=1e-8)
        assert await client.embed(ids_of(9), adapter="x") != await client.embed(ids_of(9))
        with pytest.raises(IntegrityError, match="is no adapter"):
            await client.load_adapter("z", tmp_path / "nowhere")
        await client.unload_adapter("x")
        assert list((await client.info()).adapters) == ["y"]
        rest = [chunk async for chunk in speaking]
        assert rest[-1].completion_tokens == 80
        await client.close()
