"""The pool with real worker processes: load, share, restart, give up, end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from bessemer.app.engines import EnginePool, worker_command
from bessemer.app.models import NamedModel
from bessemer.app.platform import Platform
from bessemer.app.pooled_engine import PooledEngine
from bessemer.core.artifacts import Artifact
from bessemer.core.errors import DeadlineExceeded, EngineDied, EngineLoading, EngineUnavailable
from bessemer.core.protocols import GenerateRequest
from tests.fake_worker import DIE_ID
from tests.polling import until, until_async
from tests.worker_process import SCRIPT


def model(name: str = "m", fill: str = "a", size_bytes: int = 0) -> NamedModel:
    digest = "sha256:" + fill * 64
    artifact = Artifact(digest, "model", name, Path("none"), size_bytes)
    return NamedModel(name, digest, Path("none"), artifact)


class FakeCommand:
    """The command line of the fake worker, with its faults."""

    def __init__(self, *options: str) -> None:
        self.options = options

    def __call__(self, model: NamedModel, socket: Path, threads: int) -> list[str]:
        native = worker_command(model, socket, threads)
        return [sys.executable, str(SCRIPT), *native[native.index("--model") :], *self.options]


def pooled(
    platform: Platform,
    test: Callable[[EnginePool], Awaitable[None]],
    *options: str,
    wait_s: float = 60.0,
) -> None:
    async def run() -> None:
        pool = EnginePool(platform, 1, command=FakeCommand(*options), wait_s=wait_s)
        try:
            await test(pool)
        finally:
            await pool.close()

    asyncio.run(run())


async def ready(pool: EnginePool, model: NamedModel) -> PooledEngine:
    """The engine, loaded."""
    engine = pool.engine(model)
    await engine.info()
    return engine


async def generate(
    client: PooledEngine,
    prompt: list[int],
    most: int = 3,
    begun: Callable[[], None] = lambda: None,
) -> list[int]:
    request = GenerateRequest(request_id="r", prompt_ids=prompt, max_tokens=most)
    tokens: list[int] = []
    async for chunk in client.generate(request):
        begun()
        tokens += chunk.ids
    return tokens


def starts(tmp_path: Path) -> list[int]:
    path = tmp_path / "starts"
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def states(pool: EnginePool) -> list[str]:
    return [str(one["state"]) for one in pool.status()]


def test_a_model_is_loaded_when_it_is_first_asked_for(platform: Platform) -> None:
    async def test(pool: EnginePool) -> None:
        assert pool.status() == []
        client = await ready(pool, model())
        assert await generate(client, [1, 2]) == [1, 2, 1]
        assert (await client.info()).model_digest == model().digest
        assert pool.status() == [
            {"name": "m", "digest": model().digest, "state": "ready", "error": None}
        ]

    pooled(platform, test)


def test_everyone_who_asks_shares_one_worker_for_one_digest(
    platform: Platform, tmp_path: Path
) -> None:
    async def test(pool: EnginePool) -> None:
        same = [model("m"), model("alias")] * 4
        clients = await asyncio.gather(*(ready(pool, one) for one in same))
        assert len(set(map(id, clients))) == 1
        other = await ready(pool, model("other", "b"))
        assert (await other.info()).model_digest == model("other", "b").digest
        assert len(starts(tmp_path)) == 2

    pooled(platform, test, "--starts", str(tmp_path / "starts"))


def test_loading_says_so_and_requests_wait_for_it(platform: Platform, tmp_path: Path) -> None:
    async def test(pool: EnginePool) -> None:
        pool.load(model())
        assert states(pool) == ["loading"]
        asking = asyncio.create_task(ready(pool, model()))
        await until_async(lambda: starts(tmp_path), "the worker started")
        assert not asking.done()
        (tmp_path / "go").touch()
        assert await generate(await asking, [4], 1) == [4]

    options = ("--wait-for", str(tmp_path / "go"), "--starts", str(tmp_path / "starts"))
    pooled(platform, test, *options)


def test_a_request_that_waited_too_long_is_told_that_it_loads(
    platform: Platform, tmp_path: Path
) -> None:
    async def test(pool: EnginePool) -> None:
        with pytest.raises(EngineLoading, match="m is still loading after 0 s"):
            await ready(pool, model())
        assert states(pool) == ["loading"]

    pooled(platform, test, "--wait-for", str(tmp_path / "never"), wait_s=0.2)


def test_waiting_for_a_model_is_a_part_of_the_requests_own_time(
    platform: Platform, tmp_path: Path
) -> None:
    async def test(pool: EnginePool) -> None:
        asked = GenerateRequest(request_id="r", prompt_ids=[1], max_tokens=1, deadline_s=0.2)
        with pytest.raises(DeadlineExceeded, match="before the model was ready"):
            await anext(pool.engine(model()).generate(asked))

    pooled(platform, test, "--wait-for", str(tmp_path / "never"))


def test_a_killed_worker_fails_its_requests_and_serves_the_next(
    platform: Platform, tmp_path: Path
) -> None:
    async def test(pool: EnginePool) -> None:
        client = await ready(pool, model())
        begun = [asyncio.Event() for _ in range(3)]
        waiting = [asyncio.create_task(generate(client, [n], 200, begun[n].set)) for n in range(3)]
        for event in begun:  # one that had not begun would be the next worker's
            await event.wait()
        with pytest.raises(EngineUnavailable):
            await generate(client, [DIE_ID])
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [EngineDied] * 3
        # At once, with no pause for anyone to notice: it waits for the new one.
        assert await generate(await ready(pool, model()), [1]) == [1, 1, 1]
        assert len(starts(tmp_path)) == 2
        assert states(pool) == ["ready"]

    pooled(platform, test, "--step-s", "0.01", "--starts", str(tmp_path / "starts"))


def test_a_worker_that_dies_while_loading_is_tried_again(
    platform: Platform, tmp_path: Path
) -> None:
    async def test(pool: EnginePool) -> None:
        assert await generate(await ready(pool, model()), [1], 1) == [1]
        assert len(starts(tmp_path)) == 3

    pooled(platform, test, "--starts", str(tmp_path / "starts"), "--fail-loading", "2")


def test_a_worker_that_dies_three_times_while_loading_has_failed_and_says_why(
    platform: Platform, tmp_path: Path
) -> None:
    async def test(pool: EnginePool) -> None:
        asking = [asyncio.create_task(ready(pool, model())) for _ in range(3)]
        for result in await asyncio.gather(*asking, return_exceptions=True):
            assert type(result) is EngineUnavailable
            assert "cannot load: the weights are a fake" in result.message
            assert "status 1" in result.message and "tried 3 times" in result.message
        (status,) = pool.status()
        assert status["state"] == "failed" and "weights are a fake" in str(status["error"])
        # The next request does not wait for another three tries.
        with pytest.raises(EngineUnavailable, match="weights are a fake"):
            await ready(pool, model())
        assert len(starts(tmp_path)) == 3

    pooled(platform, test, "--starts", str(tmp_path / "starts"), "--fail-loading", "99")


def test_a_program_that_is_not_there_is_a_failed_engine(platform: Platform) -> None:
    async def test() -> None:
        pool = EnginePool(platform, 1, command=lambda *_: ["/no/such/program"])
        with pytest.raises(EngineUnavailable, match="cannot start /no/such/program"):
            await ready(pool, model())
        await pool.close()

    asyncio.run(test())


def test_closing_ends_every_worker_and_takes_its_socket_along(
    platform: Platform, tmp_path: Path
) -> None:
    async def test(pool: EnginePool) -> None:
        await asyncio.gather(ready(pool, model("a", "a")), ready(pool, model("b", "b")))
        pool.load(model("c", "c"))
        await until_async(lambda: len(starts(tmp_path)) == 3, "the third started")
        await pool.close()
        assert not any(map(psutil.pid_exists, starts(tmp_path)))
        assert states(pool) == ["stopped"] * 3
        assert list(platform.home.socket_dir().iterdir()) == []
        with pytest.raises(EngineUnavailable, match="shutting down"):
            await ready(pool, model("a", "a"))

    pooled(platform, test, "--starts", str(tmp_path / "starts"))


SERVER = """
import asyncio, sys
from pathlib import Path
from bessemer.app.engines import EnginePool
from bessemer.app.platform import Platform
from bessemer.core.home import Home
from tests.app.test_engines import FakeCommand, model

async def serve():
    platform = Platform.open(Home(Path(sys.argv[1])))
    pool = EnginePool(platform, 1, command=FakeCommand("--starts", sys.argv[2]))
    await pool.engine(model()).info()
    print("serving", flush=True)
    await asyncio.Event().wait()

asyncio.run(serve())
"""


def test_a_worker_never_outlives_a_server_that_was_killed(
    platform: Platform, tmp_path: Path
) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(platform.home.root), str(tmp_path / "starts")],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent.parent,
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"serving\n"
    (pid,) = starts(tmp_path)
    worker = psutil.Process(pid)
    assert worker.is_running()
    server.kill()
    server.communicate()
    until(lambda: not worker.is_running() or worker.status() == "zombie", "the worker is gone")


def test_the_native_command_names_model_digest_socket_and_threads(tmp_path: Path) -> None:
    command = worker_command(model(), tmp_path / "s", 3)
    assert command[:4] == [sys.executable, "-P", "-m", "bessemer.inference.worker"]
    assert command[4:] == [
        "--model", "none", "--digest", model().digest,
        "--socket", str(tmp_path / "s"), "--threads", "3",
        "--guesses", "ngram",
    ]  # fmt: skip
