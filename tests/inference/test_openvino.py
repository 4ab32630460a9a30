"""OpenVINO over an exported file draws what our own engine draws, and ends as it should.

The engine around it is tested over a fake of the library in `test_openvino_engine`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from bessemer.core.errors import (
    Busy,
    ContextLengthExceeded,
    DeadlineExceeded,
    InvalidInput,
)
from bessemer.core.protocols import GenerateRequest, Sampling, TokenChunk
from bessemer.inference.openvino_engine import OpenVinoEngine
from bessemer.inference.openvino_pipeline import OpenVinoSettings
from bessemer.models.gguf_export import About, GgufPrecision, export_gguf
from bessemer.models.gguf_import import import_gguf
from tests.models.gguf_files import tiny_model
from tests.models.test_gguf import logits_of_folder, some_ids
from tests.models.test_gguf_export import drawn_surely, folder_of

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino_genai") is None,
    reason="openvino-genai is not installed: that engine is not run",
)
GREEDY = Sampling(temperature=0)


class Exported:
    """A tiny model's files, and the folder of what the q8_0 file means."""

    def __init__(self, folder: Path) -> None:
        model = folder_of(tiny_model("llama", wide=True), folder / "m")
        self.files: dict[GgufPrecision, Path] = {}
        for precision in ("bf16", "q8_0"):
            path = folder / f"{precision}.gguf"
            export_gguf(model, path, precision, About("tiny", "sha256:0"))  # type: ignore[arg-type]
            self.files[precision] = path  # type: ignore[index]
        import_gguf(self.files["q8_0"], folder / "back")
        self.meant = folder / "back"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("openvino"))


@asynccontextmanager
async def engine_over(path: Path, **more: Any) -> AsyncIterator[OpenVinoEngine]:
    settings: dict[str, Any] = {"threads": 1, "precision": "fp32", "context_length": 96} | more
    engine = OpenVinoEngine.open(path, "sha256:x", OpenVinoSettings(**settings))
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


@needs_openvino
async def test_greedy_tokens_of_many_requests_are_those_of_our_own_network(
    exported: Exported,
) -> None:
    prompts = [some_ids().tolist()[: 3 + n] for n in range(6)]
    async with engine_over(exported.files["q8_0"]) as engine:
        found = await asyncio.gather(*(chunks_of(engine, request(p, 8)) for p in prompts))
        info = await engine.info()
    assert (info.context_length, info.precision, info.running) == (96, "fp32", 0)
    compared = 0
    for prompt, chunks in zip(prompts, found, strict=True):
        sure = drawn_surely(exported.meant, prompt, 8)
        assert ids_of(chunks)[: len(sure)] == sure
        assert (chunks[-1].finish_reason, chunks[-1].completion_tokens) == ("length", 8)
        assert chunks[-1].prompt_tokens == len(prompt)
        compared += len(sure)
    assert compared >= 24


@needs_openvino
async def test_log_probabilities_are_those_of_our_own_network(exported: Exported) -> None:
    prompt = some_ids().tolist()[:9]
    async with engine_over(exported.files["q8_0"]) as engine:
        chunks = await chunks_of(engine, request(prompt, 4, top_logprobs=0))
    ids = ids_of(chunks)
    told = [each.logprob for chunk in chunks for each in chunk.logprobs or ()]
    logits = logits_of_folder(exported.meant, torch.tensor(prompt + ids[:-1]))
    expected = torch.log_softmax(logits, -1)[len(prompt) - 1 :, :].gather(
        1, torch.tensor(ids)[:, None]
    )
    assert told == pytest.approx(expected[:, 0].tolist(), abs=2e-3)


@needs_openvino
async def test_a_stop_token_ends_the_answer_and_is_not_part_of_it(exported: Exported) -> None:
    prompt = some_ids().tolist()[:9]
    async with engine_over(exported.files["q8_0"]) as engine:
        ids = ids_of(await chunks_of(engine, request(prompt, 6)))
        place = max(n for n in range(6) if ids.index(ids[n]) == n)
        stopped = await chunks_of(engine, request(prompt, 6, stop_ids=[ids[place]]))
    assert ids_of(stopped) == ids[:place]
    assert (stopped[-1].finish_reason, stopped[-1].stop_id) == ("stop", ids[place])
    assert stopped[-1].completion_tokens == place + 1


@needs_openvino
async def test_a_seed_draws_the_same_answer_and_others_draw_others(exported: Exported) -> None:
    def asked(seed: int | None) -> GenerateRequest:
        sampling = Sampling(temperature=1.5, top_p=0.95, top_k=50, min_p=0.01, seed=seed)
        return request([5, 6, 7], 8, sampling=sampling)

    async with engine_over(exported.files["q8_0"]) as engine:
        alone = await chunks_of(engine, asked(7))
        seeds = [None, None, None, 7, -7]
        found = await asyncio.gather(*(chunks_of(engine, asked(seed)) for seed in seeds))
    answers = [tuple(ids_of(answer)) for answer in found]
    assert answers[3] == tuple(ids_of(alone))
    assert len(set(answers)) >= 4


@needs_openvino
async def test_lengths_queues_and_deadlines_are_told(exported: Exported) -> None:
    settings = {"max_running": 2, "max_waiting": 0, "context_length": 512}
    async with engine_over(exported.files["q8_0"], **settings) as engine:
        with pytest.raises(ContextLengthExceeded) as found:
            await chunks_of(engine, request([5] * 506, 7))
        assert found.value.facts == {"prompt_tokens": 506, "context_length": 512}
        long = [engine.generate(request([5, 6], 510)) for _ in range(2)]
        for answer in long:
            await anext(answer)
        with pytest.raises(Busy):
            await chunks_of(engine, request([5, 6], 2))
        for answer in long:
            await answer.aclose()  # type: ignore[attr-defined]
        async with asyncio.timeout(20):
            while (await engine.info()).running:
                await asyncio.sleep(0.01)
        with pytest.raises(DeadlineExceeded):
            await chunks_of(engine, request([5, 6], 510, deadline_s=0.0))


@needs_openvino
async def test_nothing_that_calls_home_is_imported(exported: Exported) -> None:
    async with engine_over(exported.files["q8_0"]):
        assert sys.modules["openvino_telemetry"] is None


@needs_openvino
def test_a_file_that_openvino_does_not_read_says_what_to_do(exported: Exported) -> None:
    with pytest.raises(InvalidInput, match="cannot read bf16") as found:
        OpenVinoEngine.open(exported.files["bf16"], "sha256:x", OpenVinoSettings(threads=1))
    assert "quantize the model again" in str(found.value.next_step)
