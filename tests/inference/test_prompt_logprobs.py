"""A prompt's log-probabilities, from the prefill that the answer needs anyway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bessemer.core.errors import InvalidInput
from bessemer.core.protocols import TokenChunk
from tests.inference.conftest import CONFIGS, engine_over
from tests.inference.test_engine import collect, full_logits, ids_of, request, tokens_of

Tiny = Callable[[str], Path]


def check(folder: Path, ids: list[int], chunks: list[TokenChunk], top: int) -> None:
    told = chunks[0].prompt_logprobs
    assert told is not None and len(told) == len(ids) - 1
    assert all(chunk.prompt_logprobs is None for chunk in chunks[1:])
    logprobs_TV = torch.log_softmax(full_logits(folder, ids), -1)
    for place, one in enumerate(told):
        row = logprobs_TV[place]
        assert one.id == ids[place + 1]
        assert one.logprob == pytest.approx(float(row[one.id]), abs=1e-8)
        assert one.rank == int((row > row[one.id]).sum()) + 1
        best = row.topk(top)
        assert [id_ for id_, _ in one.top] == best.indices.tolist()
        assert [value for _, value in one.top] == pytest.approx(best.values.tolist(), abs=1e-8)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
async def test_they_are_those_of_a_full_forward_and_change_no_answer(name: str, tiny: Tiny) -> None:
    assert name in CONFIGS
    prompts = [ids_of(n, n) for n in (1, 5, 40, 71, 22, 16)]
    async with engine_over(tiny(name), chunk_tokens=16) as engine:
        plain = await asyncio.gather(*(collect(engine, request(ids, 6)) for ids in prompts))
        for _ in range(2):  # the second time the prefix cache knows all of them
            asked = [request(ids, 6, prompt_logprobs=3, top_logprobs=1) for ids in prompts]
            answers = await asyncio.gather(*(collect(engine, one) for one in asked))
            for ids, chunks, other in zip(prompts, answers, plain, strict=True):
                check(tiny(name), ids, chunks, 3)
                assert tokens_of(chunks) == tokens_of(other)
                assert chunks[-1].cached_tokens == 0
        # What was read is of use to who comes later.
        later = await collect(engine, request(prompts[3], 2))
        assert later[-1].cached_tokens == 64  # whole blocks


async def test_reading_alone_makes_no_token(tiny: Tiny) -> None:
    ids = ids_of(96)  # the whole context
    async with engine_over(tiny("llama"), chunk_tokens=16) as engine:
        chunks = await collect(engine, request(ids, 0, prompt_logprobs=0))
        check(tiny("llama"), ids, chunks, 0)
        last = chunks[-1]
        assert (len(chunks), last.finish_reason, last.completion_tokens) == (1, "length", 0)
        with pytest.raises(InvalidInput, match="max_tokens"):
            await collect(engine, request(ids_of(3), 0))
