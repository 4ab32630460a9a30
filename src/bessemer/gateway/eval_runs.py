"""`/v1/evals/{eval_id}/runs`: ask for runs, follow them, read what became of each item.

Beyond OpenAI's API a run has a `report` (pass rates with intervals, and whether it is whole), and
can be held against another: `GET .../runs/{run_id}/comparison?with=OTHER`.
"""

from __future__ import annotations

from typing import cast, get_args

import msgspec

from bessemer.app import eval_definitions, eval_reports, eval_runs, eval_submission
from bessemer.app.chat import Serving
from bessemer.app.eval_definitions import WRITE_SCOPE, Metadata
from bessemer.app.eval_reports import Report, report_of
from bessemer.app.eval_runs import EvalRun, Fault, Output
from bessemer.app.eval_tally import Tally, Verdict
from bessemer.app.platform import Platform
from bessemer.core.errors import InvalidInput
from bessemer.gateway.eval_sampling import DataSource, plan_of
from bessemer.gateway.query import PAGING
from bessemer.gateway.routes import Call, ListShape, Route


class CreateRun(msgspec.Struct, forbid_unknown_fields=True):
    data_source: DataSource
    name: str | None = None
    metadata: Metadata | None = None


class CountsShape(msgspec.Struct):
    """`total` is every item, also those without an output yet."""

    total: int
    errored: int
    failed: int
    passed: int


class ModelUsageShape(msgspec.Struct):
    model_name: str
    invocation_count: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int


class CriterionShape(msgspec.Struct):
    testing_criteria: str
    passed: int
    failed: int
    errored: int


class RunShape(msgspec.Struct):
    id: str
    eval_id: str
    status: str
    model: str
    name: str
    created_at: int
    report_url: str
    result_counts: CountsShape
    per_model_usage: list[ModelUsageShape]
    per_testing_criteria_results: list[CriterionShape]
    data_source: msgspec.Raw
    metadata: dict[str, str]
    error: Fault
    report: Report
    object: str = "eval.run"

    @classmethod
    def of(cls, run: EvalRun, labels: list[str], site: str) -> RunShape:
        tally = run.tally
        return cls(
            id=run.id,
            eval_id=run.eval_id,
            status=run.state,
            model=run.model,
            name=run.name,
            created_at=run.created_ms // 1000,
            report_url=f"{site}/evals/{run.eval_id}/runs/{run.id}",
            result_counts=CountsShape(run.total, tally.errored, tally.failed, tally.passed),
            per_model_usage=_usage(tally),
            per_testing_criteria_results=[
                CriterionShape(label, found.passed, found.failed, found.errored)
                for label in labels
                if (found := tally.criteria.get(label)) is not None
            ],
            data_source=run.data_source,
            metadata=dict(run.metadata),
            error=run.error,
            report=report_of(run, labels),
        )


class OutputShape(msgspec.Struct):
    """`datasource_item_id` counts the items of the source from 0."""

    id: str
    run_id: str
    eval_id: str
    created_at: int
    status: str
    datasource_item_id: int
    datasource_item: msgspec.Raw
    results: msgspec.Raw
    sample: msgspec.Raw
    object: str = "eval.run.output_item"

    @classmethod
    def of(cls, output: Output) -> OutputShape:
        return cls(
            output.id,
            output.run_id,
            output.eval_id,
            output.created_ms // 1000,
            output.state,
            output.number,
            output.body["datasource_item"],
            output.body["results"],
            output.body["sample"],
        )


class DeletedRun(msgspec.Struct):
    run_id: str
    object: str = "eval.run.deleted"
    deleted: bool = True


_create = msgspec.json.Decoder(CreateRun)
_RUNS = "/v1/evals/{eval_id}/runs"
_RUN = _RUNS + "/{run_id}"


def routes(platform: Platform, serving: Serving | None = None) -> list[Route]:
    async def answer(call: Call, run: EvalRun, status: int = 200) -> None:
        labels = await call.work(_labels, platform, call)
        await call.reply(RunShape.of(run, labels, _site(call)), status)

    async def create(call: Call) -> None:
        """Ask for a run: it is checked line by line at once, and done in the background."""
        call.principal.require(WRITE_SCOPE)
        body = await call.body(_create)
        asked = plan_of(body.data_source)
        run = await call.work(
            eval_submission.submit,
            platform,
            call.principal,
            serving,
            call.ids["eval_id"],
            asked.plan,
            asked.data_source,
            name=body.name,
            metadata=body.metadata,
        )
        await answer(call, run, 201)

    async def list_all(call: Call) -> None:
        """The runs of an eval, each with its report."""
        state = call.query.choice("status", eval_runs.STATES)
        found, has_more = await call.work(
            eval_runs.list_runs,
            platform,
            call.principal,
            call.ids["eval_id"],
            call.query.page(order="asc"),
            cast(eval_runs.State | None, state),
        )
        labels = await call.work(_labels, platform, call)
        shapes = [RunShape.of(run, labels, _site(call)) for run in found]
        await call.reply(ListShape.of(shapes, has_more))

    async def get(call: Call) -> None:
        """One run: its state, counts, usage and report."""
        await answer(call, await call.work(eval_runs.get, platform, call.principal, *_ids(call)))

    async def cancel(call: Call) -> None:
        """Stop a run; what is judged stays."""
        run = await call.work(eval_runs.cancel, platform, call.principal, *_ids(call))
        await answer(call, run)

    async def delete(call: Call) -> None:
        """Forget a run and its results."""
        await call.work(eval_runs.delete, platform, call.principal, *_ids(call))
        await call.reply(DeletedRun(call.ids["run_id"]))

    async def list_outputs(call: Call) -> None:
        """What became of each item: the answer, and each criterion's result."""
        found, has_more = await call.work(
            eval_runs.list_outputs,
            platform,
            call.principal,
            *_ids(call),
            call.query.page(order="asc"),
            cast(Verdict | None, call.query.choice("status", get_args(Verdict))),
        )
        await call.reply(ListShape.of([OutputShape.of(one) for one in found], has_more))

    async def get_output(call: Call) -> None:
        """What became of one item."""
        found = await call.work(
            eval_runs.get_output,
            platform,
            call.principal,
            *_ids(call),
            call.ids["output_item_id"],
        )
        await call.reply(OutputShape.of(found))

    async def compare(call: Call) -> None:
        """**extension**: hold this run against the run `with`, item by item, with a sentence."""
        other = call.query.text("with")
        if other is None:
            raise InvalidInput("Missing required parameter: 'with'.", param="with")
        eval_id, run_id = _ids(call)
        found = await call.work(
            eval_reports.compare, platform, call.principal, eval_id, other, run_id
        )
        await call.reply(found)

    return [
        Route("POST", _RUNS, create),
        Route("GET", _RUNS, list_all, query=(*PAGING, "status")),
        Route("GET", _RUN, get),
        # The specification has the first, OpenAI's clients and examples the second.
        Route("POST", _RUN, cancel),
        Route("POST", f"{_RUN}/cancel", cancel),
        Route("DELETE", _RUN, delete),
        Route("GET", f"{_RUN}/output_items", list_outputs, query=(*PAGING, "status")),
        Route("GET", f"{_RUN}/output_items/{{output_item_id}}", get_output),
        Route("GET", f"{_RUN}/comparison", compare, query=("with",)),
    ]


def _ids(call: Call) -> tuple[str, str]:
    return call.ids["eval_id"], call.ids["run_id"]


def _labels(platform: Platform, call: Call) -> list[str]:
    # Whoever was shown or given a run may know its criteria's names, also with `evals:write` alone.
    scope = eval_definitions.READ_SCOPE
    if not call.principal.scopes & {"*", scope}:
        scope = eval_definitions.WRITE_SCOPE
    return eval_definitions.get(platform, call.principal, call.ids["eval_id"], scope=scope).labels


def _site(call: Call) -> str:
    """Where the console is: the address under which this server was asked."""
    scheme = call.exchange.header(b"x-forwarded-proto") or "http"
    return f"{scheme}://{call.exchange.header(b'host') or 'localhost'}"


def _usage(tally: Tally) -> list[ModelUsageShape]:
    return [
        ModelUsageShape(
            name,
            used.invocations,
            used.prompt_tokens,
            used.completion_tokens,
            used.prompt_tokens + used.completion_tokens,
            used.cached_tokens,
        )
        for name, used in tally.models.items()
    ]
