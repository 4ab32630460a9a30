"""`GET /v1/models`, `GET /v1/models/{id}` and `GET /healthz`."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from bessemer import __version__
from bessemer.app.chat import ServedModel, Serving, find_model, list_models
from bessemer.core.principal import Principal


class ModelShape(msgspec.Struct):
    """OpenAI's model, and two extensions.

    `state` is what the first request will meet, `parent` an adapter's base.
    """

    id: str
    created: int
    owned_by: str
    state: str
    object: Literal["model"] = "model"
    parent: str | UnsetType = UNSET


class ModelList(msgspec.Struct):
    data: list[ModelShape]
    object: Literal["list"] = "list"


class ModelHealthShape(msgspec.Struct):
    id: str
    state: str


class Health(msgspec.Struct):
    """`loading` while any engine is; a failed engine is seen in its `state`."""

    status: Literal["ok", "loading"]
    models: list[ModelHealthShape]
    version: str


def all_models(serving: Serving, principal: Principal) -> bytes:
    return msgspec.json.encode(ModelList([_shape(m) for m in list_models(serving, principal)]))


def one_model(serving: Serving, principal: Principal, model: str) -> bytes:
    """Raises ModelNotFound."""
    return msgspec.json.encode(_shape(find_model(serving, principal, model)))


def health(serving: Serving) -> bytes:
    """Whatever the engines do, this answers at once."""
    models = [ModelHealthShape(*row) for row in serving.health()]
    loading = any(model.state == "loading" for model in models)
    return msgspec.json.encode(Health("loading" if loading else "ok", models, __version__))


def _shape(model: ServedModel) -> ModelShape:
    parent = UNSET if model.parent is None else model.parent
    return ModelShape(model.id, model.created, model.owned_by, model.state, parent=parent)
