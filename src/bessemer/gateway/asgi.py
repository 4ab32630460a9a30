"""The gateway as one ASGI application: routes, errors, and the request's id on every answer.

Bare ASGI down to the last route, since there are few and the hot path wants nothing above it.
Other paths go to another application (the console), if one is given.

    app = build(PoolServing(platform, pool), KeyRing(platform), other=console)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from bessemer.app.chat import MODELS_SCOPE, Serving
from bessemer.app.embeddings import embed
from bessemer.app.latencies import Latencies
from bessemer.app.metering import Meter
from bessemer.core.errors import BessemerError
from bessemer.core.principal import Principal
from bessemer.gateway import catalog
from bessemer.gateway.answering import Keeper, answer
from bessemer.gateway.authentication import KeyRing, principal_of
from bessemer.gateway.chat_answer import ChatShape
from bessemer.gateway.chat_request import parse_chat
from bessemer.gateway.completion_answer import CompletionShape
from bessemer.gateway.completion_request import parse_completion
from bessemer.gateway.embeddings import embedding_answer, parse_embedding
from bessemer.gateway.exchange import (
    SILENCE_S,
    ASGIApp,
    ClientGone,
    Exchange,
    Receive,
    Scope,
    Send,
)
from bessemer.gateway.failures import (
    MethodNotAllowed,
    ServerStopping,
    UnknownUrl,
    internal_error,
)
from bessemer.gateway.limit_headers import limit_headers
from bessemer.gateway.metrics import Metrics
from bessemer.gateway.parameters import Ask
from bessemer.gateway.query import Query
from bessemer.gateway.routes import Call, Route, Routes
from bessemer.gateway.shapes import Shape
from bessemer.gateway.unbuilt import refuse

API_PREFIX = "/v1/"
HEALTH_PATH = "/healthz"
METRICS_PATH = "/metrics"
MODELS_PATH = "/v1/models"
EMBEDDINGS_PATH = "/v1/embeddings"
ACCESS_PREFIX = "/v1/organization/"
# A client that does not even take an error is not waited for.
LAST_WORDS_S = 1.0

_log = logging.getLogger(__name__)

Parse = Callable[[bytes, str], Ask]
_ANSWERS: dict[str, tuple[Parse, Shape]] = {
    "/v1/chat/completions": (parse_chat, ChatShape()),
    "/v1/completions": (parse_completion, CompletionShape()),
}


def build(
    serving: Serving,
    keyring: KeyRing,
    *,
    meter: Meter | None = None,
    routes: Sequence[Route] = (),
    other: ASGIApp | None = None,
    open_metrics: bool = False,
    keeper: Keeper | None = None,
    silence_s: float = SILENCE_S,
    latencies: Latencies | None = None,
) -> ASGIApp:
    """The application.

    Args:
        serving: what answers to which name.
        keyring: who may ask; looked at on every request, so it must not wait for anything.
        meter: counts and charges what is asked; None charges nobody.
        routes: everything of the API that is not on the hot path (`resources`).
        other: gets every path that is not one of ours, WebSockets and lifespan.
        open_metrics: `/metrics` needs no key, since only this machine can ask.
        keeper: stores the chat completions that ask for it; without one that is refused.
        silence_s: how long the next bytes of a body are waited for.
        latencies: where `routes` note how long their answers took, for `/metrics` to tell, too.
    """
    metrics = Metrics(latencies)
    return Gateway(
        serving, keyring, meter, Routes(routes), other, open_metrics, keeper, metrics, silence_s
    )


class Gateway:
    """See `build`."""

    def __init__(
        self,
        serving: Serving,
        keyring: KeyRing,
        meter: Meter | None,
        routes: Routes,
        other: ASGIApp | None,
        open_metrics: bool,
        keeper: Keeper | None,
        metrics: Metrics,
        silence_s: float,
    ) -> None:
        self._silence_s = silence_s
        self._serving, self._keyring, self._other = serving, keyring, other
        self._meter, self._keeper = meter, keeper
        self._routes = routes
        self._open_metrics, self._metrics = open_metrics, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (self._other is None or _is_ours(scope["path"])):
            await self._answer(Exchange(scope, receive, send, self._silence_s))
        elif self._other is not None:
            await self._other(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _idle_lifespan(receive, send)

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self._route(exchange)
        except ClientGone:
            _log.debug("%s: the client went away", exchange.request_id)
        except BessemerError as fault:
            await exchange.fail(fault)
        except asyncio.CancelledError:
            await _say_goodbye(exchange)
        except Exception:
            _log.exception("%s failed: %s %s", exchange.request_id, exchange.method, exchange.path)
            await exchange.fail(internal_error(exchange.request_id))
        finally:
            self._metrics.count(exchange.route, exchange.status)

    async def _route(self, exchange: Exchange) -> None:
        path = exchange.path
        if path in _ANSWERS and exchange.method == "POST":
            exchange.route = path
            await self._generate(exchange, *_ANSWERS[path])
        elif path == EMBEDDINGS_PATH:
            exchange.route = path
            _allow(exchange, "POST")
            await self._embed(exchange)
        elif path == HEALTH_PATH:
            exchange.route = path
            _allow(exchange, "GET", "HEAD")
            await exchange.send_json(200, catalog.health(self._serving))
        elif path == METRICS_PATH:
            exchange.route = path
            _allow(exchange, "GET", "HEAD")
            if not self._open_metrics:
                principal_of(exchange, self._keyring).require(MODELS_SCOPE)
            await exchange.send_text(self._metrics.text(await self._serving.figures()))
        elif _is_model(exchange.method, path):
            one = path != MODELS_PATH
            exchange.route = MODELS_PATH + "/{id}" if one else path
            _allow(exchange, "GET", "HEAD", *(["DELETE"] if one else []))
            await self._models(exchange, path.removeprefix(MODELS_PATH)[1:])
        else:
            await self._resource(exchange)

    async def _resource(self, exchange: Exchange) -> None:
        method, path = exchange.method, exchange.sent_path
        try:
            route, ids = self._routes.find(method, path)
        except (UnknownUrl, MethodNotAllowed) as fault:
            if exchange.path in _ANSWERS:
                others = f"{fault.allowed}, " if isinstance(fault, MethodNotAllowed) else ""
                raise MethodNotAllowed(method, path, others + "POST") from None
            raise refuse(method, path, fault) from None
        exchange.route = route.path
        principal = principal_of(exchange, self._keyring)
        # A key is good for its first request, and a revoked one for none, from the answer on.
        access = route.path.startswith(ACCESS_PREFIX) and method not in ("GET", "HEAD")
        learn = self._keyring.refresh if access else None
        query = Query(exchange.query, route.query)
        await route.handle(Call(exchange, principal, ids, query, learn))

    def _principal(self, exchange: Exchange) -> Principal:
        """Who asks for what has no query, as none of the hot paths has."""
        principal = principal_of(exchange, self._keyring)
        if exchange.query:
            Query(exchange.query, ())
        return principal

    async def _generate(self, exchange: Exchange, parse: Parse, shape: Shape) -> None:
        principal = self._principal(exchange)
        ask = parse(await exchange.read_json(), exchange.request_id)
        latencies = self._metrics.latencies
        answering = answer(
            exchange, self._serving, principal, ask, shape, latencies, self._meter, self._keeper
        )
        await exchange.while_connected(answering)

    async def _embed(self, exchange: Exchange) -> None:
        principal = self._principal(exchange)
        ask = parse_embedding(await exchange.read_json())

        async def answer_it() -> None:
            charge_id = exchange.request_id
            found = await embed(
                self._serving, principal, ask.model, ask.request,
                meter=self._meter, charge_id=charge_id,
            )  # fmt: skip
            await exchange.send_json(200, embedding_answer(ask, found), limit_headers(found.taken))

        await exchange.while_connected(answer_it())

    async def _models(self, exchange: Exchange, model: str) -> None:
        principal = self._principal(exchange)
        if model:
            body = catalog.one_model(self._serving, principal, model)
        else:
            body = catalog.all_models(self._serving, principal)
        await exchange.send_json(200, body)


def _is_model(method: str, path: str) -> bool:
    """Deleting one is a resource's work."""
    return path == MODELS_PATH or (path.startswith(MODELS_PATH + "/") and method != "DELETE")


def _is_ours(path: str) -> bool:
    return path.startswith(API_PREFIX) or path in (HEALTH_PATH, METRICS_PATH, API_PREFIX[:-1])


def _allow(exchange: Exchange, *methods: str) -> None:
    if exchange.method not in methods:
        raise MethodNotAllowed(exchange.method, exchange.path, ", ".join(methods))


async def _say_goodbye(exchange: Exchange) -> None:
    """The server is stopping and this answer is not over: say so, in what time there is."""
    try:
        async with asyncio.timeout(LAST_WORDS_S):
            await exchange.fail(
                ServerStopping(
                    "the server is stopping; this answer is not whole",
                    next_step="send the request again",
                )
            )
    except TimeoutError:
        _log.warning("%s: the client did not take the last words", exchange.request_id)


async def _idle_lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
