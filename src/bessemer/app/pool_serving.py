"""The home's models, served: names from the database, engines from the pool.

A request that repeats a name known for `NAME_TTL_S` reads neither database nor files. Paths on
this machine are never names here: what an API caller may ask is what the project has a name or a
digest for.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, NamedTuple, Protocol

from bessemer.app import chat
from bessemer.app.adapted_engine import AdaptedEngine
from bessemer.app.adapters import NamedAdapter, Served, base_of, find_served, list_adapters
from bessemer.app.chat import EngineFigures, ModelHealth, ModelState, ServedModel
from bessemer.app.embeddings import EngineEmbedder
from bessemer.app.models import NamedModel, list_models
from bessemer.app.platform import Platform
from bessemer.app.recording import Recorder
from bessemer.app.responder import EngineResponder
from bessemer.core.errors import InvalidInput, NotFound
from bessemer.core.principal import Principal
from bessemer.core.protocols import AdapterEngine, Engine
from bessemer.models.encoder_config import is_encoder
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer

# How long a name may go on meaning what it meant: a newly taught model answers this soon.
NAME_TTL_S = 2.0
_MOST_NAMES = 1_000
_MOST_VOICES = 16


class Pool(Protocol):
    """What is needed of `app.engines.EnginePool`."""

    def engine(self, model: NamedModel) -> AdapterEngine: ...

    def status(self) -> list[dict[str, Any]]: ...

    async def figures(self) -> list[EngineFigures]: ...


class _Voice(NamedTuple):
    """What turns a model's text into its ids and back; the same for as long as its digest."""

    tokenizer: Tokenizer
    template: ChatTemplate | InvalidInput
    context_length: int


class _Known(NamedTuple):
    model: Served
    until_s: float


class PoolServing:
    """Implements `chat.Serving` over a platform and an engine pool.

    Args:
        recorder: keeps a record of every answer; for deterministic engines.
    """

    def __init__(self, platform: Platform, pool: Pool, recorder: Recorder | None = None) -> None:
        self._platform = platform
        self._pool = pool
        self._recorder = recorder
        self._names: dict[tuple[str, str], _Known] = {}
        self._voices: dict[str, _Voice] = {}
        self._loading = asyncio.Lock()

    async def responder(self, principal: Principal, model: str) -> EngineResponder:
        """See `chat.Serving.responder`. What it is asked waits until the model is loaded."""
        named, engine, voice = await self._voiced(principal, model)
        if self._recorder is not None:
            if isinstance(named, NamedAdapter):
                raise InvalidInput(
                    f"{model} is an adapter, and this server's answers are deterministic: an"
                    " adapter's products are as large as its neighbors make them",
                    param="model",
                    next_step=f"serve a merged model: bessemer merge {named.base.name} {model}",
                )
            engine = self._recorder.around(engine, named, principal)
        return EngineResponder(engine, *voice, model_digest=named.digest, model_name=named.name)

    async def embedder(self, principal: Principal, model: str) -> EngineEmbedder:
        """See `embeddings.EmbeddingServing.embedder`; waits as `responder` does."""
        named, engine, voice = await self._voiced(principal, model)
        return EngineEmbedder(engine, voice.tokenizer, voice.context_length, named.name)

    def models(self, principal: Principal) -> list[ServedModel]:
        """See `chat.Serving.models`. Reads the database."""
        states: dict[str, ModelState] = {row["digest"]: row["state"] for row in self._pool.status()}
        found: list[Served] = [
            *list_models(self._platform, principal),
            *list_adapters(self._platform, principal),
        ]
        return [
            ServedModel(
                id=served.name,
                created=int(served.path.stat().st_mtime),
                owned_by=principal.org_id,
                state=states.get(base_of(served).digest, "stopped"),
                parent=served.base.name if isinstance(served, NamedAdapter) else None,
            )
            for served in sorted(found, key=lambda served: served.name)
        ]

    def health(self) -> list[ModelHealth]:
        """See `chat.Serving.health`."""
        return [ModelHealth(row["name"], row["state"]) for row in self._pool.status()]

    async def figures(self) -> list[EngineFigures]:
        """See `chat.Serving.figures`."""
        return await self._pool.figures()

    def forget_names(self) -> None:
        """See `chat.Serving.forget_names`."""
        self._names = {}

    async def _voiced(self, principal: Principal, model: str) -> tuple[Served, Engine, _Voice]:
        named = await self._find(principal, model)
        base, engine = base_of(named), _engine_of(self._pool, named)
        voice = self._voices.get(base.digest) or await self._load(base, engine)
        return named, engine, voice

    async def _find(self, principal: Principal, model: str) -> Served:
        key = (principal.project_id, model)
        known = self._names.get(key)
        if known is not None and time.monotonic() < known.until_s:
            return known.model
        names = self._names
        try:
            found = await asyncio.to_thread(find_served, self._platform, principal, model)
        except NotFound:
            raise chat.no_such_model(model) from None
        if len(names) >= _MOST_NAMES:
            names.clear()
        # Where names were forgotten meanwhile, this one is put into those that nobody asks.
        names[key] = _Known(found, time.monotonic() + NAME_TTL_S)
        return found

    async def _load(self, model: NamedModel, engine: Engine) -> _Voice:
        async with self._loading:
            if model.digest not in self._voices:
                context_length = (await engine.info()).context_length
                voice = await asyncio.to_thread(_read_voice, model, context_length)
                if len(self._voices) >= _MOST_VOICES:
                    self._voices.pop(next(iter(self._voices)))
                self._voices[model.digest] = voice
            return self._voices[model.digest]


async def responder_for(pool: Pool, model: Served) -> EngineResponder:
    """What answers for one model, without a name or a cache; waits for its load."""
    engine = _engine_of(pool, model)
    context_length = (await engine.info()).context_length
    voice = await asyncio.to_thread(_read_voice, base_of(model), context_length)
    return EngineResponder(engine, *voice, model_digest=model.digest)


def _engine_of(pool: Pool, model: Served) -> Engine:
    """An adapter's is its base's."""
    engine = pool.engine(base_of(model))
    if isinstance(model, NamedAdapter):
        return AdaptedEngine(engine, model.digest, model.path)
    return engine


def _read_voice(model: NamedModel, context_length: int) -> _Voice:
    return _Voice(Tokenizer.load(model.path), _template(model), context_length)


def _template(model: NamedModel) -> ChatTemplate | InvalidInput:
    if is_encoder(model.path):
        return InvalidInput(
            f"{model.name} is an encoder: it turns texts into vectors and writes none",
            next_step="POST /v1/embeddings",
        )
    try:
        return ChatTemplate.load(model.path)
    except InvalidInput as fault:
        return fault
