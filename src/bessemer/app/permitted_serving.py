"""A serving of which each principal sees what it may ask now. All of it is in memory.

Work may outlive the request that asked for it: a batch, a run of an eval, a response in the
background. It asks every model in the name of its key as that key is then, so that a key that was
revoked, or whose owner may do less, asks nothing more.

A model that may not be asked is a model that is not there. Where a rule holds, models go by name
alone: by a digest, one that is denied could be asked all the same.
"""

from __future__ import annotations

from bessemer.app.chat import (
    CHAT_SCOPE,
    EngineFigures,
    ModelHealth,
    NamedResponder,
    ServedModel,
    Serving,
    no_such_model,
)
from bessemer.app.embeddings import Embedder
from bessemer.app.keys import KeyRing
from bessemer.app.names import may_be_digest
from bessemer.core.principal import Principal


class PermittedServing:
    """Implements `chat.Serving` over another one, within `Principal.models`.

    Args:
        keys: who a principal with a key is now; without them it stays who it was when it asked.
    """

    def __init__(self, serving: Serving, keys: KeyRing | None = None) -> None:
        self._serving, self._keys = serving, keys

    async def responder(self, principal: Principal, model: str) -> NamedResponder:
        """See `chat.Serving.responder`.

        Raises:
            Unauthenticated: the key was revoked meanwhile.
            PermissionDenied: it may not ask models any more.
        """
        self._require(principal, model)
        return await self._serving.responder(principal, model)

    async def embedder(self, principal: Principal, model: str) -> Embedder:
        """See `embeddings.EmbeddingServing.embedder`; raises as `responder`."""
        self._require(principal, model)
        return await self._serving.embedder(principal, model)

    def models(self, principal: Principal) -> list[ServedModel]:
        """See `chat.Serving.models`."""
        found = self._serving.models(principal)
        rule = self._now(principal).models
        return found if rule is None else [model for model in found if rule.allows(model.id)]

    def health(self) -> list[ModelHealth]:
        """See `chat.Serving.health`."""
        return self._serving.health()

    async def figures(self) -> list[EngineFigures]:
        """See `chat.Serving.figures`."""
        return await self._serving.figures()

    def forget_names(self) -> None:
        """See `chat.Serving.forget_names`."""
        self._serving.forget_names()

    def _now(self, principal: Principal) -> Principal:
        return principal if self._keys is None else self._keys.standing(principal)

    def _require(self, principal: Principal, model: str) -> None:
        now = self._now(principal)
        now.require(CHAT_SCOPE)
        rule = now.models
        if rule is None:
            return
        by_digest = rule.mode == "deny_list" and may_be_digest(model)
        if by_digest or not rule.allows(model):
            raise no_such_model(model)
