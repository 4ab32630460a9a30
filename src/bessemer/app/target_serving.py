"""Partners served beside the models of the home: the same names, endpoints and errors.

A name that a model here has is always answered here: nothing leaves this machine because a partner
was given the same name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path

import msgspec

from bessemer.app.chat import (
    PARTNER,
    EngineFigures,
    ModelHealth,
    ModelNotFound,
    NamedResponder,
    ServedModel,
    Serving,
)
from bessemer.app.embeddings import Embedded, Embedder, EmbedRequest
from bessemer.app.partner import Partner
from bessemer.app.platform import Platform
from bessemer.app.streams import closing
from bessemer.app.targets import Target, read_targets, targets_file
from bessemer.core.errors import BessemerError, EngineUnavailable, InvalidInput, NotFound
from bessemer.core.principal import Principal
from bessemer.core.protocols import ChatRequest, Delta

_log = logging.getLogger(__name__)

# Reserved for an answer without `max_tokens`: a partner's context is not known here.
MOST_TOKENS = 32_768
# A token is a byte at least, which is what is reserved; this many as a rule, which is what is
# charged for a prompt whose answer nobody waited for.
BYTES_A_TOKEN = 4
# Marks of roles and turns that a partner's template puts around a message.
_MARKS_BYTES = 16


class TargetServing:
    """Implements `chat.Serving` over another one, with the partners that `targets.toml` names.

    The file is read again when it has changed. Partners belong to the project of whoever owns the
    home. Lives on one event loop; `close` it at the end.

    Raises:
        InvalidInput: the file is not what it should be.
    """

    def __init__(self, platform: Platform, own: Serving) -> None:
        self._home, self._own = platform.home, own
        self._project_id = platform.local_principal().project_id
        self._stamp = _stamp(targets_file(self._home))
        self._targets = read_targets(self._home)
        self._partners: dict[Target, Partner] = {}
        self._down: set[str] = set()
        self._open = contextlib.AsyncExitStack()
        self._opening = asyncio.Lock()

    async def responder(self, principal: Principal, model: str) -> NamedResponder:
        """See `chat.Serving.responder`."""
        try:
            return await self._own.responder(principal, model)
        except ModelNotFound:
            partner = await self._partner(principal, model)
            if partner is None:
                raise
            return partner

    async def embedder(self, principal: Principal, model: str) -> Embedder:
        """See `embeddings.EmbeddingServing.embedder`."""
        try:
            return await self._own.embedder(principal, model)
        except ModelNotFound:
            partner = await self._partner(principal, model)
            if partner is None:
                raise
            return partner

    def models(self, principal: Principal) -> list[ServedModel]:
        """See `chat.Serving.models`. A partner is `ready` until one request found it down."""
        own = self._own.models(principal)
        taken = {model.id for model in own}
        created = (self._stamp or 0) // 1_000_000_000
        partners = [
            ServedModel(name, created, PARTNER, "failed" if name in self._down else "ready")
            for name in self._visible(principal)
            if name not in taken
        ]
        return sorted(own + partners)

    def health(self) -> list[ModelHealth]:
        """See `chat.Serving.health`: a partner is no engine of this server's."""
        return self._own.health()

    async def figures(self) -> list[EngineFigures]:
        """See `chat.Serving.figures`."""
        return await self._own.figures()

    def forget_names(self) -> None:
        """See `chat.Serving.forget_names`."""
        self._own.forget_names()

    async def close(self) -> None:
        """End the connections to all partners."""
        await self._open.aclose()

    def _visible(self, principal: Principal) -> dict[str, Target]:
        return self._known() if principal.project_id == self._project_id else {}

    def _known(self) -> dict[str, Target]:
        stamp = _stamp(targets_file(self._home))
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._targets = read_targets(self._home)
            except InvalidInput as fault:
                _log.warning("%s; the partners of before are kept", fault.message)
        return self._targets

    async def _partner(self, principal: Principal, name: str) -> _NamedPartner | None:
        target = self._visible(principal).get(name)
        if target is None:
            return None
        async with self._opening:
            if target not in self._partners:
                opening = Partner.open(target.url, target.model, api_key=_key(name, target))
                self._partners[target] = await self._open.enter_async_context(opening)
        return _NamedPartner(name, self._partners[target], self._down)


class _NamedPartner:
    """A partner by its name here: responder and embedder, whose errors say who it was."""

    model_digest: str | None = None

    def __init__(self, name: str, partner: Partner, down: set[str]) -> None:
        self._name, self._partner, self._down = name, partner, down

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """Its tokens are counted only at the end, over there; until then, as near as we can."""
        tally, prompt_bytes, pieces = request.tally, _prompt_bytes(request), 0
        if tally is not None:
            most = MOST_TOKENS if request.max_tokens is None else request.max_tokens
            await tally.expect(self._name, prompt_bytes, most)
        with self._named():
            async with closing(self._partner.respond(request)) as deltas:
                async for delta in deltas:
                    pieces += 1
                    if tally is not None:
                        tally.count(prompt_bytes // BYTES_A_TOKEN, 0, pieces)
                    yield delta

    async def embed(self, request: EmbedRequest) -> Embedded:
        if request.tally is not None:
            most = sum(_size_bytes(item) for item in request.inputs)
            await request.tally.expect(self._name, most, 0)
        with self._named():
            return await self._partner.embed(request)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (EngineUnavailable, NotFound) as fault:
            # A model that is not there is a fault of our list, not of the caller's name.
            self._down.add(self._name)
            _log.warning("the partner %s: %s", self._name, fault.message)
            raise EngineUnavailable(
                f"{self._name} is answered by a partner, which is not there or broke off",
                next_step="send the request again, or ask another model; the server's log says why",
            ) from fault
        except BessemerError as fault:
            fault.message = f"{self._name}: {fault.message}"
            raise
        self._down.discard(self._name)


def _key(name: str, target: Target) -> str | None:
    if target.key_env is None:
        return None
    key = os.environ.get(target.key_env)
    if not key:
        raise EngineUnavailable(
            f"{name} is answered by a partner, whose key this server does not have:"
            f" {target.key_env} is not set",
            next_step=f"export {target.key_env}=... before bessemer up",
        )
    return key


def _stamp(path: Path) -> int | None:
    """Changes when the file does: nanoseconds of its last change; None without one."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _prompt_bytes(request: ChatRequest) -> int:
    if request.prompt is not None:
        return _size_bytes(request.prompt) + len((request.suffix or "").encode())
    said = sum(_MARKS_BYTES + len(msgspec.json.encode(message)) for message in request.messages)
    return said + sum(len(msgspec.json.encode(tool)) for tool in request.tools)


def _size_bytes(text: str | Sequence[int]) -> int:
    """Of ids, each is a token."""
    return len(text.encode()) if isinstance(text, str) else len(text)
