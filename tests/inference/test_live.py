"""An engine over weights that move: nothing is copied, nothing old is used, bits are repeatable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from bessemer.core.errors import BessemerError, Conflict, ContextLengthExceeded, InvalidInput
from bessemer.core.protocols import GenerateRequest, LiveEngine, Sampling, TokenChunk
from bessemer.inference.live import ROWS, NativeLiveEngine
from bessemer.models.attention import PackedAttention, positions
from bessemer.models.config import ModelConfig
from bessemer.models.decoder import Decoder
from bessemer.models.folder import load_decoder
from bessemer.models.lora import add_lora
from tests.inference.conftest import SHAPE, VOCABULARY, engine_over
from tests.inference.test_engine import collect, ids_of, request, tokens_of

Tiny = Callable[[str], Path]


def likeliest(decoder: Decoder, prompt: Sequence[int], count: int) -> list[int]:
    """Greedy, by whole forward passes."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            attend = PackedAttention([len(ids)])
            hidden = decoder(torch.tensor(ids), positions([len(ids)]), attend)
            ids.append(int(decoder.logits(hidden[-1:])[0].argmax()))
    return ids[len(prompt) :]


async def answers(engine: LiveEngine, asked: Sequence[GenerateRequest]) -> list[list[TokenChunk]]:
    async def one(each: GenerateRequest) -> list[TokenChunk]:
        return [chunk async for chunk in engine.generate(each)]

    return await asyncio.gather(*map(one, asked))


def answered(engine: LiveEngine, asked: Sequence[GenerateRequest]) -> list[list[int]]:
    return [tokens_of(chunks) for chunks in asyncio.run(answers(engine, asked))]


def test_answers_are_those_of_the_network_before_and_after_its_weights_move(tiny: Tiny) -> None:
    decoder = load_decoder(tiny("llama"), torch.float64)
    engine = NativeLiveEngine(decoder)
    prompts = [ids_of(length, length) for length in (3, 17, 40)]
    asked = [request(prompt, 12) for prompt in prompts]
    for _ in range(2):
        engine.renew()
        assert answered(engine, asked) == [likeliest(decoder, prompt, 12) for prompt in prompts]
        with torch.no_grad():
            for parameter in decoder.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, dtype=torch.float64))
    assert engine.version == 2


@pytest.mark.parametrize("family", ["llama3", "qwen2", "qwen3"])
def test_a_live_engine_answers_like_a_loaded_one(family: str, tiny: Tiny) -> None:
    asked = [request(ids_of(9, 5), 10), request(ids_of(30, 6), 10, top_logprobs=0)]

    async def loaded() -> list[list[TokenChunk]]:
        async with engine_over(tiny(family)) as engine:
            return [await collect(engine, each) for each in asked]

    live = NativeLiveEngine(load_decoder(tiny(family), torch.float64))
    for mine, theirs in zip(asyncio.run(answers(live, asked)), asyncio.run(loaded()), strict=True):
        assert tokens_of(mine) == tokens_of(theirs)
        for one, other in zip(mine, theirs, strict=True):
            if one.logprobs and other.logprobs:
                logprob = other.logprobs[0].logprob
                assert one.logprobs[0].logprob == pytest.approx(logprob, abs=1e-9)


def test_gpt2_experts_and_lora_speak_while_they_are_trained() -> None:
    from bessemer.models.config import MoeConfig

    gpt2 = ModelConfig(**{**SHAPE, "kv_heads": 4}, family="gpt2", tied=True)
    experts = ModelConfig(**SHAPE, family="mixtral", moe=MoeConfig(experts=4, top_k=2, size=16))
    for config in (gpt2, experts):
        decoder = Decoder(config).init_weights(1).double().eval()
        engine = NativeLiveEngine(decoder)
        assert answered(engine, [request(ids_of(7), 9)]) == [likeliest(decoder, ids_of(7), 9)]
    decoder = Decoder(ModelConfig(**SHAPE)).init_weights(1).double().eval()
    for layer in add_lora(decoder, rank=2, alpha=8.0, seed=0).values():
        with torch.no_grad():
            layer.lora_B.normal_()
    before = answered(NativeLiveEngine(decoder), [request(ids_of(7), 9)])
    assert before == [likeliest(decoder, ids_of(7), 9)]


def test_equal_requests_in_an_equal_order_give_equal_bits(tiny: Tiny) -> None:
    asked = [
        request(ids_of(5 + n % 3, n % 4), 6 + n % 5, sampling=Sampling(seed=n), top_logprobs=0)
        for n in range(ROWS + 9)  # more than run at once
    ]
    found = []
    for _ in range(2):
        engine = NativeLiveEngine(load_decoder(tiny("llama"), torch.bfloat16))
        found.append(asyncio.run(answers(engine, asked)))
    assert found[0] == found[1]


def test_what_was_asked_before_leaves_no_trace_in_the_bits(tiny: Tiny) -> None:
    decoder = load_decoder(tiny("llama"), torch.float32)
    asked = [request(ids_of(5 + n % 3, n), 6, top_logprobs=0) for n in range(ROWS)]
    new, used = NativeLiveEngine(decoder), NativeLiveEngine(decoder)
    earlier = [request(ids_of(9, n), 3 + n % 7) for n in range(ROWS + 5)]  # rows end in any order
    asyncio.run(answers(used, earlier))
    used.renew()
    assert asyncio.run(answers(used, asked)) == asyncio.run(answers(new, asked))


def test_what_ended_an_answer_is_told_with_its_log_probability(tiny: Tiny) -> None:
    decoder = load_decoder(tiny("llama"), torch.float64)
    prompt = ids_of(8)
    first, second = likeliest(decoder, prompt, 2)
    asked = request(prompt, 9, stop_ids=[second], top_logprobs=0)
    last = asyncio.run(answers(NativeLiveEngine(decoder), [asked]))[0][-1]
    with torch.no_grad():
        ids = [*prompt, first]
        hidden = decoder(torch.tensor(ids), positions([len(ids)]), PackedAttention([len(ids)]))
        expected = decoder.logits(hidden[-1:])[0].log_softmax(0)[second]
    assert (last.finish_reason, last.stop_id, last.ids) == ("stop", second, [])
    assert last.stop_logprob == pytest.approx(float(expected), abs=1e-9)


async def test_weights_may_not_move_under_a_request(tiny: Tiny) -> None:
    engine = NativeLiveEngine(load_decoder(tiny("llama"), torch.float64))
    under_way = engine.generate(request(ids_of(4), 9))
    await anext(under_way)
    with pytest.raises(Conflict, match="under way"):
        engine.renew()
    await under_way.aclose()  # type: ignore[attr-defined]
    engine.renew()
    assert len(tokens_of([c async for c in engine.generate(request(ids_of(4), 9))])) == 9


async def test_scores_and_refusals_are_those_of_any_engine(tiny: Tiny) -> None:
    live = NativeLiveEngine(load_decoder(tiny("llama"), torch.float64))
    async with engine_over(tiny("llama")) as engine:
        assert await live.score(ids_of(30)) == pytest.approx(await engine.score(ids_of(30)))
        assert await live.embed(ids_of(30)) == pytest.approx(await engine.embed(ids_of(30)))
    assert (await live.info()).model_digest == "live:0"
    faults: list[tuple[list[int], type[BessemerError]]] = [
        ([VOCABULARY], InvalidInput),
        ([], InvalidInput),
        (ids_of(95), ContextLengthExceeded),
    ]
    for ids, kind in faults:
        with pytest.raises(kind):
            await answers(live, [request(ids)])


def test_networks_that_the_engine_cannot_compute_are_refused_by_name() -> None:
    windows = ModelConfig(**SHAPE, family="mistral", layer_windows=(8, 8))
    with pytest.raises(InvalidInput, match="sliding windows"):
        NativeLiveEngine(Decoder(windows))
    with pytest.raises(InvalidInput, match="other libraries"):
        NativeLiveEngine(torch.nn.Linear(2, 2))
