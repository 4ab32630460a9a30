"""Evals, their runs, and what became of each item."""

from __future__ import annotations

from typing import Any

from tests.conformance.cycle import Desk, cycle, every, gone, ids, until
from tests.gateway.evals_house import CONFIG, EQUAL, given, items, sampled


@cycle(
    "POST /evals",
    "GET /evals",
    "GET /evals/{eval_id}",
    "POST /evals/{eval_id}",
    "DELETE /evals/{eval_id}",
)
async def evals(desk: Desk) -> None:
    here = desk.client.evals
    made = await _eval(desk)
    assert (await here.retrieve(made.id)).testing_criteria[0].name == "equal"
    await here.update(made.id, name=desk.word, metadata={"run": desk.word})
    found = await here.retrieve(made.id)
    assert (found.name, found.metadata) == (desk.word, {"run": desk.word})
    assert made.id in await ids(here.list(limit=1))
    await here.delete(made.id)
    await gone(here.retrieve(made.id))
    assert made.id not in await ids(here.list())


@cycle(
    "POST /evals/{eval_id}/runs",
    "GET /evals/{eval_id}/runs",
    "GET /evals/{eval_id}/runs/{run_id}",
    "DELETE /evals/{eval_id}/runs/{run_id}",
    "GET /evals/{eval_id}/runs/{run_id}/output_items",
    "GET /evals/{eval_id}/runs/{run_id}/output_items/{output_item_id}",
)
async def eval_runs(desk: Desk) -> None:
    runs = desk.client.evals.runs
    made = await _eval(desk)
    run = await runs.create(made.id, data_source=given("Paris", "Milan", "Madrid"))
    assert run.status == "queued"
    run = await _ended(desk, run)
    assert run.status == "completed"
    counts = run.result_counts
    assert (counts.passed, counts.failed, counts.total) == (2, 1, 3)
    outputs = await every(runs.output_items.list(run.id, eval_id=made.id, limit=2))
    outputs.sort(key=lambda output: output.datasource_item_id)
    assert [output.status for output in outputs] == ["pass", "fail", "pass"]
    one = await runs.output_items.retrieve(outputs[1].id, eval_id=made.id, run_id=run.id)
    assert one.datasource_item["capital"] == "Rome" and one.results[0].passed is False
    asked = await runs.create(made.id, data_source=sampled(desk.model))
    asked = await _ended(desk, asked)
    assert asked.status == "completed" and asked.per_model_usage[0].completion_tokens > 0
    assert set(await ids(runs.list(made.id))) == {run.id, asked.id}
    await runs.delete(run.id, eval_id=made.id)
    await gone(runs.retrieve(run.id, eval_id=made.id))
    assert await ids(runs.list(made.id)) == [asked.id]


@cycle("POST /evals/{eval_id}/runs/{run_id}")
async def eval_runs_that_are_cancelled(desk: Desk) -> None:
    runs = desk.client.evals.runs
    made = await _eval(desk)
    many = items(*((f"country {n}", f"city {n}") for n in range(400)))
    run = await runs.create(made.id, data_source=sampled(desk.model, many))
    await runs.cancel(run.id, eval_id=made.id)
    ended = await _ended(desk, run)
    assert ended.status == "canceled"
    assert ended.result_counts.passed + ended.result_counts.failed < 400


async def _eval(desk: Desk) -> Any:
    return await desk.client.evals.create(data_source_config=CONFIG, testing_criteria=[EQUAL])


async def _ended(desk: Desk, run: Any) -> Any:
    return await until(
        lambda: desk.client.evals.runs.retrieve(run.id, eval_id=run.eval_id),
        lambda found: found.status not in ("queued", "in_progress"),
    )
