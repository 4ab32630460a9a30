"""Which handler answers which method and path, and what a handler is given.

    Route("GET", "/v1/files/{file_id}", get_file)
    Route("GET", "/v1/files", list_files, query=("purpose", *PAGING))

A query parameter that a route does not name is refused before its handler runs. Handlers are thin:
they read, call one use case of `app` in a thread, and write its result. The first line of a
handler's docstring is what docs/reference/api.md says of its route.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeVar
from urllib.parse import unquote

import msgspec

from bessemer.core.principal import Principal
from bessemer.gateway.decoding import decode
from bessemer.gateway.exchange import Exchange
from bessemer.gateway.failures import MethodNotAllowed, UnknownUrl
from bessemer.gateway.query import Query

P = ParamSpec("P")
T = TypeVar("T")


class ListShape(msgspec.Struct):
    """A page of objects that each have an `id`.

    In an empty one the ids are empty texts: OpenAI's own server says null there, which most lists
    of its specification do not allow and strictly typed clients refuse. All take an empty text as
    they take null, for no id.
    """

    data: Sequence[Any]
    first_id: str
    last_id: str
    has_more: bool
    object: str = "list"

    @classmethod
    def of(cls, data: Sequence[Any], has_more: bool) -> ListShape:
        first, last = (data[0].id, data[-1].id) if data else ("", "")
        return cls(data, first, last, has_more)


class Deleted(msgspec.Struct):
    id: str
    object: str
    deleted: bool = True


class Call:
    """One authenticated request to a route. `ids` are the path's, by the names in its template.

    `learn` is called in a thread before the reply: what the reply tells has to hold by then.
    """

    def __init__(
        self,
        exchange: Exchange,
        principal: Principal,
        ids: Mapping[str, str],
        query: Query,
        learn: Callable[[], object] | None = None,
    ) -> None:
        self.exchange, self.principal = exchange, principal
        self.ids, self.query = ids, query
        self._learn = learn

    async def body(self, decoder: msgspec.json.Decoder[T]) -> T:
        """The JSON body. Raises InvalidInput, naming the field."""
        return decode(decoder, await self.exchange.read_json())

    async def work(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Call a use case in a thread: it reads the database, the event loop must not wait."""
        return await asyncio.to_thread(function, *arguments, **named)

    async def reply(self, value: object, status: int = 200) -> None:
        if self._learn is not None:
            await asyncio.to_thread(self._learn)
        await self.exchange.send_json(status, msgspec.json.encode(value))


Handler = Callable[[Call], Awaitable[None]]


class Route(NamedTuple):
    method: str
    path: str
    handle: Handler
    query: Sequence[str] = ()


class Found(NamedTuple):
    route: Route
    ids: Mapping[str, str]


class _Node:
    def __init__(self) -> None:
        self.named: dict[str, _Node] = {}
        self.any: _Node | None = None
        self.routes: dict[str, Route] = {}


class Routes:
    """A tree by the parts of a path; a literal part goes before a named one."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        for route in routes:
            node = self._root
            for part in _parts(route.path):
                if part.startswith("{"):
                    node.any = node.any or _Node()
                    node = node.any
                else:
                    node = node.named.setdefault(part, _Node())
            assert route.method not in node.routes, f"two routes for {route.method} {route.path}"
            node.routes[route.method] = route

    def find(self, method: str, path: str) -> Found:
        """By the path as it was sent, in which a `%2F` is a slash within a name.

        Raises UnknownUrl, or MethodNotAllowed with those that are.
        """
        parts = [unquote(part) for part in _parts(path)]
        node = _descend(self._root, parts)
        if node is None:
            raise UnknownUrl(f"Unknown request URL: {method} {path[:200]}.")
        route = node.routes.get("GET" if method == "HEAD" else method)
        if route is None:
            raise MethodNotAllowed(method, path[:200], ", ".join(sorted(node.routes)))
        named = zip(_parts(route.path), parts, strict=True)
        return Found(route, {name[1:-1]: part for name, part in named if name.startswith("{")})


def _descend(node: _Node, parts: Sequence[str]) -> _Node | None:
    if not parts:
        return node if node.routes else None
    named = node.named.get(parts[0])
    found = _descend(named, parts[1:]) if named is not None else None
    if found is None and node.any is not None and parts[0]:
        return _descend(node.any, parts[1:])
    return found


def _parts(path: str) -> list[str]:
    return path.split("/")[1:]
