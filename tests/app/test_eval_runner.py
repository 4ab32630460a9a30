"""Runs of evals in the background: models that judge, restarts, kills, and nothing done twice."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bessemer.app import eval_reports, eval_runs
from bessemer.app.embeddings import EngineEmbedder
from bessemer.app.eval_runner import EvalRunner
from bessemer.app.eval_sources import Row
from bessemer.app.metering import Meter
from bessemer.app.paging import PageRequest
from bessemer.app.platform import Platform
from bessemer.app.tables import eval_outputs
from bessemer.core.errors import Busy, EngineUnavailable, InvalidInput
from bessemer.core.protocols import Delta, ToolCallDelta, Usage
from tests.app.evals_world import EQUAL, ME, define, finish_all, rows, submit, the_run
from tests.fakes import FakeResponder, FakeServing
from tests.metered import charge, rows_of
from tests.unreachable import away

ROOT = Path(__file__).parents[2]
JUDGE = {"model": "judge", "input": [{"role": "user", "content": "{{sample.output_text}}?"}]}


def outputs(platform: Platform, run: Any) -> list[Any]:
    return eval_runs.list_outputs(platform, ME, run.eval_id, run.id, PageRequest(100, "asc"))[0]


async def test_a_restart_goes_on_with_what_has_no_output(platform: Platform) -> None:
    run = submit(platform, define(platform), rows(20))
    first = FakeResponder(hold_after=0)
    task = asyncio.create_task(finish_all(platform, FakeServing({"m": first}), run.id))
    while first.opened < 8:
        await asyncio.sleep(0.01)
    first.go.set()
    while the_run(platform, run.id).tally.done < 8:
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    before = the_run(platform, run.id)
    kept = {output.number: output.id for output in outputs(platform, run)}
    assert before.tally.done == len(kept)
    second = FakeResponder()
    after = await finish_all(platform, FakeServing({"m": second}), run.id)
    assert (after.state, after.tally.passed) == ("completed", 20)
    assert len(second.requests) == 20 - len(kept)
    found = {output.number: output.id for output in outputs(platform, run)}
    assert sorted(found) == list(range(20)) and kept.items() <= found.items()
    assert after.tally.models["m"].invocations == 20


def test_after_kill_9_each_item_has_one_output_and_is_counted_once(platform: Platform) -> None:
    run = submit(platform, define(platform), rows(30))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.app.evals_world", str(platform.home.root), "13"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline_s = time.monotonic() + 30
        while the_run(platform, run.id).tally.done < 13:
            assert time.monotonic() < deadline_s and process.poll() is None
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert the_run(platform, run.id).state == "in_progress"
    responder = FakeResponder()
    after = asyncio.run(finish_all(platform, FakeServing({"m": responder}), run.id))
    assert (after.state, after.tally.passed, after.total) == ("completed", 30, 30)
    assert len(responder.requests) == 17, "what was kept is not asked again"
    with platform.db.read() as connection:
        numbers = list(connection.execute(sa.select(eval_outputs.c.number)).scalars())
    assert sorted(numbers) == list(range(30))


async def test_an_item_is_charged_once_it_has_an_output_and_not_before(platform: Platform) -> None:
    charge(platform)
    meter = Meter.of(platform)
    score = {"type": "score_model", "name": "mark", "range": [0, 10], **JUDGE}
    run = submit(platform, define(platform, score), rows(4))
    held = FakeResponder(["7"], hold_after=0)
    for judge in (held, FakeResponder(["7"])):
        serving = FakeServing({"m": FakeResponder(["Hi"]), "judge": judge})
        runner = EvalRunner(platform, serving, meter=meter, tick_s=0.01)
        await runner.start()
        async with asyncio.timeout(20):
            while held.opened < 4 or (judge is not held and eval_runs.open_runs(platform)):
                await asyncio.sleep(0.01)
        await runner.close()  # the first time every item was answered, and none was judged
    meter.close()
    assert the_run(platform, run.id).tally.done == 4
    settled = [row.model for row in rows_of(platform) if row.state == "settled"]
    assert sorted(settled) == ["judge"] * 4 + ["m"] * 4
    assert {row.state for row in rows_of(platform)} == {"settled", "released"}


async def test_a_database_that_is_away_for_a_while_ends_no_run(platform: Platform) -> None:
    run = submit(platform, define(platform), rows(20))
    responder = FakeResponder(hold_after=0)
    runner = EvalRunner(platform, FakeServing({"m": responder}), tick_s=0.01)
    await runner.start()
    while responder.opened < 8:
        await asyncio.sleep(0.01)
    with away(platform.db):
        responder.go.set()  # what is answered now cannot be kept
        while not all(task.done() for task in runner._going.values()):
            await asyncio.sleep(0.01)
    assert the_run(platform, run.id).state == "in_progress"
    async with asyncio.timeout(20):
        while run.id in eval_runs.open_runs(platform):
            await asyncio.sleep(0.01)
    await runner.close()
    after = the_run(platform, run.id)
    assert (after.state, after.tally.passed, after.tally.errored) == ("completed", 20, 0)


async def test_a_run_that_was_canceled_counts_nothing_more(platform: Platform) -> None:
    run = submit(platform, define(platform), rows(3))
    begun = eval_runs.begin(platform, run.id)
    assert begun is not None
    eval_runs.cancel(platform, ME, run.eval_id, run.id)
    output = eval_runs.NewOutput(0, "", "pass", {}, b"{}", eval_runs.Tally(passed=1))
    assert not eval_runs.record(platform, run.id, output)
    assert eval_runs.begin(platform, run.id) is None
    assert the_run(platform, run.id).tally.done == 0


async def test_judges_choose_labels_and_give_scores_under_constraints(platform: Platform) -> None:
    label = {"type": "label_model", "name": "tone", "labels": ["kind", "rude"],
             "passing_labels": ["kind"], **JUDGE}  # fmt: skip
    score = {"type": "score_model", "name": "mark", "range": [0, 10], "pass_threshold": 7, **JUDGE,
             "model": "marker", "sampling_params": {"temperature": 0.5, "seed": 1}}  # fmt: skip
    serving = FakeServing(
        {
            "m": FakeResponder(["Hi"]),
            "judge": FakeResponder(["kind"]),
            "marker": FakeResponder("7"),
        }
    )
    run = submit(platform, define(platform, label, score), rows(1))
    found = await finish_all(platform, serving, run.id)
    assert (found.state, found.tally.passed) == ("completed", 1)
    assert found.tally.criteria["mark"].score == 7
    judge = await serving.responder(ME, "judge")
    marker = await serving.responder(ME, "marker")
    (asked,), (marked,) = judge.requests, marker.requests
    assert asked.messages == [{"role": "user", "content": "Hi?"}]
    assert asked.constraint is not None and asked.constraint.text == '["kind","rude"]'
    assert (asked.sampling.temperature, asked.sampling.seed) == (0, 42)
    assert marked.constraint is not None and '"maximum":10' in marked.constraint.text
    assert (marked.sampling.temperature, marked.sampling.seed) == (0.5, 1)
    assert {one.key_id for one in serving.principals} == {"key_1", ME.key_id}


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("11", "outside of 0 to 1"),
        ('{"score": 11}', "outside of 0 to 1"),
        ("good", "no number"),
        ('{"score": ', "no number"),
        ("", "no number"),
    ],
)
async def test_a_judge_that_cannot_be_read_is_an_error_not_a_zero(
    platform: Platform, says: str, told: str
) -> None:
    score = {"type": "score_model", "name": "mark", **JUDGE}
    serving = FakeServing({"m": FakeResponder(), "judge": FakeResponder([says])})
    run = submit(platform, define(platform, score, EQUAL), rows(1))
    found = await finish_all(platform, serving, run.id)
    assert (found.tally.errored, found.tally.criteria["mark"].errored) == (1, 1)
    assert found.tally.criteria["equal"].passed == 1
    report = eval_reports.report_of(found, ["mark", "equal"])
    assert report.criteria[0].pass_rate.value is None and not report.complete
    assert told in bytes(outputs(platform, run)[0].body["results"]).decode()


class Embedder:
    """The angle of a text is its length in tenths of a radian."""

    async def embed(self, request: Any) -> Any:
        import math

        from bessemer.app.embeddings import Embedded

        angles = [len(text) / 10 for text in request.inputs]
        return Embedded([[2 * math.cos(a), 2 * math.sin(a)] for a in angles], 5)


async def test_cosine_is_of_the_vectors_of_a_served_model(platform: Platform) -> None:
    import math

    cosine = {"type": "text_similarity", "name": "near", "input": "{{sample.output_text}}",
              "reference": "{{item.want}}", "evaluation_metric": "cosine",
              "pass_threshold": 0.5, "embedding_model": "vectors"}  # fmt: skip
    serving = FakeServing({"m": FakeResponder(["abc"])}, embedders={"vectors": Embedder()})
    run = submit(platform, define(platform, cosine), rows(1, want="abcde"))
    found = await finish_all(platform, serving, run.id)
    assert found.tally.criteria["near"].score == pytest.approx(math.cos(0.2))
    assert found.tally.models["vectors"].prompt_tokens == 5
    assert EngineEmbedder is not Embedder


class Calling(FakeResponder):
    """Calls a function, in pieces."""

    async def respond(self, request: Any) -> Any:
        self.requests.append(request)
        yield Delta(tool_calls=[ToolCallDelta(0, id="c1", name="find", arguments='{"a"')])
        yield Delta(tool_calls=[ToolCallDelta(0, arguments=": 1}")])
        usage = Usage(prompt_tokens=3, completion_tokens=2)
        yield Delta(finish_reason="tool_calls", usage=usage)


async def test_calls_can_be_judged(platform: Platform) -> None:
    check = {**EQUAL, "reference": 'find {"a": 1}', "input": (
        "{{sample.output_tools[0].function.name}} {{sample.output_tools[0].function.arguments}}"
    )}  # fmt: skip
    run = submit(platform, define(platform, check), rows(1))
    found = await finish_all(platform, FakeServing({"m": Calling()}), run.id)
    assert found.tally.passed == 1


class Full(FakeResponder):
    """Is full, then away, and then answers."""

    def __init__(self) -> None:
        super().__init__()
        self._faults = [Busy("full", retry_after_s=0.01), EngineUnavailable("away")]

    async def respond(self, request: Any) -> Any:
        if self._faults:
            raise self._faults.pop()
        async for delta in super().respond(request):
            yield delta


async def test_an_engine_that_is_full_or_away_is_waited_for(platform: Platform) -> None:
    run = submit(platform, define(platform), rows(1))
    found = await finish_all(platform, FakeServing({"m": Full()}), run.id)
    assert found.tally.passed == 1


async def test_a_run_may_judge_only_what_it_was_given(platform: Platform) -> None:
    given = [Row({"want": "a"}, {"output_text": "a"}), Row({"want": "b"}, {"output_text": "a"})]
    run = submit(platform, define(platform), given, model=None)
    found = await finish_all(platform, FakeServing({}), run.id)
    assert (found.tally.passed, found.tally.failed, found.tally.models) == (1, 1, {})


def test_comparing_holds_equal_items_against_each_other(platform: Platform) -> None:
    definition = define(platform)
    runs = [
        submit(platform, definition, rows(12, want="Hello, world")),
        submit(platform, definition, rows(12)[::-1]),
    ]
    for run in runs:
        asyncio.run(finish_all(platform, FakeServing({"m": FakeResponder()}), run.id))
    found = eval_reports.compare(platform, ME, definition.id, runs[0].id, runs[1].id)
    (_, equal) = found.comparisons
    assert (equal.items, equal.gained, equal.lost, equal.verdict) == (12, 0, 0, "cannot tell")
    assert equal.reason == "the interval includes no difference"
    assert found.changed_count == 0 and not found.partial
    with pytest.raises(InvalidInput, match="against itself"):
        eval_reports.compare(platform, ME, definition.id, runs[0].id, runs[0].id)
