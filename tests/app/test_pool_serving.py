"""The home's models by name: only the project's own, found without the database, never by path."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest

from bessemer.app import models
from bessemer.app.chat import EngineFigures, ModelNotFound, list_models, respond
from bessemer.app.embeddings import EmbedRequest, embed
from bessemer.app.models import NamedModel
from bessemer.app.platform import Platform
from bessemer.app.pool_serving import PoolServing
from bessemer.core.errors import EngineLoading, InvalidInput
from bessemer.core.principal import Principal
from bessemer.core.protocols import ChatRequest, Message
from bessemer.text.bpe import train_bpe
from tests.fakes import FakeEngine
from tests.models.bert_folder import write_bert
from tests.unreachable import unreachable

HI: list[Message] = [{"role": "user", "content": "Hi"}]


class FakePool:
    """One `FakeEngine` for every model, which says the model's name is loaded."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.fault = fault
        self.engines: dict[str, FakeEngine] = {}
        self.names: dict[str, str] = {}

    def engine(self, model: NamedModel) -> FakeEngine:
        if self.fault is not None:
            raise self.fault
        self.names[model.digest] = model.name
        return self.engines.setdefault(
            model.digest, FakeEngine([5, 6], context_length=77, digest=model.digest)
        )

    def status(self) -> list[dict[str, Any]]:
        return [
            {"name": name, "digest": digest, "state": "ready", "error": None}
            for digest, name in self.names.items()
        ]

    async def figures(self) -> list[EngineFigures]:
        return []


def make_model(platform: Platform, owner: Principal, name: str, template: str | None) -> NamedModel:
    folder = platform.artifacts.workspace()
    train_bpe(["hello world"], 270, folder)
    (folder / "config.json").write_text(json.dumps({"name": name}))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    artifact = platform.artifacts.put(folder, kind="model", name=name, licence="Apache-2.0")
    return models.register(platform, owner, name, artifact)


def request(**fields: Any) -> ChatRequest:
    return ChatRequest(request_id="r", **fields)


def finish(serving: PoolServing, who: Principal, model: str, **fields: Any) -> str | None:
    async def run() -> str | None:
        deltas = [d async for d in respond(serving, who, model, request(**fields))]
        return deltas[-1].finish_reason

    return asyncio.run(run())


def test_a_model_answers_by_name_and_by_digest_with_its_own_context(
    platform: Platform, owner: Principal
) -> None:
    model = make_model(platform, owner, "tiny", "{{ messages[0].content }}")
    pool = FakePool()
    serving = PoolServing(platform, pool)
    for name in ("tiny", model.digest):
        assert finish(serving, owner, name, messages=HI) == "stop"
    first = pool.engines[model.digest].requests[0]
    assert len(first.prompt_ids) + first.max_tokens == 77


def test_a_key_that_may_only_chat_needs_no_right_to_list(
    platform: Platform, owner: Principal
) -> None:
    make_model(platform, owner, "tiny", "x")
    narrow = Principal(owner.org_id, owner.project_id, owner.owner_id, frozenset({"chat"}))
    assert finish(PoolServing(platform, FakePool()), narrow, "tiny", messages=HI) == "stop"


def test_paths_and_other_projects_names_are_no_models(
    platform: Platform, owner: Principal, stranger: Principal
) -> None:
    model = make_model(platform, owner, "tiny", "x")
    pool = FakePool()
    serving = PoolServing(platform, pool)
    for who, name in [
        (owner, str(model.path)),
        (owner, f"./{model.path.name}"),
        (owner, "nope"),
        (owner, ""),
        (stranger, "tiny"),
        (stranger, model.digest),
    ]:
        with pytest.raises(ModelNotFound):
            finish(serving, who, name, messages=HI)
    # What one project has just asked for is not found by another in what is remembered.
    assert finish(serving, owner, "tiny", messages=HI) == "stop"
    with pytest.raises(ModelNotFound):
        finish(serving, stranger, "tiny", messages=HI)


def test_a_name_just_found_is_not_looked_up_again(platform: Platform, owner: Principal) -> None:
    make_model(platform, owner, "tiny", "x")
    serving = PoolServing(platform, FakePool())

    async def ask() -> None:
        async for _ in respond(serving, owner, "tiny", request(messages=HI)):
            pass

    async def run() -> None:
        await ask()
        with unreachable(platform.db):
            await ask()

    asyncio.run(run())


def test_a_model_without_a_template_completes_and_says_why_it_does_not_chat(
    platform: Platform, owner: Principal
) -> None:
    make_model(platform, owner, "base", None)
    serving = PoolServing(platform, FakePool())
    assert finish(serving, owner, "base", prompt="hello") == "stop"
    with pytest.raises(InvalidInput, match="no chat template"):
        finish(serving, owner, "base", messages=HI)


def test_an_encoder_makes_vectors_and_says_why_it_does_not_chat(
    platform: Platform, owner: Principal
) -> None:
    folder = write_bert(platform.artifacts.workspace())
    artifact = platform.artifacts.put(folder, kind="model", name="vectors")
    models.register(platform, owner, "vectors", artifact)
    serving = PoolServing(platform, FakePool())
    found = asyncio.run(embed(serving, owner, "vectors", EmbedRequest(inputs=["a man", [5, 6]])))
    assert found.vectors[1] == [math.cos(11), math.sin(11)]
    with pytest.raises(InvalidInput, match="vectors is an encoder"):
        finish(serving, owner, "vectors", messages=HI)
    with pytest.raises(ModelNotFound):
        asyncio.run(embed(serving, owner, "nope", EmbedRequest(inputs=["a"])))


def test_an_engine_that_loads_too_long_says_so(platform: Platform, owner: Principal) -> None:
    make_model(platform, owner, "tiny", "x")
    with pytest.raises(EngineLoading):
        finish(PoolServing(platform, FakePool(EngineLoading("60 s"))), owner, "tiny", messages=HI)


def test_models_are_listed_with_the_state_of_their_engines(
    platform: Platform, owner: Principal, stranger: Principal
) -> None:
    make_model(platform, owner, "a", "x")
    make_model(platform, owner, "b", "x")
    serving = PoolServing(platform, FakePool())
    assert serving.health() == []
    finish(serving, owner, "b", messages=HI)
    assert [(m.id, m.state) for m in list_models(serving, owner)] == [
        ("a", "stopped"),
        ("b", "ready"),
    ]
    assert all(m.created > 1_700_000_000 for m in list_models(serving, owner))
    assert [(h.id, h.state) for h in serving.health()] == [("b", "ready")]
    assert list_models(serving, stranger) == []
