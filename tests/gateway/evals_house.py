"""A gateway with the evals' routes and runner over fake models; clients that check each answer."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import openai

from bessemer.app.eval_runner import EvalRunner
from bessemer.app.platform import Platform
from bessemer.app.stored_completions import Keeper
from bessemer.core.errors import Unauthenticated
from bessemer.core.principal import Principal
from bessemer.gateway.asgi import build
from bessemer.gateway.resources import resource_routes
from tests.fakes import FakeResponder, FakeServing
from tests.gateway.calling import running
from tests.specification import check

KEYS = {
    "mine": Principal("org", "p1", "u1", frozenset({"*"}), "key_1"),
    "theirs": Principal("org", "p2", "u2", frozenset({"*"}), "key_2"),
    "reader": Principal("org", "p1", "u1", frozenset({"evals:read"}), "key_3"),
    "writer": Principal("org", "p1", "u1", frozenset({"evals:write"}), "key_4"),
    "chatter": Principal("org", "p1", "u1", frozenset({"chat"}), "key_5"),
}
ME = KEYS["mine"]
CAPITALS = (("France", "Paris"), ("Italy", "Rome"), ("Spain", "Madrid"), ("Peru", "Lima"))
CONFIG = {
    "type": "custom",
    "item_schema": {
        "type": "object",
        "properties": {"country": {"type": "string"}, "capital": {"type": "string"}},
        "required": ["country", "capital"],
    },
    "include_sample_schema": True,
}
EQUAL = {
    "type": "string_check",
    "name": "equal",
    "input": "{{sample.output_text}}",
    "reference": "{{item.capital}}",
    "operation": "eq",
}


class Keys:
    def authenticate(self, secret: str) -> Principal:
        if secret not in KEYS:
            raise Unauthenticated("this API key is not valid here")
        return KEYS[secret]

    def refresh(self) -> None:
        pass


class House:
    """`client(key)` calls it, and holds each answer against OpenAI's specification."""

    def __init__(self, url: str) -> None:
        self.url = url

    def client(self, key: str = "mine") -> openai.OpenAI:
        http = openai.DefaultHttpxClient(event_hooks={"response": [_check]})
        return openai.OpenAI(
            base_url=self.url + "/v1", api_key=key, max_retries=0, http_client=http
        )


@contextlib.contextmanager
def house(
    platform: Platform, models: Mapping[str, FakeResponder], *, runs: bool = True, **more: Any
) -> Iterator[House]:
    serving = FakeServing(models, **more)

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        runner = EvalRunner(platform, serving, tick_s=0.01)
        if runs:
            await runner.start()
        try:
            yield
        finally:
            await runner.close()

    routes = resource_routes(platform, serving=serving)
    app = build(serving, Keys(), routes=routes, keeper=Keeper(platform))
    with running(app, lifespan=lifespan()) as server:
        yield House(server.url)


def items(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"item": {"country": a, "capital": b}} for a, b in pairs or CAPITALS]


def sampled(model: str, rows: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    """A data source that asks `model` for each capital."""
    template = [{"role": "user", "content": "Which city is the capital of {{item.country}}?"}]
    return {
        "type": "completions",
        "model": model,
        "source": {"type": "file_content", "content": items() if rows is None else rows},
        "input_messages": {"type": "template", "template": template},
        **more,
    }


def given(*answers: str) -> dict[str, Any]:
    """A data source whose samples are there."""
    rows = [
        {**row, "sample": {"output_text": text}}
        for row, text in zip(items(*CAPITALS[: len(answers)]), answers, strict=True)
    ]
    return {"type": "jsonl", "source": {"type": "file_content", "content": rows}}


def ended(client: openai.OpenAI, run: Any, timeout_s: float = 20) -> Any:
    """The run once it has ended."""
    return wait_for(
        lambda: client.evals.runs.retrieve(run.id, eval_id=run.eval_id),
        lambda found: found.status not in ("queued", "in_progress"),
        timeout_s,
    )


def wait_for(look: Callable[[], Any], enough: Callable[[Any], bool], timeout_s: float = 20) -> Any:
    deadline_s = time.monotonic() + timeout_s
    while not enough(found := look()):
        assert time.monotonic() < deadline_s, found
        time.sleep(0.01)
    return found


def _check(response: Any) -> None:
    """Hold every answer that a client gets against OpenAI's specification."""
    path = response.request.url.path
    if path.endswith("/comparison"):
        return  # ours
    body = json.loads(response.read())
    # The clients' path, which the specification has without its last part.
    check(response.request.method, path.removesuffix("/cancel"), response.status_code, body)
