"""Vectors from an engine: an encoder's are its network's, a decoder's its hidden states'."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bessemer.core.engine_client import EngineClient
from bessemer.core.errors import ContextLengthExceeded, EngineUnavailable, InvalidInput
from bessemer.core.protocols import Pooling
from bessemer.inference.encoding import STEP_TOKENS
from bessemer.inference.engine import NativeEngine
from bessemer.models.attention import PackedAttention, WholeAttention, positions
from bessemer.models.encoder import load_encoder
from bessemer.models.folder import load_decoder
from tests.inference.conftest import engine_over
from tests.inference.test_engine import ids_of, request
from tests.inference.test_worker import ready, worker
from tests.models.bert_folder import CONTEXT, write_bert

Tiny = Callable[[str], Path]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert") / "m")


def texts(count: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(1, CONTEXT + 1, (count,), generator=generator).tolist()
    return [torch.randint(0, 260, (n,), generator=generator).tolist() for n in lengths]


def pooled_alone(hidden_LD: Tensor, pooling: Pooling) -> list[float]:
    states = {"mean": hidden_LD.mean(0), "cls": hidden_LD[0], "last": hidden_LD[-1]}
    vector: list[float] = (states[pooling] / states[pooling].norm()).tolist()
    return vector


def vector_of(folder: Path, ids: list[int], pooling: Pooling = "mean") -> list[float]:
    encoder, lengths = load_encoder(folder, torch.float64), [len(ids)]
    with torch.no_grad():
        hidden = encoder(torch.tensor(ids), positions(lengths), WholeAttention(lengths))
    return pooled_alone(hidden, pooling)


async def test_many_texts_at_once_get_the_vectors_of_each_alone(bert: Path) -> None:
    asked = texts(120)
    assert sum(map(len, asked)) > STEP_TOKENS
    async with engine_over(bert) as engine:
        found = await asyncio.gather(*(engine.embed(ids) for ids in asked))
        info = await engine.info()
    assert (info.context_length, info.precision, info.waiting) == (CONTEXT, "fp64", 0)
    for ids, vector in list(zip(asked, found, strict=True))[::7]:
        assert vector == pytest.approx(vector_of(bert, ids), abs=1e-10)


async def test_a_client_with_many_texts_does_not_hold_up_one_with_a_single_text(
    bert: Path,
) -> None:
    done: list[str] = []

    async def ask(engine: NativeEngine, client: str) -> None:
        await engine.embed([7] * CONTEXT, client=client)
        done.append(client)

    async with engine_over(bert) as engine:
        clients = ["many"] * 400 + ["one"]
        await asyncio.gather(*(ask(engine, client) for client in clients))
    assert done.index("one") < 200


@pytest.mark.parametrize(("precision", "least"), [("fp32", 1 - 1e-6), ("bf16", 0.999)])
async def test_fewer_bits_give_nearly_the_same_direction(
    bert: Path, precision: str, least: float
) -> None:
    ids = texts(1)[0]
    async with engine_over(bert, precision=precision) as engine:
        found = await engine.embed(ids)
    likeness = sum(a * b for a, b in zip(found, vector_of(bert, ids), strict=True))
    assert least < likeness < 2 - least


async def test_the_models_own_pooling_and_another(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "m", pooling="cls_token")
    one, two = texts(2)
    async with engine_over(folder) as engine:
        own, mean = await asyncio.gather(engine.embed(one), engine.embed(two, "mean"))
        with pytest.raises(InvalidInput, match="pooling is mean or cls"):
            await engine.embed(one, "last")
    assert own == pytest.approx(vector_of(folder, one, "cls"), abs=1e-10)
    assert mean == pytest.approx(vector_of(folder, two, "mean"), abs=1e-10)


async def test_what_an_encoder_cannot_do_is_refused_with_the_numbers(bert: Path) -> None:
    async with engine_over(bert) as engine:
        with pytest.raises(InvalidInput, match="encoder"):
            async for _ in engine.generate(request([1, 2], 3)):
                pass
        with pytest.raises(InvalidInput, match="encoder"):
            await engine.score([1, 2])
        with pytest.raises(ContextLengthExceeded, match=f"{CONTEXT} tokens; the text has 49"):
            await engine.embed([1] * (CONTEXT + 1))
        with pytest.raises(InvalidInput, match="vocabulary of 260"):
            await engine.embed([260])
        with pytest.raises(InvalidInput, match="empty"):
            await engine.embed([])
        assert len(await engine.embed([1])) == 32


async def test_a_stopped_engine_leaves_nobody_waiting(bert: Path) -> None:
    async with engine_over(bert) as engine:
        waiting = [asyncio.ensure_future(engine.embed(ids)) for ids in texts(300)]
        await asyncio.sleep(0)
        await asyncio.to_thread(engine.close)
        done = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(one, (list, EngineUnavailable)) for one in done)


@pytest.mark.parametrize("pooling", [None, "mean", "last"])
async def test_a_decoders_vector_is_made_of_its_last_hidden_states(
    tiny: Tiny, pooling: Pooling | None
) -> None:
    ids, decoder = ids_of(40), load_decoder(tiny("llama"), torch.float64)
    with torch.no_grad():
        hidden = decoder(torch.tensor(ids), positions([40]), PackedAttention([40]))
    async with engine_over(tiny("llama"), chunk_tokens=16) as engine:
        found = await engine.embed(ids, pooling)
        with pytest.raises(InvalidInput, match="pooling is mean or last"):
            await engine.embed(ids, "cls")
    assert found == pytest.approx(pooled_alone(hidden, pooling or "mean"), abs=1e-10)


async def test_a_worker_serves_an_encoder_as_it_serves_a_decoder(
    bert: Path, tmp_path: Path
) -> None:
    async with worker(bert, tmp_path / "s", "--precision", "fp64") as process:
        await ready(process)
        client = await EngineClient.connect(tmp_path / "s")
        asked = texts(20)
        found = await asyncio.gather(*(client.embed(ids) for ids in asked))
        assert found[3] == pytest.approx(vector_of(bert, asked[3]), abs=1e-10)
        cls = await client.embed(asked[4], "cls")
        assert cls == pytest.approx(vector_of(bert, asked[4], "cls"), abs=1e-10)
        with pytest.raises(InvalidInput, match="cannot read"):
            await client.embed(asked[4], "median")  # type: ignore[arg-type]
        with pytest.raises(ContextLengthExceeded):
            await client.embed([1] * 99)
        await client.close()
