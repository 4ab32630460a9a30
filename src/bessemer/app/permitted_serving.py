"""A serving of which each project sees what it may ask. From memory: the principal has the rule.

A model that may not be asked is a model that is not there. Where a rule holds, models go by name
alone: by a digest, one that is denied could be asked all the same.
"""

from __future__ import annotations

import re

from bessemer.app.chat import (
    EngineFigures,
    ModelHealth,
    NamedResponder,
    ServedModel,
    Serving,
    no_such_model,
)
from bessemer.app.embeddings import Embedder
from bessemer.app.names import MIN_PREFIX_HEX
from bessemer.core.digests import DIGEST_PREFIX
from bessemer.core.principal import Principal

_DIGEST = re.compile(rf"({DIGEST_PREFIX})?[0-9a-f]{{{MIN_PREFIX_HEX},64}}")


class PermittedServing:
    """Implements `chat.Serving` over another one, within `Principal.models`."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    async def responder(self, principal: Principal, model: str) -> NamedResponder:
        """See `chat.Serving.responder`."""
        _require(principal, model)
        return await self._serving.responder(principal, model)

    async def embedder(self, principal: Principal, model: str) -> Embedder:
        """See `embeddings.EmbeddingServing.embedder`."""
        _require(principal, model)
        return await self._serving.embedder(principal, model)

    def models(self, principal: Principal) -> list[ServedModel]:
        """See `chat.Serving.models`."""
        found = self._serving.models(principal)
        rule = principal.models
        return found if rule is None else [model for model in found if rule.allows(model.id)]

    def health(self) -> list[ModelHealth]:
        """See `chat.Serving.health`."""
        return self._serving.health()

    async def figures(self) -> list[EngineFigures]:
        """See `chat.Serving.figures`."""
        return await self._serving.figures()


def _require(principal: Principal, model: str) -> None:
    rule = principal.models
    if rule is None:
        return
    by_digest = rule.mode == "deny_list" and _DIGEST.fullmatch(model)
    if by_digest or not rule.allows(model):
        raise no_such_model(model)
