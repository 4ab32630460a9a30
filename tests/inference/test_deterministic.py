"""Deterministic mode: the bits that an answer has alone it has in any company and process."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from bessemer.core.engine_client import EngineClient
from bessemer.core.protocols import Engine, GenerateRequest, Sampling
from bessemer.inference import deterministic
from bessemer.inference.deterministic import CHUNK, ROWS, WIDTHS, ChunkCache, DeterministicStepper
from bessemer.inference.engine import EngineSettings, NativeEngine
from bessemer.inference.prepared import PreparedDecoder
from bessemer.inference.sequence import EngineSequence
from bessemer.models.config import ModelConfig
from bessemer.models.decoder import Decoder
from bessemer.models.folder import load_decoder, save_decoder
from tests.inference.conftest import CONFIGS, VOCABULARY
from tests.inference.test_worker import ready, worker
from tests.models.bert_folder import write_bert

CONTEXT_LENGTH = 512
Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Tiny models with room for prompts of several chunks."""
    folders: dict[str, Path] = {}

    def folder_of(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            config = replace(CONFIGS[name], context_length=CONTEXT_LENGTH)
            save_decoder(Decoder(config).init_weights(seed=3), folders[name])
        return folders[name]

    return folder_of


@asynccontextmanager
async def engine_over(folder: Path, **more: Any) -> AsyncIterator[NativeEngine]:
    facts: dict[str, Any] = {"precision": "bf16", "max_running": 8, "deterministic": True} | more
    engine = NativeEngine.open(folder, "sha256:test", EngineSettings(**facts))
    try:
        yield engine
    finally:
        engine.close()


def ids_of(length: int, seed: int, vocabulary: int = VOCABULARY) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary, (length,), generator=generator).tolist()


def request(ids: Sequence[int], max_tokens: int = 24, seed: int | None = 5) -> GenerateRequest:
    """Sampled with a seed, or greedy without one; all log-probabilities told."""
    sampling = Sampling(temperature=0 if seed is None else 1.0, top_p=0.95, seed=seed)
    return GenerateRequest(
        request_id="r", prompt_ids=ids, max_tokens=max_tokens, sampling=sampling, top_logprobs=3
    )


class Bits(NamedTuple):
    """An answer: equal only if every token and every log-probability is, to the last bit."""

    ids: list[int]
    logprobs: list[float]
    top: list[Any]


async def bits_of(engine: Engine, asked: GenerateRequest, wait_s: float = 0.0) -> Bits:
    await asyncio.sleep(wait_s)
    bits = Bits([], [], [])
    async for chunk in engine.generate(asked):
        bits.ids.extend(chunk.ids)
        for each in chunk.logprobs or ():
            bits.logprobs.append(each.logprob)
            bits.top.append([tuple(pair) for pair in each.top])
    return bits


async def alone(folder: Path, asked: GenerateRequest, **more: Any) -> Bits:
    """In an engine of its own, that has computed nothing before."""
    async with engine_over(folder, **more) as engine:
        return await bits_of(engine, asked)


def company(seed: int, count: int = 32, longest: int = 200) -> list[GenerateRequest]:
    """Other requests: some share beginnings, lengths and lengths of answer differ."""
    source = random.Random(seed)
    shared = ids_of(300, 1)
    return [
        request(
            shared[: source.choice((0, 130, 280))] + ids_of(source.randint(1, longest), number),
            max_tokens=source.randint(1, 30),
            seed=source.choice((None, number)),
        )
        for number in range(count)
    ]


async def in_company(
    engine: NativeEngine, asked: GenerateRequest, others: Sequence[GenerateRequest], seed: int
) -> Bits:
    """`asked` and the others, each arriving at a random moment."""
    source = random.Random(seed)
    work = [bits_of(engine, other, source.uniform(0, 0.15)) for other in others]
    mine, *_ = await asyncio.gather(bits_of(engine, asked, source.uniform(0, 0.15)), *work)
    return mine


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "mixtral", "gpt2"])
async def test_an_answer_has_the_bits_it_has_alone(name: str, precision: str, long: Folder) -> None:
    asked = request(ids_of(300, 1)[:280] + ids_of(15, 99))
    expected = await alone(long(name), asked, precision=precision)
    assert len(expected.ids) == 24
    async with engine_over(long(name), precision=precision) as engine:
        for seed in range(2):
            assert await in_company(engine, asked, company(seed), seed) == expected
        assert await bits_of(engine, asked) == expected
        assert engine.counters.cached_tokens > 0
    if name == "mixtral":
        assert engine.info_now().conditions["block"] == "1"


@pytest.mark.parametrize("name", ["llama", "mixtral"])
async def test_an_answer_that_was_thrown_out_half_way_comes_back_the_same(
    name: str, long: Folder
) -> None:
    asked = [request(ids_of(n, n), 100, seed=n) for n in (10, 30, 5, 20, CHUNK, CHUNK + 3)]
    expected = [await alone(long(name), one) for one in asked]
    async with engine_over(long(name), kv_bytes=1) as engine:  # room for one whole context
        found = await asyncio.gather(*(bits_of(engine, one) for one in asked))
        assert found == expected
        assert engine.counters.preemptions > 0
        assert engine.counters.computed_tokens > sum(len(one.prompt_ids) + 100 for one in asked)


def _bytes_per_token(config: ModelConfig, precision: str) -> int:
    return config.layers * 2 * config.kv_heads * config.head_dim * (2 if precision == "bf16" else 4)


async def test_a_plain_engine_does_not_keep_that_promise(long: Folder) -> None:
    """Or the tests above would see nothing."""
    asked = request(ids_of(300, 1)[:280] + ids_of(15, 99))
    expected = await alone(long("llama"), asked, deterministic=False)
    async with engine_over(long("llama"), deterministic=False) as engine:
        assert engine.info_now().conditions == {}
        assert await in_company(engine, asked, company(0), 0) != expected


async def test_an_answer_that_became_somebodys_prompt_is_not_taken_for_its_own(
    long: Folder,
) -> None:
    """Its tokens were decoded; as a prompt they were computed in one product."""
    model = PreparedDecoder(load_decoder(long("llama"), torch.bfloat16))
    room = {"rows": 4, "context_length": CONTEXT_LENGTH, "kv_bytes": 1 << 30}
    cache = ChunkCache(model.config, model.dtype, **room)
    stepper = DeterministicStepper(model, cache, max_waiting=9, chunk_tokens=256)
    asked = request(ids_of(100, 1), 90)
    expected = await alone(long("llama"), asked)
    letters: list[Any] = []
    sequence = EngineSequence.for_tokens(asked, lambda *letter: letters.append(letter))
    stepper.admit(sequence)
    while sequence.drawn < 60:
        stepper.step()
    reader = EngineSequence.for_tokens(request([*sequence.ids, 1], 1), lambda *_: None)
    stepper.admit(reader)
    while not stepper.idle and reader.drawn == 0:
        stepper.step()
    stepper.scheduler.finish(sequence)  # as preemption does
    stepper.scheduler.waiting.push_front(sequence)
    while not stepper.idle:
        stepper.step()
    assert [token.logprob for _, chunk in letters for token in chunk.logprobs] == expected.logprobs


class Arrival(NamedTuple):
    prompt: int
    seed: int | None
    wait_rounds: int


_PROMPTS = [ids_of(300, 1)[:n] + ids_of(m, m) for n, m in ((0, 3), (0, 128), (130, 7), (256, 40))]
_arrivals = st.lists(
    st.builds(Arrival, st.integers(0, 3), st.sampled_from((None, 1, 2)), st.integers(0, 40)),
    min_size=1,
    max_size=10,
)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(_arrivals, st.integers(1, 4), st.sampled_from((1, 600)))
def test_no_order_of_arrival_changes_a_bit(
    long: Folder, arrivals: list[Arrival], max_running: int, kv_tokens: int
) -> None:
    folder = long("llama")
    kv_bytes = kv_tokens * _bytes_per_token(CONFIGS["llama"], "bf16")

    async def come(engine: NativeEngine, arrival: Arrival) -> Bits:
        for _ in range(arrival.wait_rounds):
            await asyncio.sleep(0.0005)
        return await bits_of(engine, request(_PROMPTS[arrival.prompt], 12, arrival.seed))

    async def all_come() -> list[Bits]:
        async with engine_over(folder, max_running=max_running, kv_bytes=kv_bytes) as engine:
            return await asyncio.gather(*(come(engine, arrival) for arrival in arrivals))

    for arrival, found in zip(arrivals, asyncio.run(all_come()), strict=True):
        assert found == _alone_once(folder, arrival.prompt, arrival.seed)


_known: dict[tuple[Path, int, int | None], Bits] = {}


def _alone_once(folder: Path, prompt: int, seed: int | None) -> Bits:
    key = (folder, prompt, seed)
    if key not in _known:
        _known[key] = asyncio.run(alone(folder, request(_PROMPTS[prompt], 12, seed)))
    return _known[key]


async def test_another_process_gives_the_same_bits(long: Folder, tmp_path: Path) -> None:
    asked = request(ids_of(300, 1))
    async with engine_over(long("llama")) as engine:
        expected, conditions = await bits_of(engine, asked), engine.info_now().conditions
    options = ("--precision", "bf16", "--deterministic", "--threads", conditions["threads"])
    async with worker(long("llama"), tmp_path / "s", *options) as process:
        await ready(process)
        client = await EngineClient.connect(tmp_path / "s")
        crowd = [bits_of(client, other) for other in company(3, 8)]
        found, *_ = await asyncio.gather(bits_of(client, asked), *crowd)
        assert found == expected
        assert (await client.info()).conditions == conditions
        await client.close()


async def test_only_whole_chunks_of_a_prompt_are_reused(long: Folder) -> None:
    prompt = ids_of(300, 1)
    async with engine_over(long("llama")) as engine:
        first = await bits_of(engine, request(prompt))

        async def cached(ids: list[int]) -> int:
            return [c.cached_tokens async for c in engine.generate(request(ids, 1))][-1]

        # The answer was decoded, and as part of a prompt it would be computed in another shape.
        assert await cached([*prompt, *first.ids, *ids_of(100, 2)]) == 2 * CHUNK
        assert await cached(prompt) == 2 * CHUNK
        assert await cached(prompt[: CHUNK + 5]) == CHUNK
        assert await cached(prompt[:CHUNK]) == 0  # its last token's scores are still to compute


async def test_scores_and_vectors_do_not_depend_on_company_either(long: Folder) -> None:
    texts = [ids_of(n, n) for n in (2, 127, 128, 129, 300)] + [ids_of(300, 300)[:200]]
    async with engine_over(long("llama")) as engine:
        scored = await asyncio.gather(*(engine.score(ids) for ids in texts * 2))
        embedded = await asyncio.gather(*(engine.embed(ids) for ids in texts * 2))
    for place, ids in enumerate(texts * 2):
        async with engine_over(long("llama")) as engine:
            assert await engine.score(ids) == scored[place]
            assert await engine.embed(ids) == embedded[place]


async def test_an_encoder_takes_one_text_at_a_time(tmp_path: Path) -> None:
    folder = write_bert(tmp_path)
    texts = [ids_of(n, n, 40) for n in (3, 11, 7, 25)]
    async with engine_over(folder) as engine:
        crowd = await asyncio.gather(*(engine.embed(ids) for ids in texts))
        assert engine.counters.steps == len(texts)
        assert [await engine.embed(ids) for ids in texts] == crowd
        assert engine.info_now().conditions["precision"] == "bf16"


async def test_a_deterministic_engine_keeps_its_threads(long: Folder) -> None:
    async with engine_over(long("llama")) as engine:
        before = torch.get_num_threads()
        engine.set_threads(before + 1)
        await bits_of(engine, request([1], 1))
        assert torch.get_num_threads() == before
        assert engine.info_now().conditions["threads"] == str(before)


class OddModel:
    """A network of one product whose last bit hangs on the block's width, or on a neighbor."""

    dtype = torch.float32
    precision = "fp32"
    config = ModelConfig(**{**vars(CONFIGS["llama"])})

    def __init__(self, fault: str) -> None:
        self._fault = fault
        self._table = torch.randn(VOCABULARY, 4, generator=torch.Generator().manual_seed(1))

    def forward(self, ids_T: Tensor, positions_T: Tensor, _attend: Any) -> Tensor:
        hidden_TD = self._table[ids_T] + positions_T[:, None]
        if self._fault == "neighbor":
            hidden_TD[-1] = torch.nextafter(hidden_TD[-1], hidden_TD[0])
        if self._fault == "width" and len(ids_T) > ROWS:
            hidden_TD[3, 2] = torch.nextafter(hidden_TD[3, 2], torch.tensor(1e9))
        return hidden_TD

    def logits(self, hidden_ND: Tensor) -> Tensor:
        return hidden_ND.clone()


@pytest.mark.parametrize(
    ("fault", "found"), [("none", WIDTHS), ("width", (8,)), ("neighbor", (1,))]
)
def test_a_kernel_whose_rows_see_each_other_is_found_out(fault: str, found: tuple[int]) -> None:
    assert deterministic.widths(OddModel(fault)) == found


@pytest.mark.slow
async def test_the_default_model_keeps_its_bits_among_32(default_model_folder: Path) -> None:
    asked = request(ids_of(200, 4, 40_000))
    others = [request(ids_of(20 + 9 * n, n, 40_000), 8 + n, n) for n in range(32)]
    expected = await alone(default_model_folder, asked, max_running=32)
    async with engine_over(default_model_folder, max_running=32) as engine:
        for seed in range(2):
            source = random.Random(seed)
            waits = [source.uniform(0, 5) for _ in others]
            work = [bits_of(engine, one, wait) for one, wait in zip(others, waits, strict=True)]
            found, *_ = await asyncio.gather(bits_of(engine, asked, source.uniform(0, 5)), *work)
            assert found == expected
