"""Partners by name: what the list takes, and how they are served beside the models here."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from bessemer.app.chat import ModelNotFound, list_models, respond
from bessemer.app.embeddings import Embedded, EmbedRequest, embed
from bessemer.app.platform import Platform
from bessemer.app.target_serving import TargetServing
from bessemer.app.targets import Target, add_target, read_targets, remove_target, targets_file
from bessemer.core.errors import Conflict, EngineUnavailable, InvalidInput, NotFound
from bessemer.core.principal import Principal
from bessemer.core.protocols import ChatRequest
from tests.app.test_pool_serving import make_model
from tests.fakes import FakeResponder, FakeServing
from tests.gateway.calling import KEY, app_of, running

NEAR = Target(url="http://127.0.0.1:8001/v1", model="m", key_env="NEAR_KEY")


class FakeEmbedder:
    """Vectors of a text's length."""

    async def embed(self, request: EmbedRequest) -> Embedded:
        return Embedded([[float(len(text)), 0.5] for text in request.inputs], 7)


@contextlib.asynccontextmanager
async def served(
    platform: Platform, own: FakeServing | None = None
) -> AsyncIterator[TargetServing]:
    serving = TargetServing(platform, own or FakeServing({}))
    try:
        yield serving
    finally:
        await serving.close()


@pytest.fixture
def there(platform: Platform, owner: Principal, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A partner `far` on loopback: another gateway, over a fake; its key is in the environment."""
    monkeypatch.setenv("FAR_KEY", KEY)
    responder = FakeResponder(["from", " afar"])
    with running(app_of(FakeServing({"m": responder}, embedders={"m": FakeEmbedder()}))) as server:
        target = Target(url=f"{server.url}/v1", model="m", key_env="FAR_KEY")
        add_target(platform, owner, "far", target)
        yield target


async def said(serving: TargetServing, who: Principal, model: str, **fields: Any) -> str:
    asked = ChatRequest(request_id="r", messages=[{"role": "user", "content": "Hi"}], **fields)
    return "".join([delta.text async for delta in respond(serving, who, model, asked)])


def test_a_target_is_kept_in_the_home_without_any_secret(
    platform: Platform, owner: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEAR_KEY", "sk-very-secret")
    add_target(platform, owner, "near", NEAR)
    add_target(platform, owner, "bare", Target(url="https://example.org/v1", model="x"))
    assert read_targets(platform.home) == {
        "bare": Target(url="https://example.org/v1", model="x"),
        "near": NEAR,
    }
    assert "sk-very-secret" not in targets_file(platform.home).read_text()
    remove_target(platform, owner, "near")
    assert list(read_targets(platform.home)) == ["bare"]
    with pytest.raises(NotFound, match="'near'; known: bare"):
        remove_target(platform, owner, "near")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"url": "10.0.0.7:8001"}, "url"),
        ({"url": "file:///etc/passwd"}, "url"),
        ({"url": "http://"}, "url"),
        ({"url": "http://host:port/v1"}, "url"),
        ({"url": "http://me:hunter2@host/v1"}, "url"),
        ({"url": "http://host/v1?key=hunter2"}, "url"),
        ({"key_env": "sk-hunter2"}, "key_env"),
        ({"model": ""}, "model"),
    ],
)
def test_what_is_no_target_is_refused_without_repeating_a_secret(
    platform: Platform, owner: Principal, fields: dict[str, str], param: str
) -> None:
    given = {"url": "http://host/v1", "model": "m"} | fields
    with pytest.raises(InvalidInput) as caught:
        add_target(platform, owner, "near", Target(**given))
    assert caught.value.param == param
    assert "hunter2" not in str(caught.value)
    assert not targets_file(platform.home).exists()


def test_a_name_of_a_model_here_is_not_given_away(platform: Platform, owner: Principal) -> None:
    make_model(platform, owner, "tiny", None)
    with pytest.raises(Conflict, match="'tiny'"):
        add_target(platform, owner, "tiny", NEAR)


def test_a_broken_list_says_where_it_lies(platform: Platform) -> None:
    targets_file(platform.home).write_text('[near]\nurl = "http://host/v1"\n')
    with pytest.raises(InvalidInput, match=r"targets.toml cannot be read.*model"):
        TargetServing(platform, FakeServing({}))


async def test_a_partner_answers_by_its_name_here(
    platform: Platform, owner: Principal, there: Target
) -> None:
    async with served(platform, FakeServing({"tiny": FakeResponder(["near"])})) as serving:
        assert await said(serving, owner, "far") == "from afar"
        assert await said(serving, owner, "tiny") == "near"
        assert [model.id for model in list_models(serving, owner)] == ["far", "tiny"]
        found = await embed(serving, owner, "far", EmbedRequest(inputs=["abc", "a"]))
        assert found == Embedded([[3.0, 0.5], [1.0, 0.5]], 7)
        with pytest.raises(InvalidInput, match="pooling"):
            await embed(serving, owner, "far", EmbedRequest(inputs=["a"], pooling="mean"))
        with pytest.raises(InvalidInput, match="prompt_logprobs"):
            await said(serving, owner, "far", prompt_logprobs=1)


async def test_a_model_here_wins_over_a_partner_of_its_name(
    platform: Platform, owner: Principal, there: Target
) -> None:
    async with served(platform, FakeServing({"far": FakeResponder(["near"])})) as serving:
        assert await said(serving, owner, "far") == "near"
        (only,) = list_models(serving, owner)
        assert only.owned_by == owner.org_id


async def test_other_projects_do_not_see_partners(
    platform: Platform, stranger: Principal, there: Target
) -> None:
    async with served(platform) as serving:
        assert list_models(serving, stranger) == []
        with pytest.raises(ModelNotFound):
            await said(serving, stranger, "far")


async def test_a_running_server_learns_of_changes_and_survives_a_broken_list(
    platform: Platform, owner: Principal, there: Target
) -> None:
    async with served(platform) as serving:
        add_target(platform, owner, "new", there)
        assert await said(serving, owner, "new") == "from afar"
        whole = targets_file(platform.home).read_text()
        targets_file(platform.home).write_text(whole + "[broken")
        assert await said(serving, owner, "new") == "from afar"
        targets_file(platform.home).write_text(whole)
        remove_target(platform, owner, "new")
        with pytest.raises(ModelNotFound):
            await said(serving, owner, "new")


async def test_a_partner_that_is_down_is_named_and_shown_until_it_answers(
    platform: Platform, owner: Principal, there: Target
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, and not listening
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        add_target(platform, owner, "far", Target(url=url, model="m"))
        async with served(platform) as serving:
            assert list_models(serving, owner)[0].state == "ready"
            with pytest.raises(EngineUnavailable, match="far is answered by a partner") as caught:
                await said(serving, owner, "far")
            assert "127.0.0.1" not in str(caught.value)  # addresses are not the callers' business
            with pytest.raises(EngineUnavailable, match="far is answered by a partner"):
                await embed(serving, owner, "far", EmbedRequest(inputs=["a"]))
            assert list_models(serving, owner)[0].state == "failed"
            add_target(platform, owner, "far", there)
            assert await said(serving, owner, "far") == "from afar"
            assert list_models(serving, owner)[0].state == "ready"


async def test_a_wrong_name_over_there_and_a_key_that_is_not_set_are_our_faults(
    platform: Platform, owner: Principal, there: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_target(platform, owner, "astray", Target(url=there.url, model="gone", key_env="FAR_KEY"))
    add_target(platform, owner, "mute", Target(url=there.url, model="m", key_env="UNSET_KEY"))
    monkeypatch.delenv("UNSET_KEY", raising=False)
    async with served(platform) as serving:
        with pytest.raises(EngineUnavailable, match="astray is answered by a partner"):
            await said(serving, owner, "astray")
        with pytest.raises(EngineUnavailable, match="UNSET_KEY is not set"):
            await said(serving, owner, "mute")


def test_only_who_may_write_models_may_add_partners(platform: Platform, owner: Principal) -> None:
    reader = replace(owner, scopes=frozenset({"models:read", "chat"}))
    with pytest.raises(Exception, match="models:write"):
        add_target(platform, reader, "near", NEAR)
