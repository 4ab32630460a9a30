"""Every operation that is served, asked in every way its specification allows, and in those that
it does not: the answer is as specified, or an error of ours that says what is wrong. Never a 500.

Requests come from `schemathesis`, which reads the specification: valid ones, and ones that break
it. What no generator writes, because it is no JSON or no text, is put in the place of each field,
query parameter and id in turn. Paths speak of objects that are there, so handlers are reached.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, cast
from urllib.parse import quote, urlencode

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from bessemer.app import projects
from bessemer.app.background import Background
from bessemer.app.embeddings import EngineEmbedder
from bessemer.app.platform import Platform
from bessemer.app.stored_completions import Keeper
from bessemer.core.ids import new_id
from bessemer.gateway.asgi import build
from bessemer.gateway.exchange import MAX_BODY_BYTES, ASGIApp
from bessemer.gateway.resources import resource_routes
from bessemer.text.tokenizer import Tokenizer
from tests.fakes import FakeEngine, FakeResponder, FakeServing
from tests.gateway.bodies import RAW
from tests.gateway.calling import Answer, acall
from tests.gateway.objects import BODIES, MAKERS, owner_of_first
from tests.gateway.organization import World, world
from tests.specification import Operation, check, operations, specification
from tests.text.model_folder import write_model_folder

HANG_S = 20
ID = re.compile(r"\{\w+\}")
# Asked by `build` itself.
HOT = [
    Operation("POST", "/chat/completions"),
    Operation("POST", "/completions"),
    Operation("POST", "/embeddings"),
    Operation("GET", "/models"),
    Operation("GET", "/models/{model}"),
]
NOT_TEXT = (
    "\x00", "a\x00b", "\ufffd", "9" * 5000, "-1", "1e9", "", " ", "'", '"', "\\", "a" * 10_000,
    "../../etc/passwd", "%s", "\u202e", "\U0010ffff", "null", "[]", "file-1\n",
)  # fmt: skip
FIELD_RAW = (
    *(raw for raw in RAW if len(raw) <= 10_000),
    b'{"a": 1, "a": 2}', b"-9223372036854775809", b"18446744073709551616", b'"\\u0000\\ud83d"',
    b"[null]", b'[{"a": "\\udfff"}]', b'{"\\ud800": 1}', b'{"a": "\\ud800"}', b'{"a": NaN}', b"{}",
    b"[]", b"-1", b"true", b'"' + b"x" * 9000 + b'"', b'{"type": "\\u0000"}', b"[[[[1]]]]",
)  # fmt: skip


def _shape(path: str) -> str:
    return ID.sub("{}", path)


# Routes are only looked at here: no handler of these runs, so none misses its platform.
ROUTES = {
    (route.method, _shape(route.path)): route for route in resource_routes(cast(Platform, None))
}
SPECIFIED = [
    one for one in operations() if one in HOT or (one.method, "/v1" + _shape(one.path)) in ROUTES
]
# Extensions are asked too, for all that needs no specification of them.
SERVED = SPECIFIED + [
    Operation(route.method, route.path.removeprefix("/v1"))
    for key, route in ROUTES.items()
    if key not in {(one.method, "/v1" + _shape(one.path)) for one in SPECIFIED}
]


def _takes_json(operation: Operation) -> bool:
    asked = specification()["paths"].get(operation.path, {}).get(operation.method.lower(), {})
    return "application/json" in asked.get("requestBody", {}).get("content", {})


every_operation = pytest.mark.parametrize("operation", SERVED, ids=" ".join)
every_specified = pytest.mark.parametrize("operation", SPECIFIED, ids=" ".join)


class Asked:
    """An application in which everything is there, and calls that hold each answer to account."""

    def __init__(self, here: World, app: ASGIApp) -> None:
        self.here, self.app = here, app

    def path_of(self, operation: Operation) -> str:
        """With the ids of new objects."""
        me, path = owner_of_first(self.here), "/v1" + operation.path
        if operation.path.endswith("/archive"):
            # Not of the project that all the others are asked in.
            project = projects.create(self.here.platform, self.here.owner, new_id("a"))
            return path.replace("{project_id}", project.id)
        if operation in HOT:
            return path.replace("{model}", "tiny")
        route = ROUTES[operation.method, _shape(path)]
        path = route.path
        for name in ID.findall(route.path):
            path = path.replace(name, MAKERS[name[1:-1]](self.here, me))
        self.here.ring.refresh()
        return path

    def send(
        self,
        operation: Operation,
        path: str,
        body: bytes | None = None,
        kind: str = "application/json",
    ) -> Answer:
        async def ask() -> Answer:
            async with asyncio.timeout(HANG_S):
                return await acall(
                    self.app,
                    path,
                    body,
                    method=operation.method,
                    key=self.here.mine,
                    headers={"content-type": kind},
                )

        answer = asyncio.run(ask())
        if answer.status >= 400:
            assert answer.error["message"]
            assert answer.status < 500 or answer.error["code"] == "not_implemented", answer
            assert answer.status != 401, answer
        elif operation in SPECIFIED and answer.headers["content-type"] == "application/json":
            check(operation.method, "/v1" + operation.path, answer.status, answer.json())
        return answer


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    folder = tmp_path_factory.mktemp("fuzz")
    tokenizer = Tokenizer.load(write_model_folder(folder / "tokenizer"))
    serving = FakeServing(
        {"tiny": FakeResponder(["a", "b"])},
        embedders={"tiny": EngineEmbedder(FakeEngine(), tokenizer, 1024)},
    )
    with world(folder) as here:
        background = Background(here.platform, serving, None)
        routes = resource_routes(here.platform, serving=serving, background=background)
        app = build(serving, here.ring, routes=routes, keeper=Keeper(here.platform))
        yield Asked(here, app)


@cache
def _schema() -> Any:
    found = specification()
    paths = {path: what for path, what in found["paths"].items() if "?" not in path}
    whole = {
        "openapi": "3.1.0",
        "info": {"title": "OpenAI", "version": "1"},
        "paths": paths,
        "components": found["components"],
    }
    return schemathesis.openapi.from_dict(whole)


def _cases(operation: Operation) -> st.SearchStrategy[Any]:
    found = _schema()[operation.path][operation.method]
    return st.one_of(
        found.as_strategy(GenerationMode.POSITIVE), found.as_strategy(GenerationMode.NEGATIVE)
    )


def _fuzz(asked: Asked, operation: Operation, examples: int) -> None:
    there = asked.path_of(operation)

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=_cases(operation), exists=st.integers(0, 3))
    def ask(case: Any, exists: int) -> None:
        path = there if exists else "/v1" + case.formatted_path
        if case.query:
            path += "?" + urlencode(case.query, doseq=True, errors="replace")
        body, kind = _encoded(case)
        try:
            asked.send(operation, path, body, kind)
        except AssertionError as fault:
            # What Hypothesis prints of a case is nothing.
            fault.add_note(f"{operation.method} {path} {kind}\n{body!r}")
            raise

    ask()


def _encoded(case: Any) -> tuple[bytes | None, str]:
    if case.media_type is None:
        return None, "application/json"
    if case.media_type == "application/json":
        return json.dumps(case.body, default=repr).encode(), case.media_type
    fields = case.body if isinstance(case.body, dict) else {"file": case.body}
    return _form(fields), "multipart/form-data; boundary=edge"


def _form(fields: dict[str, Any]) -> bytes:
    parts = b""
    for name, value in fields.items():
        raw = getattr(value, "data", value)
        raw = raw if isinstance(raw, bytes) else str(raw).encode("utf-8", "replace")
        named = name.encode("utf-8", "replace").replace(b'"', b"%22")
        file = b'; filename="a.jsonl"' if name == "file" else b""
        parts += b'--edge\r\nContent-Disposition: form-data; name="' + named + b'"' + file
        parts += b"\r\n\r\n" + raw + b"\r\n"
    return parts + b"--edge--\r\n"


@every_specified
def test_requests_of_the_specification(asked: Asked, operation: Operation) -> None:
    _fuzz(asked, operation, 8)


@pytest.mark.slow
@every_specified
def test_many_requests_of_the_specification(asked: Asked, operation: Operation) -> None:
    _fuzz(asked, operation, 100)


@every_operation
def test_what_is_no_text_in_ids_and_queries(asked: Asked, operation: Operation) -> None:
    there = asked.path_of(operation)
    route = ROUTES.get((operation.method, "/v1" + _shape(operation.path)))
    for name in route.query if route is not None else ():
        for text in NOT_TEXT:
            asked.send(operation, f"{there}?{name}={quote(text, safe='')}")
            asked.send(operation, f"{there}?{name}[]={quote(text, safe='')}")
        for raw in ("%ff", "%ed%a0%80", "%", "%0", "a&" * 300):
            asked.send(operation, f"{there}?{name}={raw}")
    for place in ID.findall(operation.path):
        for text in NOT_TEXT:
            if text and "?" not in text:
                asked.send(operation, "/v1" + ID.sub("x", operation.path.replace(place, text)))


@pytest.mark.parametrize("operation", [one for one in SERVED if one.method == "POST"], ids=" ".join)
def test_what_is_no_json_in_every_field(asked: Asked, operation: Operation) -> None:
    there = asked.path_of(operation)
    body = _body_of(operation)
    for raw in (*RAW, b"\x00", b"{" * 100_000, b'{"a":' * 50_000):
        asked.send(operation, there, raw)
    for name in {**_properties(operation), **body}:
        whole = json.dumps({**body, name: "@here@"}).encode()
        for raw in FIELD_RAW:
            asked.send(operation, there, whole.replace(b'"@here@"', raw))
    twice = json.dumps({**body, "a": 1}).encode()
    asked.send(operation, there, twice.replace(b'"a": 1', b'"a": 1, "a": 2'))


def _body_of(operation: Operation) -> dict[str, Any]:
    """A right one, where one is known."""
    hot = {
        "/chat/completions": {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]},
        "/completions": {"model": "tiny", "prompt": "Hi"},
        "/embeddings": {"model": "tiny", "input": "Hi"},
        "/responses": {"model": "tiny", "input": "Hi"},
    }
    if operation.path in hot:
        return cast(dict[str, Any], hot[operation.path])
    route = ROUTES[operation.method, "/v1" + _shape(operation.path)]
    return cast(dict[str, Any], BODIES.get((route.method, route.path), {}))


def _properties(operation: Operation) -> dict[str, Any]:
    """The fields of an operation's JSON body, those of its parts included."""
    asked = specification()["paths"].get(operation.path, {}).get("post", {}).get("requestBody", {})
    schema = asked.get("content", {}).get("application/json", {}).get("schema", {})
    return _fields([schema])


def _fields(schemas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for schema in schemas:
        if "$ref" in schema:
            schema = specification()["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
        found |= schema.get("properties", {})
        for kind in ("allOf", "anyOf", "oneOf"):
            found |= _fields(schema.get(kind, []))
    return found


@pytest.mark.parametrize("operation", [one for one in SERVED if one.method == "POST"], ids=" ".join)
def test_a_wrong_kind_of_body(asked: Asked, operation: Operation) -> None:
    there = asked.path_of(operation)
    for kind in (
        "text/plain",
        "multipart/form-data",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "application/json; charset=x",
        "\xff",
        "",
    ):
        asked.send(operation, there, b"--x\r\n\r\n\x00\r\n--x--", kind)


@pytest.mark.parametrize("operation", [one for one in SERVED if _takes_json(one)], ids=" ".join)
def test_a_body_that_is_too_large_is_not_read(asked: Asked, operation: Operation) -> None:
    path, large = asked.path_of(operation), b" " * (MAX_BODY_BYTES + 1)
    answer = asked.send(operation, path, large)
    assert (answer.status, answer.error["code"]) == (413, "payload_too_large")
