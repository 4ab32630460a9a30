"""The engine around OpenVINO, over a fake of its library: turns, ends, refusals, and the worker.

What the library itself computes is `test_openvino`'s.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bessemer.core.engine_client import EngineClient
from bessemer.core.errors import (
    Busy,
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineDied,
    EngineUnavailable,
    InvalidInput,
    Missing,
)
from bessemer.core.protocols import Constraint, GenerateRequest, Sampling, TokenChunk
from bessemer.inference.engine import NativeEngine
from bessemer.inference.openvino_engine import OpenVinoEngine
from bessemer.inference.openvino_pipeline import OpenVinoSettings
from bessemer.models.gguf_export import About
from bessemer.models.gguf_folder import write_gguf_folder
from tests.fake_openvino.openvino_genai import BREAK_ID, IGNORE_ID
from tests.inference.test_worker import ready, worker
from tests.polling import until_async
from tests.tiny.world import write_model

FAKES = Path(__file__).parents[1] / "fake_openvino"
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("gguf")
    write_gguf_folder(write_model(work / "m"), work / "q8_0", "q8_0", About("m", "sha256:0"))
    return work / "q8_0"


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The fakes are the libraries, here and in processes that are started."""
    monkeypatch.setenv("PYTHONPATH", str(FAKES), prepend=":")
    for name in ("openvino", "openvino_genai"):
        spec = importlib.util.spec_from_file_location(name, FAKES / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
    yield


@asynccontextmanager
async def engine_over(folder: Path, **more: Any) -> AsyncIterator[OpenVinoEngine]:
    settings = OpenVinoSettings(threads=1, **more)
    engine = OpenVinoEngine.open(folder / "model.gguf", "sha256:x", settings)
    try:
        yield engine
    finally:
        await asyncio.to_thread(engine.close)


def request(ids: list[int], tokens: int, **more: Any) -> GenerateRequest:
    fields = {"request_id": "r", "prompt_ids": ids, "max_tokens": tokens, "sampling": GREEDY}
    return GenerateRequest(**fields | more)


async def chunks_of(engine: OpenVinoEngine, asked: GenerateRequest) -> list[TokenChunk]:
    return [chunk async for chunk in engine.generate(asked)]


def ids_of(chunks: list[TokenChunk]) -> list[int]:
    return [id_ for chunk in chunks for id_ in chunk.ids]


async def test_answers_are_whole_and_told_as_they_are_drawn(folder: Path) -> None:
    async with engine_over(folder) as engine:
        asked = [request([5 + n, 6, 7], 4, top_logprobs=0) for n in range(40)]
        found = await asyncio.gather(*(chunks_of(engine, each) for each in asked))
        info = await engine.info()
    for n, chunks in enumerate(found):
        assert [chunk.ids for chunk in chunks] == [[5 + n], [6], [7], [5 + n]]
        assert chunks[0].logprobs is not None and chunks[0].logprobs[0].logprob == -(5 + n) / 100
        last = chunks[-1]
        assert (last.finish_reason, last.prompt_tokens, last.completion_tokens) == ("length", 3, 4)
    assert (info.context_length, info.running, info.waiting) == (256, 0, 0)
    told = info.counters
    assert (told["requests"], told["prompt_tokens"], told["completion_tokens"]) == (40, 120, 160)
    assert told["computed_tokens"] == 280
    assert 8 <= told["steps"] < 40  # 32 run together, and then the others
    assert info.memory_bytes > 0


async def test_a_stop_token_ends_the_answer_and_a_seed_is_handed_on(folder: Path) -> None:
    async with engine_over(folder) as engine:
        stopped = await chunks_of(engine, request([5, 6, 7], 9, stop_ids=[7], top_logprobs=0))
        drawn = Sampling(temperature=1, seed=2**32 + 2)
        seeded = await chunks_of(engine, request([5, 6, 7], 2, sampling=drawn))
    assert ids_of(stopped) == [5, 6] and ids_of(seeded) == [7, 5]
    last = stopped[-1]
    assert (last.finish_reason, last.stop_id, last.stop_logprob) == ("stop", 7, -0.07)
    assert last.completion_tokens == 3


async def test_clients_take_turns_and_who_gives_up_frees_the_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_OPENVINO_STEP_S", "0.01")
    order: list[str] = []

    async def ask(engine: OpenVinoEngine, client: str, name: str) -> None:
        await chunks_of(engine, request([5, 6], 3, client=client))
        order.append(name)

    async with engine_over(folder, max_running=1, max_waiting=4) as engine:
        long = engine.generate(request([5], 200))
        await anext(long)
        waiting = [asyncio.create_task(ask(engine, "many", f"many {n}")) for n in range(3)]
        await until_async(lambda: engine.info_now().waiting == 3, "they wait")
        waiting.append(asyncio.create_task(ask(engine, "one", "one")))
        await until_async(lambda: engine.info_now().waiting == 4, "it waits too")
        with pytest.raises(Busy, match="1 requests run and 4 wait") as full:
            await chunks_of(engine, request([5], 1))
        assert full.value.retry_after_s >= 1
        waiting.pop(2).cancel()  # one that waits, and then the one that runs
        await long.aclose()  # type: ignore[attr-defined]
        await asyncio.gather(*waiting)
        assert order == ["many 0", "one", "many 1"]
        assert engine.counters.completion_tokens < 50


async def test_too_late_too_long_and_the_end_are_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_OPENVINO_STEP_S", "0.01")
    # One token takes 2 layers, keys and values of 2 heads of 8 bytes and 8 for scales: 128 bytes.
    async with engine_over(folder, max_running=1, kv_bytes=128 * 100) as engine:
        with pytest.raises(ContextLengthExceeded) as found:
            await chunks_of(engine, request([5] * 90, 7))
        assert found.value.facts == {"prompt_tokens": 90, "context_length": 96}
        long = engine.generate(request([5], 90))
        await anext(long)
        with pytest.raises(DeadlineExceeded):
            await chunks_of(engine, request([5], 9, deadline_s=0.05))
        running = chunks_of(engine, request([5], 90, deadline_s=0.2))
        await long.aclose()  # type: ignore[attr-defined]
        with pytest.raises(DeadlineExceeded, match="tokens were drawn"):
            await running
        assert engine.counters.expired == 2
        with pytest.raises(EngineUnavailable, match="gave this up: ignored"):
            await chunks_of(engine, request([IGNORE_ID], 9))
        last = engine.generate(request([5], 90))
        await anext(last)
        await asyncio.to_thread(engine.close)
        with pytest.raises(EngineUnavailable, match="was stopped"):
            async for _ in last:
                pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_broken_step_is_told_to_all_and_the_engine_says_so(folder: Path) -> None:
    async with engine_over(folder, max_running=1) as engine:
        asked = [request([BREAK_ID], 2), request([5], 2)]
        found = await asyncio.gather(
            *(chunks_of(engine, each) for each in asked), return_exceptions=True
        )
        assert [type(each) for each in found] == [EngineDied, EngineDied]
        assert engine.failed


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"constraint": Constraint("json_object")}, "no constraint"),
        ({"adapter": "sha256:a"}, "no adapter"),
        ({"sampling": Sampling(temperature=0, logit_bias={5: 1.0})}, "no logit_bias"),
        ({"top_logprobs": 3}, "no top_logprobs"),
        ({"prompt_logprobs": 0}, "no prompt_logprobs"),
        ({"sampling": Sampling(temperature=1), "top_logprobs": 0}, "no logprobs"),
        ({"max_tokens": 0}, "max_tokens of 1 or more"),
        ({"prompt_ids": [100_000]}, "outside the vocabulary"),
    ],
)
async def test_what_it_cannot_say_is_refused_by_name(
    more: dict[str, Any], words: str, folder: Path
) -> None:
    asked = GenerateRequest(
        **{"request_id": "r", "prompt_ids": [5], "max_tokens": 2, "sampling": GREEDY} | more
    )
    async with engine_over(folder) as engine:
        with pytest.raises(InvalidInput, match=words):
            await chunks_of(engine, asked)


async def test_the_worker_serves_a_gguf_folder_with_it(folder: Path, tmp_path: Path) -> None:
    socket = tmp_path / "s"
    async with worker(folder, socket) as process:
        await ready(process)
        client = await EngineClient.connect(socket)
        info = await client.info()
        assert (info.model_digest, info.context_length) == ("sha256:x", 256)
        assert [c.ids for c in [c async for c in client.generate(request([8, 9], 3))]] == [
            [8], [9], [8]
        ]  # fmt: skip
        client.set_threads(2)
        with pytest.raises(InvalidInput, match="no scores of a text"):
            await client.score([1, 2])
        with pytest.raises(InvalidInput, match="no hidden states"):
            await client.embed([1, 2])
        with pytest.raises(InvalidInput, match="no adapters"):
            await client.load_adapter("sha256:a", tmp_path)
        with pytest.raises(InvalidInput, match="no constraint") as refused:
            await anext(client.generate(request([1], 4, constraint=Constraint("json_object"))))
        assert refused.value.param == "constraint"
        with pytest.raises(EngineDied, match="a broken step"):
            await anext(client.generate(request([BREAK_ID], 2)))
        assert await asyncio.wait_for(process.wait(), 20) == 1
        await client.close()


async def test_the_worker_refuses_what_openvino_has_not(folder: Path, tmp_path: Path) -> None:
    asked = ("--deterministic", "--device", "cuda", "--guesses", str(tmp_path))
    async with worker(folder, tmp_path / "s", *asked) as process:
        _, said = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert b"no --deterministic and no --guesses MODEL and no --device cuda" in said


async def test_a_file_that_is_none_and_a_library_that_is_missing_are_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino_genai", None)
    with pytest.raises(Missing) as found:
        OpenVinoEngine.open(folder / "model.gguf", "sha256:x", OpenVinoSettings(threads=1))
    assert found.value.next_step == 'pip install "bessemer[openvino]"'
    with pytest.raises(InvalidInput, match=r"is a GGUF file \(q8_0\)"):
        NativeEngine.open(folder, "sha256:x")
