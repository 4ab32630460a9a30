"""The engine computes the decoder's function, for many requests at once, and meters it."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from bessemer.core.errors import (
    Busy,
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineUnavailable,
    InvalidInput,
)
from bessemer.core.protocols import GenerateRequest, Sampling, TokenChunk
from bessemer.inference.engine import NativeEngine
from bessemer.models.attention import PackedAttention, positions
from bessemer.models.config import ModelConfig
from bessemer.models.decoder import Decoder
from bessemer.models.folder import load_decoder, save_decoder
from tests.inference.conftest import CONFIGS, SHAPE, VOCABULARY, engine_over

Tiny = Callable[[str], Path]


def ids_of(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (length,), generator=generator).tolist()


def full_logits(folder: Path, ids: list[int], dtype: torch.dtype = torch.float64) -> torch.Tensor:
    decoder = load_decoder(folder, dtype)
    with torch.no_grad():
        hidden = decoder(torch.tensor(ids), positions([len(ids)]), PackedAttention([len(ids)]))
        return decoder.logits(hidden)


def request(ids: list[int], max_tokens: int = 8, **more: object) -> GenerateRequest:
    facts = {"sampling": Sampling(temperature=0.0), "request_id": "r"} | more
    return GenerateRequest(prompt_ids=ids, max_tokens=max_tokens, **facts)  # type: ignore[arg-type]


async def collect(engine: NativeEngine, asked: GenerateRequest) -> list[TokenChunk]:
    return [chunk async for chunk in engine.generate(asked)]


def tokens_of(chunks: list[TokenChunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.ids]


@pytest.mark.parametrize("name", CONFIGS)
async def test_scores_equal_a_full_forward_in_float64(name: str, tiny: Tiny) -> None:
    texts = [ids_of(length, length) for length in (2, 9, 33, 70, 41)]
    async with engine_over(tiny(name), chunk_tokens=16) as engine:
        found = await asyncio.gather(*(engine.score(ids) for ids in texts))
    for ids, scores in zip(texts, found, strict=True):
        logprobs = torch.log_softmax(full_logits(tiny(name), ids), -1)
        expected = [float(logprobs[i - 1, ids[i]]) for i in range(1, len(ids))]
        assert scores == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("name", CONFIGS)
async def test_decoding_through_the_cache_equals_a_full_forward(name: str, tiny: Tiny) -> None:
    prompts = [ids_of(length, length) for length in (1, 5, 30, 47, 18, 3)]  # more than rows
    async with engine_over(tiny(name), chunk_tokens=16) as engine:
        asked = [request(ids, 12, top_logprobs=VOCABULARY) for ids in prompts]
        answers = await asyncio.gather(*(collect(engine, one) for one in asked))
    for ids, chunks in zip(prompts, answers, strict=True):
        drawn = tokens_of(chunks)
        assert len(drawn) == 12
        logprobs = torch.log_softmax(full_logits(tiny(name), ids + drawn), -1)
        told = [each for chunk in chunks for each in chunk.logprobs or ()]
        assert len(told) == 12
        for step, each in enumerate(told):
            expected = logprobs[len(ids) + step - 1]
            assert drawn[step] == int(expected.argmax())
            for token, logprob in each.top:
                assert logprob == pytest.approx(float(expected[token]), abs=1e-8)


@pytest.mark.parametrize("name", ["llama3", "qwen3"])
async def test_fp32_scores_are_within_5e_4_of_transformers(name: str, tiny: Tiny) -> None:
    ids = ids_of(60)
    model = AutoModelForCausalLM.from_pretrained(tiny(name), dtype=torch.float32)
    with torch.no_grad():
        logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
    async with engine_over(tiny(name), precision="fp32") as engine:
        scores = await engine.score(ids)
    expected = [float(logprobs[i - 1, ids[i]]) for i in range(1, len(ids))]
    assert scores == pytest.approx(expected, abs=5e-4)


async def test_bf16_is_close_and_says_what_it_is(tiny: Tiny) -> None:
    ids = ids_of(60)
    async with engine_over(tiny("llama"), precision="bf16") as engine:
        scores = await engine.score(ids)
        assert (await engine.info()).precision == "bf16"
    logprobs = torch.log_softmax(full_logits(tiny("llama"), ids), -1)
    gaps = [abs(float(logprobs[i - 1, ids[i]]) - s) for i, s in enumerate(scores, 1)]
    assert (
        sum(gaps) / len(gaps) < 0.15
    )  # these weights are large; trained ones come 10 times closer


async def test_a_shared_prefix_is_computed_once_and_changes_nothing(tiny: Tiny) -> None:
    prefix = ids_of(40, 1)
    texts = [prefix + ids_of(12, seed) for seed in range(2, 8)]
    async with engine_over(tiny("llama"), max_running=3, chunk_tokens=16) as engine:
        first = await collect(engine, request(texts[0]))
        again = await collect(engine, request(texts[0]))
        other = await collect(engine, request(texts[1]))
        scores = [await engine.score(ids) for ids in texts]
        rescored = await asyncio.gather(*(engine.score(ids) for ids in texts))
    assert first[-1].cached_tokens == 0
    assert again[-1].cached_tokens == 48  # whole blocks of 16
    assert other[-1].cached_tokens == 32
    assert tokens_of(first) == tokens_of(again)
    for ids, once, twice in zip(texts, scores, rescored, strict=True):
        logprobs = torch.log_softmax(full_logits(tiny("llama"), ids), -1)
        expected = [float(logprobs[i - 1, ids[i]]) for i in range(1, len(ids))]
        assert once == pytest.approx(expected, abs=1e-8)
        assert twice == pytest.approx(expected, abs=1e-8)


async def test_a_system_prompt_of_1000_tokens_is_computed_once_and_then_waits_for_little(
    tmp_path: Path,
) -> None:
    """Computed tokens are exact; the time to the first token is a median of many."""
    shape = {"hidden_size": 192, "intermediate_size": 384, "layers": 4, "context_length": 1200}
    config = ModelConfig(**SHAPE | shape)
    save_decoder(Decoder(config).init_weights(seed=3), tmp_path)
    ratios: list[float] = []
    async with engine_over(tmp_path, precision="fp32") as engine:

        async def seconds(ids: list[int]) -> float:
            begin = time.perf_counter()
            await collect(engine, request(ids, 1))
            return time.perf_counter() - begin

        await seconds(ids_of(1000, 99))
        for seed in range(7):
            system = ids_of(1000, seed)
            before = engine.counters.computed_tokens
            once = await seconds(system + ids_of(20, seed + 100))
            between = engine.counters.computed_tokens
            again = await seconds(system + ids_of(20, seed + 200))
            assert between - before == 1020
            assert engine.counters.computed_tokens - between == 1020 - 992  # 62 blocks of 16
            ratios.append(again / once)
    assert statistics.median(ratios) <= 0.15, ratios


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=30), min_size=1, max_size=12))
def test_any_mix_of_overlapping_requests_scores_like_each_alone(
    tiny: Tiny, texts: list[list[int]]
) -> None:
    async def ask() -> list[list[float]]:
        async with engine_over(tiny("qwen2"), max_running=3, chunk_tokens=7, kv_bytes=1) as engine:
            work = [engine.score(ids) for ids in texts]
            noise = [collect(engine, request(ids, 5)) for ids in texts]
            mixed = await asyncio.gather(*work, *noise)
            return mixed[: len(texts)]  # type: ignore[return-value]

    for ids, scores in zip(texts, asyncio.run(ask()), strict=True):
        logprobs = torch.log_softmax(full_logits(tiny("qwen2"), ids), -1)
        expected = [float(logprobs[i - 1, ids[i]]) for i in range(1, len(ids))]
        assert scores == pytest.approx(expected, abs=1e-8)


async def test_a_seed_gives_the_same_answer_alone_and_in_company(tiny: Tiny) -> None:
    hot = Sampling(temperature=1.5, seed=11)
    async with engine_over(tiny("llama")) as engine:
        alone = await collect(engine, request(ids_of(9), 20, sampling=hot))
        crowd = await asyncio.gather(
            *(collect(engine, request(ids_of(n), 20, sampling=hot)) for n in (9, 14, 3, 22))
        )
        unseeded = [
            tokens_of(
                await collect(engine, request(ids_of(9), 20, sampling=Sampling(temperature=1.5)))
            )
            for _ in range(3)
        ]
    assert tokens_of(alone) == tokens_of(crowd[0])
    assert len({tuple(tokens) for tokens in unseeded}) == 3


async def test_stop_ids_end_the_answer_and_counts_are_exact(tiny: Tiny) -> None:
    async with engine_over(tiny("llama")) as engine:
        free = tokens_of(await collect(engine, request(ids_of(7), 10)))
        stop = free[4]
        chunks = await collect(engine, request(ids_of(7), 10, stop_ids=[stop]))
    place = free.index(stop)
    assert tokens_of(chunks) == free[:place]
    assert chunks[-1].finish_reason == "stop"
    assert chunks[-1].prompt_tokens == 7
    assert chunks[-1].completion_tokens == place + 1  # the stop token was computed and is counted


async def test_too_long_a_request_names_both_numbers(tiny: Tiny) -> None:
    async with engine_over(tiny("llama")) as engine:
        with pytest.raises(ContextLengthExceeded, match=r"96 tokens.*90.*10"):
            await collect(engine, request(ids_of(90), 10))
        with pytest.raises(ContextLengthExceeded):
            await engine.score(ids_of(97))
        assert len(tokens_of(await collect(engine, request(ids_of(90), 6)))) == 6


async def test_bad_ids_and_empty_prompts_are_refused(tiny: Tiny) -> None:
    async with engine_over(tiny("llama")) as engine:
        for ids in ([], [VOCABULARY], [-1]):
            with pytest.raises(InvalidInput):
                await engine.score(ids)
        with pytest.raises(InvalidInput, match="max_tokens"):
            await collect(engine, request([1], 0))


async def test_a_full_queue_says_when_to_come_back(tiny: Tiny) -> None:
    async with engine_over(tiny("llama"), max_running=1, max_waiting=2) as engine:
        work = [asyncio.create_task(collect(engine, request(ids_of(5), 80))) for _ in range(9)]
        done = await asyncio.gather(*work, return_exceptions=True)
    refused = [one for one in done if isinstance(one, Busy)]
    answered = [one for one in done if isinstance(one, list)]
    assert refused and answered and len(refused) + len(answered) == 9
    assert all(one.retry_after_s >= 1 for one in refused)


async def test_closing_the_stream_frees_the_row(tiny: Tiny) -> None:
    async with engine_over(tiny("llama"), max_running=1) as engine:
        stream = engine.generate(request(ids_of(5), 90))
        await anext(stream)
        assert (await engine.info()).running == 1
        await stream.aclose()  # type: ignore[attr-defined]
        answer = await asyncio.wait_for(collect(engine, request(ids_of(6), 3)), 20)
    assert len(tokens_of(answer)) == 3


async def test_closing_the_engine_ends_every_request_with_an_error(tiny: Tiny) -> None:
    async with engine_over(tiny("llama"), max_running=1) as engine:
        running = asyncio.create_task(collect(engine, request(ids_of(5), 90)))
        waiting = asyncio.create_task(collect(engine, request(ids_of(5), 90)))
        while (await engine.info()).running + (await engine.info()).waiting < 2:
            await asyncio.sleep(0)
        await asyncio.to_thread(engine.close)
        for task in (running, waiting):
            with pytest.raises(EngineUnavailable):
                await task


async def test_vectors_have_unit_length_and_do_not_depend_on_company(tiny: Tiny) -> None:
    async with engine_over(tiny("llama"), chunk_tokens=8) as engine:
        alone = await engine.embed(ids_of(20))
        several = await asyncio.gather(*(engine.embed(ids_of(n)) for n in (20, 31, 4)))
    assert math.fsum(x * x for x in alone) == pytest.approx(1)
    assert several[0] == pytest.approx(alone, abs=1e-8)
    assert len(alone) == CONFIGS["llama"].hidden_size


async def test_bias_and_penalties_shape_the_answer(tiny: Tiny) -> None:
    prompt = ids_of(6)
    async with engine_over(tiny("llama")) as engine:
        plain = tokens_of(await collect(engine, request(prompt, 12)))
        banned = dict.fromkeys(plain, -100.0)
        biased = Sampling(temperature=0.0, logit_bias=banned)
        other = tokens_of(await collect(engine, request(prompt, 12, sampling=biased)))
        assert not set(other) & set(plain)
        spread = Sampling(temperature=0.0, frequency_penalty=2.0, presence_penalty=2.0)
        varied = tokens_of(await collect(engine, request(prompt, 40, sampling=spread)))
        assert len(set(varied)) > len(set(tokens_of(await collect(engine, request(prompt, 40)))))
        for id_ in (VOCABULARY, 10**9):
            wrong = Sampling(logit_bias={id_: 1.0})
            with pytest.raises(InvalidInput, match="logit_bias"):
                await collect(engine, request(prompt, 4, sampling=wrong))


async def test_an_answer_that_lost_its_place_is_the_same_in_the_end(tiny: Tiny) -> None:
    folder = tiny("llama")
    asked = [request(ids_of(20, n), 60, sampling=Sampling(seed=n)) for n in range(4)]
    async with engine_over(folder) as roomy:
        expected = [tokens_of(await collect(roomy, each)) for each in asked]
    # 96 tokens is the least budget there is: two answers of 80 do not fit side by side.
    async with engine_over(folder, kv_bytes=1) as tight:
        answers = await asyncio.gather(*(collect(tight, each) for each in asked))
        assert [tokens_of(chunks) for chunks in answers] == expected
        counters = tight.counters
        assert (counters.requests, counters.completion_tokens) == (4, 240)
        assert counters.computed_tokens >= 4 * 79
        last = answers[0][-1]
        assert (last.prompt_tokens, last.completion_tokens) == (20, 60)


async def test_preemption_happens_and_changes_no_token(tiny: Tiny) -> None:
    folder = tiny("llama")
    asked = [request(ids_of(3, n), 90, sampling=Sampling(seed=n)) for n in range(4)]
    async with engine_over(folder) as roomy:
        expected = [tokens_of(await collect(roomy, each)) for each in asked]
    bytes_per_token = 2 * 2 * 2 * 8 * 8  # layers, keys and values, heads, head size, float64
    async with engine_over(folder, kv_bytes=300 * bytes_per_token) as tight:
        answers = await asyncio.gather(*(collect(tight, each) for each in asked))
        assert [tokens_of(chunks) for chunks in answers] == expected
        assert tight.counters.preemptions >= 1


async def test_a_request_whose_time_has_passed_ends_with_the_numbers(tiny: Tiny) -> None:
    async with engine_over(tiny("llama"), max_running=1) as engine:
        first = asyncio.create_task(collect(engine, request(ids_of(4), 90)))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded, match=r"1e-06 s were given .* 0 tokens"):
            await collect(engine, request(ids_of(5), 4, deadline_s=1e-6))
        assert len(tokens_of(await first)) == 90
        assert engine.counters.expired == 1


async def test_a_client_with_one_request_is_not_held_up_by_one_with_many(tiny: Tiny) -> None:
    async with engine_over(tiny("llama"), max_running=2) as engine:
        ended: list[str] = []

        async def one(client: str, number: int) -> None:
            await collect(engine, request(ids_of(6, number), 20, client=client))
            ended.append(client)

        many = [asyncio.create_task(one("many", n)) for n in range(12)]
        await asyncio.sleep(0)
        await asyncio.gather(one("single", 99), *many)
        assert ended.index("single") < 5
