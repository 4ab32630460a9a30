"""Who may ask which model, now: lists of a project's models, and keys that were revoked since."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from bessemer.app import members, model_permissions, people, projects
from bessemer.app.background import Background
from bessemer.app.chat import ModelNotFound
from bessemer.app.embeddings import Embedded, EmbedRequest
from bessemer.app.eval_runner import EvalRunner
from bessemer.app.keys import KeyRing, create_key, revoke_key
from bessemer.app.model_permissions import Mode
from bessemer.app.permitted_serving import PermittedServing
from bessemer.app.platform import Platform
from bessemer.app.responses import Asked
from bessemer.app.responses import get as get_response
from bessemer.core.errors import PermissionDenied, Unauthenticated
from bessemer.core.principal import ModelRule, Principal
from bessemer.core.protocols import ChatRequest
from tests.app import evals_world
from tests.fakes import FAKE_DIGEST, FakeResponder, FakeServing


class FakeEmbedder:
    async def embed(self, request: EmbedRequest) -> Embedded:
        return Embedded([[1.0] for _ in request.inputs], 1)


class World:
    """Two models and an encoder, a project, and the key of a person who was let into it."""

    def __init__(self, platform: Platform, owner: Principal) -> None:
        self.platform, self.owner = platform, owner
        self.project = projects.create(platform, owner, "first")
        self.person = people.add(platform, owner, "one@example.org", "reader")
        members.add(platform, owner, self.project.id, self.person.id, "owner")
        self.here = replace(owner, project_id=self.project.id, owner_id=self.person.id)
        self.key = create_key(platform, self.here, "key", ["*"])
        self.ring = KeyRing(platform)
        self.who = self.ring.authenticate(self.key.secret)
        self.inner = FakeServing(
            {"big": FakeResponder(), "small": FakeResponder()},
            embedders={"vectors": FakeEmbedder()},
        )
        self.serving = PermittedServing(self.inner, self.ring)

    def allow(self, mode: Mode, *names: str) -> None:
        model_permissions.set_to(self.platform, self.owner, self.project.id, mode, names)
        self.ring.refresh()

    def may(self, model: str, who: Principal | None = None) -> bool:
        async def ask() -> None:
            if model == "vectors":
                await self.serving.embedder(who or self.who, model)
            else:
                await self.serving.responder(who or self.who, model)

        try:
            asyncio.run(ask())
        except ModelNotFound:
            return False
        return True

    def listed(self) -> list[str]:
        return [model.id for model in self.serving.models(self.who)]


@pytest.fixture
def there(platform: Platform, owner: Principal) -> World:
    return World(platform, owner)


def test_without_a_list_a_project_may_ask_every_model(there: World) -> None:
    assert there.listed() == ["big", "small"]
    assert there.may("big") and there.may("small") and there.may("vectors")
    assert not there.may("none")


def test_an_allow_list_lets_its_models_be_asked_and_seen_and_no_others(there: World) -> None:
    there.allow("allow_list", "small")
    assert there.listed() == ["small"]
    assert there.may("small")
    assert not there.may("big") and not there.may("vectors")
    there.allow("allow_list")
    assert there.listed() == [] and not there.may("small")


def test_a_deny_list_takes_its_models_away_and_every_way_around_their_names(there: World) -> None:
    there.allow("deny_list", "big", "vectors")
    assert there.listed() == ["small"]
    assert there.may("small")
    assert not there.may("big") and not there.may("vectors")
    # The inner serving knows models by their digests, too; here none is asked that way.
    digits = FAKE_DIGEST.removeprefix("sha256:")
    there.inner._responders.update({FAKE_DIGEST: FakeResponder(), digits[:12]: FakeResponder()})
    for digest in (FAKE_DIGEST, digits, digits[:12]):
        assert not there.may(digest), digest
    model_permissions.delete(there.platform, there.owner, there.project.id)
    there.ring.refresh()
    assert there.may("big") and there.may(digits[:12])


def test_a_list_is_of_one_project_and_binds_nobody_at_the_machine_itself(there: World) -> None:
    there.allow("deny_list", "big")
    other = create_key(there.platform, there.owner, "other", ["*"])
    there.ring.refresh()
    assert there.may("big", there.ring.authenticate(other.secret))
    assert there.may("big", there.owner)
    assert not there.may(
        "big", replace(there.owner, models=ModelRule("deny_list", frozenset({"big"})))
    )


def test_what_an_engine_tells_of_itself_is_told_on(there: World) -> None:
    there.allow("allow_list", "small")
    assert there.serving.health() == there.inner.health()
    assert asyncio.run(there.serving.figures()) == asyncio.run(there.inner.figures())


def _revoke(there: World) -> None:
    revoke_key(there.platform, there.here, there.key.id)


def _archive(there: World) -> None:
    projects.archive(there.platform, there.owner, there.project.id)


def _remove(there: World) -> None:
    people.remove(there.platform, there.owner, there.person.id)


def _lower(there: World) -> None:
    members.remove(there.platform, there.owner, there.project.id, there.person.id)


ENDS = [
    (_revoke, Unauthenticated, "was revoked"),
    (_archive, Unauthenticated, "is of a project that is archived"),
    (_remove, Unauthenticated, "was revoked"),
    (_lower, PermissionDenied, "'chat'"),
]


@pytest.mark.parametrize(("end", "fault", "why"), ENDS)
def test_who_asked_before_asks_nothing_more(
    there: World, end: Callable[[World], None], fault: type[Exception], why: str
) -> None:
    assert there.may("big") and there.may("vectors")
    end(there)
    there.ring.refresh()
    for model in ("big", "vectors"):
        with pytest.raises(fault, match=why):
            there.may(model)
    assert there.may("big", there.owner)


def test_what_was_asked_for_before_a_key_expired_is_still_done(there: World) -> None:
    key = create_key(there.platform, there.here, "short", ["chat"], expires_in_s=-1)
    there.ring.refresh()
    with pytest.raises(Unauthenticated, match="has expired"):
        there.ring.authenticate(key.secret)
    assert there.may("big", replace(there.who, key_id=key.id))


def test_a_run_of_an_eval_ends_with_the_key_that_asked_for_it(
    there: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evals_world, "ME", there.who)
    definition = evals_world.define(there.platform)
    run = evals_world.submit(there.platform, definition, evals_world.rows(30), model="slow")
    slow = FakeResponder(hold_after=0)
    serving = PermittedServing(FakeServing({"slow": slow}), there.ring)

    async def work() -> None:
        runner = EvalRunner(there.platform, serving, tick_s=0.01)
        await runner.start()
        async with asyncio.timeout(20):
            while slow.opened < 8:
                await asyncio.sleep(0.01)
            _revoke(there)
            there.ring.refresh()
            slow.go.set()
            while evals_world.the_run(there.platform, run.id, there.who).state == "in_progress":
                await asyncio.sleep(0.01)
        await runner.close()

    asyncio.run(work())
    ended = evals_world.the_run(there.platform, run.id, there.who)
    assert (ended.state, ended.error.code) == ("failed", "invalid_api_key")
    assert f"{there.key.id}, in whose name this is done, was revoked" in ended.error.message
    assert slow.opened == 8, "those that were asked already, and none after them"


def test_a_response_that_waits_in_the_background_ends_with_its_key(there: World) -> None:
    model = FakeResponder(hold_after=0)
    serving = PermittedServing(FakeServing({"m": model}), there.ring)

    async def work() -> None:
        waiting = Background(there.platform, serving, most_at_once=1)
        for id_ in ("resp_1", "resp_2"):
            asked = Asked(
                id=id_, model="m", items=[], says={}, background=True,
                request=ChatRequest(request_id=id_),
            )  # fmt: skip
            await waiting.launch(there.who, asked)
        async with asyncio.timeout(20):
            while not model.opened:
                await asyncio.sleep(0.01)
            _revoke(there)
            there.ring.refresh()
            model.go.set()
            while not get_response(there.platform, there.who, "resp_2").is_finished:
                await asyncio.sleep(0.01)
        await waiting.close()

    asyncio.run(work())
    first, second = (get_response(there.platform, there.who, id_) for id_ in ("resp_1", "resp_2"))
    assert (first.status, second.status) == ("completed", "failed")
    assert second.error is not None and "was revoked" in second.error.message
    assert model.opened == 1
