"""The pages of evals: the list, one eval with its runs, one run item by item, and two runs held
against each other.
"""

from __future__ import annotations

from typing import cast, get_args

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from bessemer.app import eval_definitions, eval_reports, eval_runs
from bessemer.app.eval_definitions import Eval
from bessemer.app.eval_reports import Changed, RunComparison
from bessemer.app.eval_runs import EvalRun
from bessemer.app.eval_tally import Verdict
from bessemer.app.paging import PageRequest
from bessemer.app.platform import Platform
from bessemer.console.asker import asker
from bessemer.console.copying import ApiCall
from bessemer.console.eval_view import (
    ChangedView,
    EvalRunView,
    OutputView,
    criteria_of,
    flips_of,
)
from bessemer.console.rendering import page
from bessemer.core.errors import InvalidInput
from bessemer.core.principal import Principal

LISTED = 50
OUTPUTS = 25
CHANGED_SHOWN = 50
_EVAL = "/v1/evals/{eval_id}"
_RUN = _EVAL + "/runs/{run_id}"


class EvalPages:
    """The routes of evals over one platform. All are for worker threads."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def index(self, request: Request) -> Response:
        me, after = asker(request), request.query_params.get("after")
        asked = PageRequest(limit=LISTED, after=after)
        found, has_more = eval_definitions.list_evals(self._platform, me, asked)
        rows = [(one, self._newest(me, one)) for one in found]
        return page(
            request,
            "evals.html",
            rows=rows,
            has_more=has_more,
            is_first=after is None,
            calls=[
                ApiCall("List the evals", "GET", "/v1/evals", python="evals.list",
                        cli=["evals", "list", "--json"])
            ],
        )  # fmt: skip

    def show(self, request: Request) -> Response:
        """An eval with its runs; with `?run_id=`, as older links have it, that run."""
        me, definition = asker(request), self._get(request)
        if run_id := request.query_params.get("run_id"):
            run = eval_runs.get(self._platform, me, definition.id, run_id)
            return RedirectResponse(f"/evals/{definition.id}/runs/{run.id}", status_code=303)
        after = request.query_params.get("after")
        asked = PageRequest(limit=LISTED, after=after)
        runs, has_more = eval_runs.list_runs(self._platform, me, definition.id, asked)
        return page(
            request,
            "eval.html",
            definition=definition,
            criteria=criteria_of(definition),
            runs=[EvalRunView(run, definition.labels) for run in runs],
            has_more=has_more,
            is_first=after is None,
            calls=_calls_of(definition),
        )

    def show_run(self, request: Request) -> Response:
        me, definition = asker(request), self._get(request)
        run = eval_runs.get(self._platform, me, definition.id, request.path_params["run_id"])
        state = request.query_params.get("status") or None
        if state is not None and state not in get_args(Verdict):
            raise InvalidInput(f"status is pass, fail or error, not {state[:40]!r}", param="status")
        after = request.query_params.get("after")
        found, has_more = eval_runs.list_outputs(
            self._platform,
            me,
            definition.id,
            run.id,
            PageRequest(limit=OUTPUTS, order="asc", after=after),
            cast(Verdict | None, state),
        )
        others, _ = eval_runs.list_runs(
            self._platform, me, definition.id, PageRequest(limit=LISTED)
        )
        return page(
            request,
            "eval_run.html",
            definition=definition,
            view=EvalRunView(run, definition.labels),
            run=run,
            outputs=[OutputView(one) for one in found],
            only=state,
            has_more=has_more,
            is_first=after is None,
            others=[one for one in others if one.id != run.id],
            calls=_calls_of_run(definition, run),
        )

    def cancel(self, request: Request) -> Response:
        eval_id, run_id = request.path_params["eval_id"], request.path_params["run_id"]
        eval_runs.cancel(self._platform, asker(request), eval_id, run_id)
        return RedirectResponse(f"/evals/{eval_id}/runs/{run_id}", status_code=303)

    def compare(self, request: Request) -> Response:
        """Two runs, by `?baseline=` and `?candidate=`."""
        me, definition = asker(request), self._get(request)
        chosen = [request.query_params.get(name, "") for name in ("baseline", "candidate")]
        if not all(chosen):
            raise InvalidInput("choose a run before and a run after", param="baseline")
        baseline, candidate = (
            eval_runs.get(self._platform, me, definition.id, run_id) for run_id in chosen
        )
        found = eval_reports.compare(self._platform, me, definition.id, baseline.id, candidate.id)
        lost, gained = found.comparisons[0].lost, found.comparisons[0].gained
        other = found.changed_count - lost - gained
        return page(
            request,
            "eval_comparison.html",
            definition=definition,
            baseline=baseline,
            candidate=candidate,
            found=found,
            counts={"lost": lost, "gained": gained, "other": other},
            changed=[self._changed(me, found, one) for one in found.changed[:CHANGED_SHOWN]],
            calls=_calls_of_comparison(found),
        )

    def _get(self, request: Request) -> Eval:
        return eval_definitions.get(self._platform, asker(request), request.path_params["eval_id"])

    def _newest(self, me: Principal, definition: Eval) -> EvalRunView | None:
        runs, _ = eval_runs.list_runs(self._platform, me, definition.id, PageRequest(limit=1))
        return EvalRunView(runs[0], definition.labels) if runs else None

    def _changed(self, me: Principal, found: RunComparison, one: Changed) -> ChangedView:
        sides = ((found.baseline, one.baseline_output), (found.candidate, one.candidate_output))
        before, after = (
            OutputView(eval_runs.get_output(self._platform, me, found.eval_id, run_id, output_id))
            for run_id, output_id in sides
        )
        return ChangedView(one.change, one.number, before, after, flips_of(one))


def _calls_of(definition: Eval) -> list[ApiCall]:
    ids = [definition.id]
    return [
        ApiCall("Look at the eval", "GET", _EVAL, ids, python="evals.retrieve",
                cli=["evals", "show", definition.id, "--json"]),
        ApiCall("List its runs", "GET", f"{_EVAL}/runs", ids, python="evals.runs.list"),
    ]  # fmt: skip


def _calls_of_run(definition: Eval, run: EvalRun) -> list[ApiCall]:
    ids = [definition.id, run.id]
    calls = [
        ApiCall("Look at the run", "GET", _RUN, ids, python="evals.runs.retrieve",
                cli=["evals", "show", definition.id, run.id, "--json"]),
        ApiCall("List what failed", "GET", f"{_RUN}/output_items", ids, query={"status": "fail"},
                python="evals.runs.output_items.list"),
    ]  # fmt: skip
    if run.state in eval_runs.OPEN:
        calls.append(ApiCall("Cancel it", "POST", _RUN, ids, python="evals.runs.cancel"))
    return calls


def _calls_of_comparison(found: RunComparison) -> list[ApiCall]:
    words = ["evals", "compare", found.eval_id, found.baseline, found.candidate, "--json"]
    return [
        ApiCall("Compare the runs", "GET", f"{_RUN}/comparison", [found.eval_id, found.candidate],
                query={"with": found.baseline}, cli=words)
    ]  # fmt: skip
