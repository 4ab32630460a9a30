"""Adapters are brought in for a base, found by name, and served by the base's engine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file

from bessemer.app import jobs
from bessemer.app.adapted_engine import TRIES, AdaptedEngine
from bessemer.app.adapters import (
    FILES,
    NamedAdapter,
    base_of,
    find_adapter,
    find_served,
    list_adapters,
    pull_adapter,
)
from bessemer.app.chat import ModelNotFound, list_models, respond
from bessemer.app.embeddings import EmbedRequest, embed
from bessemer.app.merging import merge
from bessemer.app.models import find_model, register
from bessemer.app.platform import Platform
from bessemer.app.pool_serving import PoolServing
from bessemer.app.pull import pull
from bessemer.app.quantizing import quantize
from bessemer.app.recording import Recorder
from bessemer.core.adapters import base_of as named_base
from bessemer.core.errors import (
    AdapterNotLoaded,
    BessemerError,
    Conflict,
    IntegrityError,
    InvalidInput,
    NotFound,
    UnsafeWeights,
)
from bessemer.core.principal import Principal
from bessemer.core.protocols import GenerateRequest
from bessemer.models.adapter import WEIGHTS
from tests.app.test_pool_serving import HI, FakePool, request
from tests.fakes import FakeEngine
from tests.inference.adapting import write_adapter
from tests.tiny.world import write_model


@pytest.fixture
def base(platform: Platform, owner: Principal, tmp_path: Path) -> Path:
    pull(platform, owner, str(write_model(tmp_path / "base")), licence="Apache-2.0")
    return tmp_path / "base"


def test_an_adapter_is_found_like_a_model_and_knows_its_base(
    platform: Platform, owner: Principal, stranger: Principal, base: Path, tmp_path: Path
) -> None:
    folder = write_adapter(base, tmp_path / "mine")
    (folder / "optimizer.pt").write_bytes(b"what lies beside it stays there")
    found = pull_adapter(platform, owner, folder, "base", licence="MIT")
    assert found.base == find_model(platform, owner, "base")
    assert (found.name, found.artifact.kind, found.artifact.licence) == ("mine", "adapter", "MIT")
    assert found.artifact.parents == (found.base.digest,)
    assert named_base(found.path) == found.base.digest
    assert {path.name for path in found.path.iterdir()} == {*FILES, "base.json"}
    for text in ("mine", found.digest, found.digest.removeprefix("sha256:")[:12]):
        assert find_served(platform, owner, text) == found
    assert list_adapters(platform, owner) == [found]
    assert base_of(found) == base_of(found.base) == found.base
    assert list_adapters(platform, stranger) == []
    with pytest.raises(NotFound, match="there is no model 'mine'"):
        find_served(platform, stranger, "mine")


def test_the_same_matrices_for_another_base_are_another_adapter(
    platform: Platform, owner: Principal, base: Path, tmp_path: Path
) -> None:
    pull(platform, owner, str(write_model(tmp_path / "other", seed=2)))
    folder = write_adapter(base, tmp_path / "mine")
    one = pull_adapter(platform, owner, folder, "base")
    two = pull_adapter(platform, owner, folder, "other", name="two")
    assert one.digest != two.digest
    assert (one.base.name, two.base.name) == ("base", "other")


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_an_adapter_from_elsewhere_is_not_brought_in_for_a_base_that_was_rescaled(
    kind: Literal["int8", "int4"], platform: Platform, owner: Principal, base: Path, tmp_path: Path
) -> None:
    folder = write_adapter(base, tmp_path / "mine")
    quantized = quantize(platform, owner, "base", kind).model
    assert quantized is not None
    if kind == "int4":
        assert pull_adapter(platform, owner, folder, quantized.name).base.name == "base-int4"
        return
    parent = find_model(platform, owner, "base").digest
    with pytest.raises(InvalidInput, match=r"base-int8 is int8: .* rescaled") as told:
        pull_adapter(platform, owner, folder, quantized.name)
    assert f"--base {parent[:19]}," in str(told.value.next_step)
    assert find_model(platform, owner, parent[:19]).digest == parent


def test_what_is_no_adapter_of_the_base_is_not_brought_in(
    platform: Platform, owner: Principal, base: Path, tmp_path: Path
) -> None:
    narrow = write_adapter(base, tmp_path / "narrow", rank=2)
    pickled = write_adapter(base, tmp_path / "pickled")
    torch.save(load_file(pickled / WEIGHTS), pickled / "adapter_model.bin")
    (pickled / WEIGHTS).unlink()
    thin = platform.artifacts.workspace()
    config = (base / "config.json").read_text()
    (thin / "config.json").write_text(config.replace("64", "32"))
    register(platform, owner, "thin", platform.artifacts.put(thin, kind="model", name="thin"))
    before = sorted(platform.artifacts.root.iterdir())

    def refused(error: type[BessemerError], says: str, *words: Any, **more: Any) -> None:
        with pytest.raises(error, match=says):
            pull_adapter(platform, owner, *words, **more)
        assert sorted(platform.artifacts.root.iterdir()) == before

    refused(IntegrityError, r"_proj is \(\d+, \d+\) in it, and \(\d+, \d+\) here", narrow, "thin")
    refused(UnsafeWeights, "pickled", pickled, "base")
    refused(InvalidInput, "needs its base", narrow, None)
    refused(NotFound, "there is no model 'nope'", narrow, "nope")
    refused(Conflict, "base is a model's name", narrow, "base", name="base")
    refused(IntegrityError, "is no adapter", tmp_path / "nothing", "base")


def test_an_adapter_whose_base_is_gone_says_so_and_is_not_listed(
    platform: Platform, owner: Principal, base: Path, tmp_path: Path
) -> None:
    found = pull_adapter(platform, owner, write_adapter(base, tmp_path / "mine"), "base")
    found.base.path.with_suffix(".json").unlink()
    with pytest.raises(Conflict, match=f"is an adapter of {found.base.digest}, which is not"):
        find_adapter(platform, owner, "mine")
    assert list_adapters(platform, owner) == []


def test_a_run_with_lora_leaves_its_adapter_beside_its_model(
    platform: Platform, owner: Principal, base: Path, tmp_path: Path
) -> None:
    model = find_model(platform, owner, "base")
    plan = {"model": {"digest": model.digest}, "dataset": {"digest": "sha256:d"}}
    run = jobs.submit(platform, owner, "train", "taught", "", plan)
    write_model(run.output / "model", seed=3)
    write_adapter(base, run.output / "adapter")
    log = run.open_log()
    log.write("state", state="succeeded")
    log.close()
    jobs.harvest(platform)
    (adapter,) = list_adapters(platform, owner)
    assert (adapter.name, adapter.base) == ("taught-adapter", model)
    assert adapter.artifact.licence == "Apache-2.0"
    assert adapter.artifact.provenance["run_id"] == run.run_id
    assert adapter.artifact.provenance["dataset"] == "sha256:d"
    assert jobs.harvest(platform) == []
    # Its name will do to merge it, too, but only into its own base.
    assert merge(platform, owner, "base", "taught-adapter", name="m").artifact.parents == (
        model.digest,
        adapter.digest,
    )
    pull(platform, owner, str(write_model(tmp_path / "other", seed=2)))
    with pytest.raises(Conflict, match="trained its adapter on"):
        merge(platform, owner, "other", "taught-adapter")


async def _answers(serving: PoolServing, who: Principal, model: str) -> str | None:
    reply = respond(serving, who, model, request(messages=HI))
    assert [delta async for delta in reply][-1].finish_reason == "stop"
    return reply.model_digest


def test_a_server_that_records_its_answers_refuses_adapters_by_name(
    platform: Platform, owner: Principal, base: Path, tmp_path: Path
) -> None:
    pull_adapter(platform, owner, write_adapter(base, tmp_path / "x"), "base")
    serving = PoolServing(platform, FakePool(), Recorder(platform))
    with pytest.raises(InvalidInput, match=r"x is an adapter, and .* deterministic") as told:
        asyncio.run(_answers(serving, owner, "x"))
    assert told.value.next_step == "serve a merged model: bessemer merge base x"


def test_an_adapter_is_served_by_its_bases_engine_and_loaded_when_it_is_missing(
    platform: Platform, owner: Principal, stranger: Principal, base: Path, tmp_path: Path
) -> None:
    adapters = {
        name: pull_adapter(
            platform, owner, write_adapter(base, tmp_path / name, rank=rank), "base"
        )
        for rank, name in enumerate("xyz", 1)
    }  # fmt: skip
    pool = FakePool()
    serving = PoolServing(platform, pool)

    async def run() -> None:
        for name in ("x", "base", "x", "y", "z", "x", adapters["y"].digest):
            found = adapters.get(name) or find_served(platform, owner, name)
            assert await _answers(serving, owner, name) == found.digest
        vectors = await embed(serving, owner, "z", EmbedRequest(inputs=["a", "b"]))
        assert len(vectors.vectors) == 2
        with pytest.raises(ModelNotFound):
            await _answers(serving, stranger, "x")
        only_chat = Principal(owner.org_id, owner.project_id, owner.owner_id, frozenset({"chat"}))
        await _answers(PoolServing(platform, FakePool()), only_chat, "x")

    asyncio.run(run())
    (engine,) = pool.engines.values()
    asked = [request.adapter for request in engine.requests]
    x, y, z = (adapters[name].digest for name in "xyz")
    assert asked == [x, None, x, y, z, x, y]
    # Two at a time: x, y, z, x again, y again, and z for its vectors.
    assert engine.loads == 6
    assert engine.adapters[z] == adapters["z"].path
    listed = [(m.id, m.state, m.parent) for m in list_models(serving, owner)]
    assert listed == [("base", "ready", None), *((n, "ready", "base") for n in "xyz")]


async def test_an_engine_that_never_keeps_it_ends_the_request_with_the_reason() -> None:
    engine = FakeEngine(most_adapters=0)
    adapted = AdaptedEngine(engine, "x", Path("folder"))
    asked = GenerateRequest(request_id="r", prompt_ids=[1], max_tokens=3)
    with pytest.raises(AdapterNotLoaded):
        _ = [chunk async for chunk in adapted.generate(asked)]
    assert engine.loads == TRIES - 1
    with pytest.raises(AdapterNotLoaded):
        await adapted.score([1, 2])
    assert (await adapted.info()).model_digest == (await engine.info()).model_digest
    kept = AdaptedEngine(FakeEngine(), "x", Path("folder"))
    assert len(await kept.score([1, 2])) == 1


def test_a_models_name_means_the_model(
    platform: Platform, owner: Principal, base: Path, tmp_path: Path
) -> None:
    found = pull_adapter(platform, owner, write_adapter(base, tmp_path / "mine"), "base")
    register(platform, owner, "mine", found.base.artifact)
    assert not isinstance(find_served(platform, owner, "mine"), NamedAdapter)
    assert list_adapters(platform, owner) == []
