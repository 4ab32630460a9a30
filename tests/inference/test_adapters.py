"""Each sequence is computed with its own adapter as with the merged model, whoever is beside it."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import peft
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from bessemer.core.adapters import BASE, write_base
from bessemer.core.errors import (
    AdapterNotLoaded,
    BessemerError,
    Busy,
    Conflict,
    IntegrityError,
    InvalidInput,
    UnsafeWeights,
)
from bessemer.core.protocols import Sampling
from bessemer.inference.adapter_groups import FEW_ROWS, grouped
from bessemer.inference.adapter_shelf import Pair, Place, Shelf
from bessemer.inference.adapters import MANY_ROWS, Adapters
from bessemer.inference.cache import KVCache
from bessemer.inference.engine import NativeEngine
from bessemer.inference.prepared import PreparedDecoder
from bessemer.inference.sequence import EngineSequence
from bessemer.inference.stepper import Stepper
from bessemer.models.adapter import CONFIG, WEIGHTS
from bessemer.models.folder import load_decoder
from bessemer.models.quantizing import quantize_folder
from bessemer.models.scheme import Kind
from tests.inference.adapting import logprobs, merged, score, write_adapter
from tests.inference.conftest import CONFIGS, VOCABULARY, engine_over
from tests.inference.test_engine import collect, ids_of, request, tokens_of
from tests.inference.test_speculation import same
from tests.models.bert_folder import write_bert

Tiny = Callable[[str], Path]
TARGETS = {"gpt2": (["c_attn"], ["c_fc", "c_proj"]), "mixtral": (["q_proj"], ["o_proj", "v_proj"])}


def three(base: Path, name: str, folder: Path) -> dict[str | None, Path | None]:
    """Adapters of unlike shapes, and none."""
    one, other = TARGETS.get(name, (["q_proj", "v_proj", "down_proj"], ["k_proj", "up_proj"]))
    return {
        None: None,
        "all": write_adapter(base, folder / "all", rank=3, seed=1),
        "same": write_adapter(base, folder / "same", rank=3, seed=2),
        "one": write_adapter(base, folder / "one", rank=4, seed=3, targets=one),
        "other": write_adapter(base, folder / "other", rank=1, seed=4, targets=other),
    }


class Heard(NamedTuple):
    """A sequence, and what it is told."""

    sequence: EngineSequence
    told: list[Any]


async def load(engine: NativeEngine, adapters: dict[str | None, Path | None]) -> None:
    for digest, folder in adapters.items():
        if digest is not None and folder is not None:
            await engine.load_adapter(digest, folder)


@pytest.mark.parametrize("name", CONFIGS)
async def test_every_sequence_of_a_batch_is_as_from_its_merged_model(
    name: str, tiny: Tiny, tmp_path: Path
) -> None:
    base = tiny(name)
    adapters = three(base, name, tmp_path)
    asked = [(a, ids_of(5 + 8 * i, i)) for i, a in enumerate([*adapters, None, *adapters, "all"])]
    async with engine_over(base, chunk_tokens=48, max_running=8) as engine:
        await load(engine, adapters)
        scores = await asyncio.gather(*(engine.score(ids, adapter=a) for a, ids in asked))
        answers = await asyncio.gather(
            *(
                collect(engine, request(ids[:30], 12, adapter=a, top_logprobs=VOCABULARY))
                for a, ids in asked
            )
        )
        vector = await engine.embed(asked[1][1], adapter=asked[1][0])
        assert await engine.embed(asked[1][1]) != pytest.approx(vector, abs=1e-3)
    models = {adapter: merged(base, folder) for adapter, folder in adapters.items()}
    for (adapter, ids), found, chunks in zip(asked, scores, answers, strict=True):
        assert found == pytest.approx(score(models[adapter], ids), abs=1e-8)
        drawn = tokens_of(chunks)
        expected = logprobs(models[adapter], ids[:30] + drawn)[len(ids[:30]) - 1 : -1]
        assert drawn == expected.argmax(-1).tolist()
        told = [one for chunk in chunks for one in chunk.logprobs or ()]
        for row, one in zip(expected, told, strict=True):
            for token, logprob in one.top:
                assert logprob == pytest.approx(float(row[token]), abs=1e-8)


async def test_pefts_folder_computes_what_peft_computes(tiny: Tiny, tmp_path: Path) -> None:
    transformers.set_seed(1)
    model = peft.get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(tiny("llama"), dtype=torch.float32),
        peft.LoraConfig(
            task_type="CAUSAL_LM", r=4, lora_alpha=8, use_rslora=True, target_modules="all-linear",
            rank_pattern={"up_proj": 2}, alpha_pattern={r"layers\.0\..*q_proj": 20},
        ),
    )  # fmt: skip
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, 0, 0.2)
    model.save_pretrained(tmp_path)
    ids = ids_of(40)
    with torch.no_grad():
        expected = torch.log_softmax(model.double()(torch.tensor([ids])).logits[0], -1)
    async with engine_over(tiny("llama")) as engine:
        await engine.load_adapter("theirs", tmp_path)
        found = await engine.score(ids, adapter="theirs")
    assert found == pytest.approx([float(expected[i - 1, ids[i]]) for i in range(1, 40)], abs=1e-6)


def stepper_over(base: Path, dtype: torch.dtype, budget_bytes: int) -> Stepper:
    """An engine's steps without its thread, so that nothing moves by itself."""
    decoder = load_decoder(base, dtype)
    adapters = Adapters(decoder, dtype, base_digest="b", budget_bytes=budget_bytes)
    model = PreparedDecoder(decoder, adapters)
    cache = KVCache(model.config, dtype, rows=8, context_length=96, kv_bytes=1 << 20)
    return Stepper(model, cache, max_waiting=99, chunk_tokens=48, adapters=adapters)


def admitted(stepper: Stepper, adapter: str | None, ids: list[int], count: int = 10) -> Heard:
    """A sequence that waits, and what it is told."""
    heard: list[Any] = []
    asked = request(ids, count, adapter=adapter, top_logprobs=VOCABULARY)
    sequence = EngineSequence.for_tokens(asked, lambda _, body: heard.append(body))
    stepper.admit(sequence)
    return Heard(sequence, heard)


def stepped(
    base: Path, dtype: torch.dtype, plans: list[tuple[str | None, list[int]]], folder: Path | None
) -> list[list[Any]]:
    """Each sequence's chunks, of equal batches whatever the clock says; `folder` of adapter "x"."""
    stepper = stepper_over(base, dtype, 1 << 30)
    if folder is None:  # an engine that has nothing of adapters in it
        model = PreparedDecoder(load_decoder(base, dtype))
        cache = stepper.scheduler.cache
        stepper = Stepper(model, cache, max_waiting=99, chunk_tokens=48)
    else:
        stepper.load_adapter("x", folder)
    told = [admitted(stepper, adapter, ids).told for adapter, ids in plans]
    while stepper.step():
        pass
    return told


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_sequences_without_an_adapter_have_the_bits_of_an_engine_without_adapters(
    dtype: torch.dtype, tiny: Tiny, tmp_path: Path
) -> None:
    folder = write_adapter(tiny("llama"), tmp_path)
    plans = [("x" if i % 2 else None, ids_of(4 + 9 * i, i)) for i in range(7)]
    mixed = stepped(tiny("llama"), dtype, plans, folder)
    alone = stepped(tiny("llama"), dtype, [(None, ids) for _, ids in plans], None)
    for (adapter, _), found, expected in zip(plans, mixed, alone, strict=True):
        assert (found == expected) == (adapter is None)


async def test_bf16_is_as_close_as_the_merged_model_in_bf16(tiny: Tiny, tmp_path: Path) -> None:
    folder = write_adapter(tiny("llama"), tmp_path)
    texts = [ids_of(MANY_ROWS + 20, 1), ids_of(30, 2)]  # products of both kinds
    async with engine_over(tiny("llama"), precision="bf16") as engine:
        await engine.load_adapter("x", folder)
        found = [await engine.score(ids, adapter="x") for ids in texts]
    exact, rounded = merged(tiny("llama"), folder), merged(tiny("llama"), folder).bfloat16()

    def gap(scores: list[list[float]]) -> float:
        truth = [score(exact, ids) for ids in texts]
        pairs = zip(itertools.chain(*scores), itertools.chain(*truth), strict=True)
        gaps = [abs(a - b) for a, b in pairs]
        return sum(gaps) / len(gaps)

    assert gap(found) < 1.5 * gap([score(rounded, ids) for ids in texts])


@pytest.mark.parametrize("drafted", [False, True])
@pytest.mark.parametrize("name", ["llama", "mixtral", "gpt2"])
async def test_all_tokens_of_a_guess_go_through_their_sequences_adapter(
    name: str, drafted: bool, tiny: Tiny, tmp_path: Path
) -> None:
    """One batch, greedy and sampled with each adapter and none; of three tokens, so that answers
    repeat themselves. A draft guesses without adapters."""
    base = tiny(name)
    adapters = three(base, name, tmp_path)
    bias = dict.fromkeys(range(3), 60.0)
    greedy = Sampling(temperature=0.0, logit_bias=bias)
    ways = (greedy, Sampling(temperature=0.7, seed=5, logit_bias=bias))
    asked = [
        request(ids_of(9, n), 50, adapter=adapter, top_logprobs=2, sampling=sampling)
        for n, (adapter, sampling) in enumerate(itertools.product(adapters, ways))
    ]
    answers = []
    for guesses in ("off", base if drafted else "ngram"):
        async with engine_over(base, guesses=guesses, chunk_tokens=96, max_running=10) as engine:
            await load(engine, adapters)
            answers.append(await asyncio.gather(*(collect(engine, one) for one in asked)))
    for plain, found in zip(*answers, strict=True):
        same(found, plain)
    models = {adapter: merged(base, folder) for adapter, folder in adapters.items()}
    right = dict.fromkeys(adapters, 0)
    for one, chunks in zip(asked, answers[1], strict=True):
        right[one.adapter] += sum(max(0, len(chunk.ids) - 1) for chunk in chunks)
        if one.sampling is greedy:
            drawn = tokens_of(chunks)
            expected = logprobs(models[one.adapter], one.prompt_ids + drawn)[:, : len(bias)]
            assert drawn == expected[len(one.prompt_ids) - 1 : -1].argmax(-1).tolist()
    assert min(right.values()) > 0 or (drafted and sum(right.values()) > right[None])


async def test_a_prompts_log_probabilities_are_its_adapters(tiny: Tiny, tmp_path: Path) -> None:
    folder = write_adapter(tiny("llama"), tmp_path)
    ids = ids_of(40)
    async with engine_over(tiny("llama"), chunk_tokens=16) as engine:
        await engine.load_adapter("x", folder)
        asked = [request(ids, 4, prompt_logprobs=0, adapter=adapter) for adapter in ("x", None)]
        answers = await asyncio.gather(*(collect(engine, one) for one in asked))
    for chunks, adapter in zip(answers, (folder, None), strict=True):
        told = chunks[0].prompt_logprobs
        assert told is not None
        expected = score(merged(tiny("llama"), adapter), ids)
        assert [one.logprob for one in told] == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("kind", ["int8", "int4"])
async def test_over_codes_it_is_near_the_one_over_the_numbers_they_stand_for(
    kind: Kind, tiny: Tiny, tmp_path: Path
) -> None:
    quantize_folder(tiny("wide"), tmp_path / kind, kind)
    folder = write_adapter(tmp_path / kind, tmp_path / "adapter")
    texts = [ids_of(MANY_ROWS + 20, 1), ids_of(30, 2), ids_of(5, 3)]  # products of all kinds
    exact, base = merged(tmp_path / kind, folder), merged(tmp_path / kind, None)
    truth = [score(exact, ids) for ids in texts]
    async with engine_over(tmp_path / kind, precision="fp64") as engine:
        await engine.load_adapter("x", folder)
        for ids, expected in zip(texts, truth, strict=True):
            assert await engine.score(ids, adapter="x") == pytest.approx(expected, abs=1e-8)
    async with engine_over(tmp_path / kind, precision="bf16") as engine:
        assert (await engine.info()).precision == kind
        await engine.load_adapter("x", folder)
        found = [await engine.score(ids, adapter="x") for ids in texts]

    def gap(scores: list[list[float]]) -> float:
        pairs = zip(itertools.chain(*scores), itertools.chain(*truth), strict=True)
        gaps = [abs(a - b) for a, b in pairs]
        return sum(gaps) / len(gaps)

    assert gap(found) < 0.2 * gap([score(base, ids) for ids in texts])


async def test_what_the_cache_remembers_is_one_adapters(tiny: Tiny, tmp_path: Path) -> None:
    adapters = {a: write_adapter(tiny("llama"), tmp_path / a, seed=ord(a)) for a in "xy"}
    ids = ids_of(40)
    async with engine_over(tiny("llama"), max_running=4) as engine:
        for digest, folder in adapters.items():
            await engine.load_adapter(digest, folder)
        order = [None, "x", "y", "x", None, "y"]
        cached = [
            (await collect(engine, request(ids, 1, adapter=adapter)))[-1].cached_tokens
            for adapter in order
        ]
        assert cached == [0, 0, 0, 32, 32, 32]
        # Of rows that run beside each other as of what is remembered.
        other = ids_of(90, 5)
        asked = [request(other, 6, adapter=adapter) for adapter in order]
        answers = await asyncio.gather(*(collect(engine, one) for one in asked))
        scores = [await engine.score(ids, adapter=adapter) for adapter in order]
    for adapter, chunks in zip(order, answers, strict=True):
        drawn = tokens_of(chunks)
        expected = logprobs(merged(tiny("llama"), adapters[adapter] if adapter else None), other)
        assert drawn[0] == int(expected[-1].argmax())
    for adapter, found in zip(order, scores, strict=True):
        model = merged(tiny("llama"), adapters[adapter] if adapter else None)
        assert found == pytest.approx(score(model, ids), abs=1e-8)


def test_the_least_recently_used_makes_room_and_those_in_use_stay(
    tiny: Tiny, tmp_path: Path
) -> None:
    base = tiny("llama")
    folders = {name: write_adapter(base, tmp_path / name, seed=ord(name)) for name in "abcd"}
    with pytest.raises(InvalidInput, match=r"takes ([\d,]+) bytes; the engine has 1 ") as told:
        stepper_over(base, torch.float64, 1).load_adapter("a", folders["a"])
    size = int(told.value.message.split("takes ")[1].split(" ")[0].replace(",", ""))
    stepper = stepper_over(base, torch.float64, 2 * size)
    for name in "ab":
        stepper.load_adapter(name, folders[name])
    first = admitted(stepper, "a", ids_of(9))
    while stepper.step():
        pass
    stepper.load_adapter("c", folders["c"])
    assert stepper.adapters == ["a", "c"]
    (missing,) = admitted(stepper, "b", ids_of(9)).told
    assert isinstance(missing, AdapterNotLoaded)
    running, waiting = admitted(stepper, "a", ids_of(9)), admitted(stepper, "c", ids_of(60))
    stepper.step()
    with pytest.raises(Busy, match=r"2 adapters fill the engine's .* sequences use every one"):
        stepper.load_adapter("d", folders["d"])
    with pytest.raises(Conflict, match="sequences use the adapter a"):
        stepper.unload_adapter("a")
    waiting.sequence.cancelled = True
    stepper.load_adapter("d", folders["d"])
    assert stepper.adapters == ["a", "d"]
    while stepper.step():
        pass
    assert tokens_of(running.told) == tokens_of(first.told)
    stepper.unload_adapter("a")
    with pytest.raises(AdapterNotLoaded):
        stepper.unload_adapter("a")
    # A place that was another's holds nothing of it.
    stepper.load_adapter("b", folders["b"])
    found = admitted(stepper, "b", ids_of(30))
    while stepper.step():
        pass
    drawn = tokens_of(found.told)
    expected = logprobs(merged(base, folders["b"]), ids_of(30) + drawn)[29:-1]
    assert drawn == expected.argmax(-1).tolist()


def _shapes(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    key = next(key for key in tensors if "layers.1.self_attn.k_proj.lora_B" in key)
    save_file(tensors | {key: torch.zeros(32, 4)}, folder / WEIGHTS)


def _rank(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"r": 0}))
    tensors = {
        key: value[:0] if "lora_A" in key else value[:, :0].contiguous()
        for key, value in load_file(folder / WEIGHTS).items()
    }
    save_file(tensors, folder / WEIGHTS)


def _pickle(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


def _infinite(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    next(iter(tensors.values()))[0, 0] = float("inf")
    save_file(tensors, folder / WEIGHTS)


def _head(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    pair = {"A": torch.zeros(4, 32), "B": torch.zeros(VOCABULARY, 4)}
    head = {f"base_model.model.lm_head.lora_{k}.weight": v for k, v in pair.items()}
    save_file(tensors | head, folder / WEIGHTS)


REFUSED: dict[str, tuple[Callable[[Path], object], type[BessemerError], str]] = {
    "wrong shapes": (
        _shapes, IntegrityError, r"layers\.1\.self_attn\.k_proj is \(32, 32\) in it, and \(16, 32\)"
    ),
    "another base": (
        lambda folder: write_base(folder, "sha256:other"), Conflict,
        "belongs to the base sha256:other; this engine serves sha256:test",
    ),
    "rank 0": (_rank, IntegrityError, "says rank 0"),
    "no rank": (
        lambda f: (f / CONFIG).write_text('{"peft_type": "LORA"}'), IntegrityError, "has no rank"
    ),
    "patterns": (
        lambda f: (f / CONFIG).write_text(
            '{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "rank_pattern": {"(": 2}}'
        ), IntegrityError, "has no rank",
    ),
    "pickle": (_pickle, UnsafeWeights, "pickled weights"),
    "not finite": (_infinite, IntegrityError, "not finite"),
    "a head": (_head, IntegrityError, r"lm_head is \(97, 32\) in it, and no such layer here"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), IntegrityError, "no whole"),
    "nothing": (shutil.rmtree, IntegrityError, "is no adapter"),
    "a broken base": (lambda f: (f / BASE).write_text("[]"), IntegrityError, "does not name a"),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
async def test_what_cannot_be_served_is_refused_and_leaves_the_engine_as_it_was(
    fault: str, tiny: Tiny, tmp_path: Path
) -> None:
    spoil, error, says = REFUSED[fault]
    folder = write_adapter(tiny("llama3"), tmp_path / "adapter")
    async with engine_over(tiny("llama3")) as engine:
        before = await engine.score(ids_of(9))
        spoil(folder)
        with pytest.raises(error, match=says):
            await engine.load_adapter("x", folder)
        assert list((await engine.info()).adapters) == []
        assert await engine.score(ids_of(9)) == pytest.approx(before, abs=1e-9)


async def test_an_encoder_takes_no_adapters(tmp_path: Path) -> None:
    async with engine_over(write_bert(tmp_path), precision="fp32") as engine:
        with pytest.raises(InvalidInput, match="is an encoder"):
            await engine.load_adapter("x", tmp_path)
        with pytest.raises(AdapterNotLoaded):
            await engine.embed([1, 2], adapter="x")
        with pytest.raises(AdapterNotLoaded):
            await engine.unload_adapter("x")


async def test_a_deterministic_engine_takes_no_adapters(tiny: Tiny, tmp_path: Path) -> None:
    folder = write_adapter(tiny("llama"), tmp_path)
    async with engine_over(tiny("llama"), deterministic=True) as engine:
        with pytest.raises(InvalidInput, match="this engine is deterministic; it has no adapters"):
            await engine.load_adapter("x", folder)
        with pytest.raises(InvalidInput, match="it has no adapters"):
            await collect(engine, request(ids_of(9), adapter="x"))


@given(
    st.lists(
        st.tuples(st.sampled_from(range(-1, 7)), st.integers(1, FEW_ROWS + 3)),
        min_size=1, max_size=12,
    )
)  # fmt: skip
def test_groups_add_to_each_row_its_own_product_and_nothing_else(
    spans: list[tuple[int, int]],
) -> None:
    generator = torch.Generator().manual_seed(0)

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    adapters = [Pair(made(2, 5), made(3, 2)) for _ in range(7)]
    shelves = [Shelf([adapters[0]], 4), Shelf([adapters[0]], 4)]
    places = [shelves[i // 4].put([pair]) for i, pair in enumerate(adapters)]
    owners = [owner for owner, count in spans for _ in range(count)]
    x_TI, y_TO = made(len(owners), 5), made(len(owners), 3)
    expected = y_TO.clone()
    rows: dict[Place, list[int]] = {}
    for row, owner in enumerate(owners):
        if owner >= 0:
            rows.setdefault(places[owner], []).append(row)
            expected[row] += adapters[owner].b_OR @ (adapters[owner].a_RI @ x_TI[row])
    for group in grouped(rows):
        stack = group.shelf.stacks[0]
        assert stack is not None
        a, b = stack.a_PRI[group.places], stack.b_POR[group.places]
        group.add(y_TO, torch.bmm(torch.bmm(group.take(x_TI), a.mT), b.mT))
    torch.testing.assert_close(y_TO, expected, rtol=0, atol=1e-12)
