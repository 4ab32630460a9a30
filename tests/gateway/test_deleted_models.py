"""Models that jobs made, deleted: by one of several, and from the answer on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bessemer.app import fine_tuned_models
from bessemer.app.adapters import find_adapter
from bessemer.app.chat import ModelNotFound
from bessemer.app.pool_serving import PoolServing
from bessemer.gateway.asgi import build
from bessemer.gateway.resources import resource_routes
from tests.app.test_pool_serving import FakePool
from tests.gateway.calling import call
from tests.gateway.tuning_shop import ME, RichRing, Shop, shop, tiny_folder
from tests.tiny import world

__all__ = ["shop", "tiny_folder"]  # fixtures


def test_of_two_who_delete_a_model_one_is_told_that_it_is_gone(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shop.until(shop.create(world.chats(4)), "succeeded")["fine_tuned_model"]
    look = fine_tuned_models.find_served

    def overtaken(*given: Any) -> Any:
        found = look(*given)
        monkeypatch.setattr(fine_tuned_models, "find_served", look)
        fine_tuned_models.delete(shop.platform, ME, model)
        return found

    monkeypatch.setattr(fine_tuned_models, "find_served", overtaken)
    answer = call(shop.app, f"/v1/models/{model}", method="DELETE")
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    done = [action for action, _ in shop.trail(model)]
    assert done == ["adapter.named", "model.deleted"]


def test_a_model_is_asked_until_it_is_deleted_and_no_longer(shop: Shop) -> None:
    model = shop.until(shop.create(world.chats(4)), "succeeded")["fine_tuned_model"]
    serving = PoolServing(shop.platform, FakePool())
    app = build(serving, RichRing(), routes=resource_routes(shop.platform, serving=serving))
    meant = find_adapter(shop.platform, ME, model).digest
    assert asyncio.run(serving.responder(ME, model)).model_digest == meant
    assert call(app, f"/v1/models/{model}", method="DELETE").status == 200
    with pytest.raises(ModelNotFound):
        asyncio.run(serving.responder(ME, model))
