"""`graders/run` and `graders/validate`, through the official client."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from bessemer.app.embeddings import Embedded, EmbedRequest
from bessemer.app.platform import Platform
from bessemer.core.home import Home
from bessemer.gateway.asgi import build
from bessemer.gateway.exchange import ASGIApp
from bessemer.gateway.resources import resource_routes
from tests.fakes import FakeResponder, FakeServing
from tests.gateway.calling import CHAT_KEY, KEY, FakeKeyRing, call, running
from tests.specification import check
from tests.text.test_grader_objects import BOTH, JUDGE, LIKE, RIGHT

RUN, VALIDATE = (f"/v1/fine_tuning/alpha/graders/{verb}" for verb in ("run", "validate"))


class TwoVectors:
    """Implements `Embedder`."""

    async def embed(self, request: EmbedRequest) -> Embedded:
        return Embedded([[3.0, 0.0], [0.6, 0.8]], 7)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[ASGIApp]:
    judges = {"judge": FakeResponder(["0.", "75"]), "mute": FakeResponder(["well"])}
    serving = FakeServing(judges, embedders={"vectors": TwoVectors()})
    with Platform.open(Home(tmp_path / "home")) as platform:
        routes = resource_routes(platform, serving=serving)
        yield build(serving, FakeKeyRing(), routes=routes)


@contextlib.contextmanager
def client_of(app: ASGIApp) -> Iterator[openai.OpenAI]:
    with running(app) as server:
        yield openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)


def test_the_official_client_runs_and_validates(app: ASGIApp) -> None:
    with client_of(app) as client:
        graders = client.fine_tuning.alpha.graders
        grader: Any = BOTH
        assert graders.validate(grader=grader).grader is not None
        done = graders.run(grader=grader, model_sample="a box", item={"answer": "a red box"})
        assert done.reward == pytest.approx(0.4)
        assert done.sub_rewards == {"right": 0.0, "like": pytest.approx(0.8)}
        assert (done.metadata.name, done.metadata.type) == ("both", "multi")
        assert done.metadata.execution_time >= 0


def test_likeness_by_vectors_is_counted_and_an_empty_text_asks_nobody(app: ASGIApp) -> None:
    grader = {**LIKE, "evaluation_metric": "cosine", "embedding_model": "vectors"}
    body = {"grader": grader, "item": {"answer": "red"}}
    done = call(app, RUN, {**body, "model_sample": "crimson"}).json()
    assert done["reward"] == pytest.approx(0.6)
    assert done["metadata"]["token_usage"] == 7
    empty = call(app, RUN, {**body, "model_sample": ""}).json()
    assert (empty["reward"], empty["model_grader_token_usage_per_model"]) == (0.0, {})


def test_a_model_that_judges_is_asked_and_counted(app: ASGIApp) -> None:
    done = call(app, RUN, {"grader": {**JUDGE, "model": "judge"}, "model_sample": "x"}).json()
    check("POST", RUN, 200, done)
    check("POST", VALIDATE, 200, call(app, VALIDATE, {"grader": JUDGE}).json())
    assert done["reward"] == 0.75
    assert done["metadata"]["sampled_model_name"] == "judge"
    assert done["metadata"]["token_usage"] == 9
    assert done["model_grader_token_usage_per_model"] == {"judge": 9}


@pytest.mark.parametrize(
    ("grader", "sample", "error"),
    [
        ({**RIGHT, "reference": "{{item.color}}"}, "x", "invalid_variable_error"),
        ({**RIGHT, "input": "{{sample.output_json.color}}"}, "x", "sample_parse_error"),
        ({**BOTH, "calculate_output": "right / like"}, "x", "formula_parse_error"),
        ({**JUDGE, "model": "mute"}, "x", "model_grader_parse_error"),
        ({**LIKE, "evaluation_metric": "rouge_1"}, "x" * 100_001, "other_error"),
    ],
)
def test_what_keeps_a_grader_from_judging_is_said(
    app: ASGIApp, grader: dict[str, Any], sample: str, error: str
) -> None:
    body = {"grader": grader, "model_sample": sample, "item": {"answer": "red"}}
    done = call(app, RUN, body).json()
    flags = [name for name, value in done["metadata"]["errors"].items() if value]
    assert (done["reward"], flags) == (0.0, [error])


def test_a_bad_grader_is_400_an_unknown_judge_404_and_a_poor_key_403(app: ASGIApp) -> None:
    bad = call(app, VALIDATE, {"grader": {**RIGHT, "operation": "is"}})
    assert (bad.status, bad.error["param"]) == (400, "grader.operation")
    lacking = {field: value for field, value in RIGHT.items() if field != "reference"}
    several = {"type": "multi", "name": "m", "graders": {"a": lacking}, "calculate_output": "a"}
    for grader, param in ((lacking, "grader.reference"), (several, "grader.graders.a.reference")):
        bad = call(app, VALIDATE, {"grader": grader})
        assert (bad.status, bad.error["param"]) == (400, param)
        assert bad.error["message"] == f"Missing required parameter: '{param}'."
    assert call(app, RUN, {"grader": JUDGE, "model_sample": "x"}).status == 404
    assert call(app, RUN, {"grader": RIGHT, "model_sample": "x", "n": 1}).status == 400
    for path in (RUN, VALIDATE):
        body = {"grader": RIGHT} | ({"model_sample": "x"} if path == RUN else {})
        assert call(app, path, body, key=CHAT_KEY).status == 403


def test_a_package_that_is_missing_is_named_when_the_grader_is_read(app: ASGIApp) -> None:
    source = "from rapidfuzz import fuzz\ndef grade(sample, item): return 1.0"
    python = {"type": "python", "name": "fuzzy", "source": source}
    multi = {"type": "multi", "name": "m", "graders": {"a": python}, "calculate_output": "a"}
    for grader, param in ((python, "grader.source"), (multi, "grader.graders.a.source")):
        found = call(app, VALIDATE, {"grader": grader})
        assert (found.status, found.error["param"]) == (400, param)
        assert "imports 'rapidfuzz', which is not installed" in found.error["message"]
