"""What was exported from OpenAI, taken: with its ids, its results, and what could not be taken."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from openai._models import construct_type
from openai.types import EvalRetrieveResponse
from openai.types.evals import RunRetrieveResponse
from openai.types.evals.runs import OutputItemRetrieveResponse

from bessemer.app import eval_definitions, eval_reports, eval_runs
from bessemer.app.eval_definitions import CustomData
from bessemer.app.eval_importing import Imported, import_objects
from bessemer.app.paging import PageRequest
from bessemer.app.platform import Platform
from bessemer.core.errors import InvalidInput
from bessemer.gateway.eval_runs import OutputShape, RunShape
from bessemer.text.criteria import Criterion, ScoreModel, StringCheck
from tests.app.evals_world import ME, rows, submit
from tests.specification import check

CALLED = {
    "role": "assistant",
    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}
UUID = "a2486074-d803-4445-b431-ad2262e85d47"
OTHER = "1808cd0b-eeec-4e0b-a519-337e79f4f5d1"
# As OpenAI's documentation shows them.
EVAL: dict[str, Any] = {
    "object": "eval",
    "id": "eval_67abd54d9b0081909a86353f6fb9317a",
    "name": "Headlines",
    "created_at": 1739314509,
    "metadata": {"team": "news"},
    "data_source_config": {
        "type": "custom",
        "schema": {
            "type": "object",
            "properties": {
                "item": {"type": "object", "properties": {"input": {"type": "string"}}},
                "sample": {"type": "object"},
            },
            "required": ["item", "sample"],
        },
    },
    "testing_criteria": [
        {"name": "String check", "id": f"String check-{UUID}", "type": "string_check",
         "input": "{{sample.output_text}}", "reference": "{{item.label}}", "operation": "eq"},
        {"name": "Judge", "id": f"Judge-{OTHER}", "type": "label_model", "model": "o3-mini",
         "input": [{"type": "message", "role": "developer",
                    "content": {"type": "input_text", "text": "Judge {{item.input}}"}}],
         "labels": ["good", "bad"], "passing_labels": ["good"], "sampling_params": None},
        {"name": "New", "id": "New-1", "type": "telepathy"},
    ],
}  # fmt: skip
SOURCE = {
    "type": "completions",
    "model": "gpt-4o-mini",
    "source": {"type": "file_content", "content": [{"item": {"input": "a", "label": "b"}}]},
    "input_messages": {"type": "template", "template": [
        {"type": "message", "role": "user",
         "content": {"type": "input_text", "text": "{{item.input}}"}}]},
    "sampling_params": {"seed": 42, "temperature": 1.0, "top_p": 1.0,
                        "max_completions_tokens": 2048},
}  # fmt: skip
RUN: dict[str, Any] = {
    "object": "eval.run",
    "id": "evalrun_67e57965b480819094274e3a32235e4c",
    "eval_id": EVAL["id"],
    "report_url": "https://platform.openai.com/evaluations/x",
    "status": "completed",
    "model": "gpt-4o-mini",
    "name": "mini",
    "created_at": 1743092069,
    "result_counts": {"total": 3, "errored": 0, "failed": 1, "passed": 2},
    "per_model_usage": [{"model_name": "gpt-4o-mini", "invocation_count": 3, "prompt_tokens": 30,
                         "completion_tokens": 6, "total_tokens": 36, "cached_tokens": 0}],
    "per_testing_criteria_results": [
        {"testing_criteria": f"String check-{UUID}", "passed": 2, "failed": 1},
        {"testing_criteria": f"Judge-{OTHER}", "passed": 3, "failed": 0},
    ],
    "data_source": SOURCE,
    "error": None,
    "metadata": {},
}  # fmt: skip


def output(number: int, passed: bool) -> dict[str, Any]:
    return {
        "object": "eval.run.output_item",
        "id": f"outputitem_{number}",
        "run_id": RUN["id"],
        "eval_id": EVAL["id"],
        "created_at": 1743092076,
        "status": "pass" if passed else "fail",
        "datasource_item_id": number,
        "datasource_item": {"input": f"headline {number}", "label": "b"},
        "results": [
            {"name": f"String check-{UUID}", "sample": None, "passed": passed, "score": passed},
            {"name": f"Judge-{OTHER}", "sample": {"output": []}, "passed": True, "score": 1.0},
        ],
        "sample": {"input": [], "output": [], "finish_reason": "stop", "model": "gpt-4o-mini",
                   "usage": {"total_tokens": 3, "completion_tokens": 1, "prompt_tokens": 2,
                             "cached_tokens": 0}, "error": None, "temperature": 1.0,
                   "max_completion_tokens": 2048, "top_p": 1.0, "seed": 42},
    }  # fmt: skip


def take(platform: Platform, *objects: Any) -> Imported:
    return import_objects(platform, ME, iter(objects))


def test_definitions_runs_and_results_are_taken_in_any_order(platform: Platform) -> None:
    found = take(platform, output(0, True), output(1, True), RUN, output(2, False), EVAL)
    assert (list(found.evals), list(found.runs), found.outputs) == ([EVAL["id"]], [RUN["id"]], 3)
    definition = eval_definitions.get(platform, ME, found.evals[EVAL["id"]])
    assert isinstance(definition.config, CustomData) and definition.config.include_sample_schema
    assert definition.labels == ["String check", "Judge"]
    assert definition.metadata == {"team": "news", "openai_id": EVAL["id"]}
    assert [note.partition(": ")[2][:40] for note in found.notes] == [
        "'Judge' is judged by 'o3-mini', which ha",
        "the criterion 'New' could not be taken: ",
    ]
    run = eval_runs.get(platform, ME, definition.id, found.runs[RUN["id"]])
    assert (run.state, run.tally.passed, run.tally.failed, run.total) == ("completed", 2, 1, 3)
    assert run.tally.criteria["String check"].failed == 1
    assert run.tally.models["gpt-4o-mini"].prompt_tokens == 30
    assert eval_reports.report_of(run, definition.labels).complete
    outputs, _ = eval_runs.list_outputs(platform, ME, run.eval_id, run.id, PageRequest(10, "asc"))
    assert outputs[2].verdicts == {"String check": False, "Judge": True}
    with pytest.raises(eval_definitions.NotFound):
        eval_runs.get(platform, ME, definition.id, RUN["id"])


def test_a_run_without_its_results_keeps_its_counts_and_results_may_follow(
    platform: Platform,
) -> None:
    found = take(platform, EVAL, RUN)
    eval_id, run_id = found.evals[EVAL["id"]], found.runs[RUN["id"]]
    before = eval_runs.get(platform, ME, eval_id, run_id)
    assert (before.tally.passed, before.tally.criteria["Judge"].passed) == (2, 3)
    again = take(platform, EVAL, RUN, output(0, True), output(1, True))
    assert (again.evals, again.runs, again.outputs) == ({}, {}, 2)
    assert any("1 are not here" in note for note in again.notes)
    after = eval_runs.get(platform, ME, eval_id, run_id)
    assert (after.tally.passed, after.tally.done, after.total) == (2, 2, 3)
    report = eval_reports.report_of(after, ["String check", "Judge"])
    assert not report.complete and report.missing == 1
    last = take(platform, output(1, True), output(2, False))
    assert last.outputs == 1 and f"1 results of {RUN['id']} are here already" in last.notes
    assert eval_runs.get(platform, ME, eval_id, run_id).tally.done == 3


def test_what_has_no_parent_or_no_criterion_is_told(platform: Platform) -> None:
    lost = take(platform, RUN, output(0, True))
    assert [note.partition("could not be taken: ")[2] for note in lost.notes] == [
        f"its eval {EVAL['id']} is not here",
        f"their run {RUN['id']} is not here",
    ]
    empty = {**EVAL, "testing_criteria": EVAL["testing_criteria"][2:]}
    assert "none of its criteria can be judged here" in take(platform, empty).notes[-1]
    queued = take(platform, EVAL, {**RUN, "status": "in_progress"})
    run = eval_runs.get(platform, ME, queued.evals[EVAL["id"]], queued.runs[RUN["id"]])
    assert (run.state, run.error.message) == (
        "canceled", "it was in_progress when it was exported",
    )  # fmt: skip
    assert run.id not in eval_runs.open_runs(platform)


@pytest.mark.parametrize(
    ("whole", "change"),
    [
        (EVAL, {"metadata": "none"}),
        (EVAL, {"data_source_config": {"type": "custom", "schema": "free"}}),
        (EVAL, {"testing_criteria": [{"name": "x", "sampling_params": 7}]}),
        (RUN, {"result_counts": {"total": "three"}}),
        (RUN, {"per_testing_criteria_results": [{"testing_criteria": "x", "passed": "all"}]}),
        (RUN, {"error": "lost"}),
        (output(1, True), {"sample": "hello"}),
        (output(1, True), {"sample": {"input": 7}}),
        (output(1, True), {"datasource_item_id": 2**70}),
    ],
)
def test_an_object_in_another_form_is_told_and_the_others_are_taken(
    platform: Platform, whole: dict[str, Any], change: dict[str, Any]
) -> None:
    mine = {**EVAL, "id": "eval_mine"}
    broken = {**whole, **change, "id": "broken"}
    taken = take(platform, broken, mine)
    assert "eval_mine" in taken.evals and "broken" not in (*taken.evals, *taken.runs)
    (note,) = (note for note in taken.notes if note.startswith("broken could not be taken: "))
    assert f"$.{next(iter(change))}" in note and taken.outputs == 0


def test_dates_are_kept_and_lists_follow_them(platform: Platform) -> None:
    native = eval_definitions.add(platform, ME, CustomData({}), define_criteria())
    later = {**EVAL, "id": "eval_2", "created_at": EVAL["created_at"] + 60}
    found = take(platform, later, EVAL, RUN, output(0, True))
    listed, _ = eval_definitions.list_evals(platform, ME, PageRequest(order="asc"))
    assert [one.id for one in listed] == [*list(found.evals.values())[::-1], native.id]
    assert listed[0].created_ms == EVAL["created_at"] * 1000
    run_id = found.runs[RUN["id"]]
    run = eval_runs.get(platform, ME, found.evals[EVAL["id"]], run_id)
    (first,), _ = eval_runs.list_outputs(platform, ME, run.eval_id, run.id, PageRequest())
    assert (run.created_ms, first.created_ms) == (1743092069_000, 1743092076_000)


def test_a_schema_that_cannot_be_held_to_does_not_keep_results_away(platform: Platform) -> None:
    item = {"type": "object", "patternProperties": {"^a": {"type": "string"}}}
    config = {"type": "custom", "schema": {"properties": {"item": item, "sample": {}}}}
    found = take(platform, {**EVAL, "data_source_config": config}, RUN, output(0, True))
    definition = eval_definitions.get(platform, ME, found.evals[EVAL["id"]])
    assert definition.config == CustomData({}, include_sample_schema=True)
    assert found.outputs == 1
    assert "items are taken as they come, for the schema of the items cannot be" in found.notes[0]


def test_a_criterion_that_could_say_nothing_did_not_fail(platform: Platform) -> None:
    error = {"code": "server_error", "message": "no answer"}
    one = output(0, True)
    one["status"] = "error"
    one["results"][1] |= {"passed": False, "score": 0.0, "sample": {"error": error}}
    other = output(1, True)
    other["status"] = "error"
    other["results"][1] |= {"passed": False, "score": 0.0, "error": error}
    found = take(platform, EVAL, RUN, one, other, output(2, True))
    run = eval_runs.get(platform, ME, found.evals[EVAL["id"]], found.runs[RUN["id"]])
    judge = run.tally.criteria["Judge"]
    assert (judge.passed, judge.failed, judge.errored, run.tally.errored) == (1, 0, 2, 2)
    outputs, _ = eval_runs.list_outputs(platform, ME, run.eval_id, run.id, PageRequest(10, "asc"))
    assert outputs[0].verdicts == {"String check": True}


def test_a_judge_that_reasoned_is_taken_with_a_note(platform: Platform) -> None:
    judge = {
        "type": "score_model", "name": "deep", "model": "o3", "range": [1, 7],
        "input": [{"role": "user", "content": "{{item.input}}"}],
        "sampling_params": {"reasoning_effort": "high", "max_completions_tokens": 100},
    }  # fmt: skip
    found = take(platform, {**EVAL, "testing_criteria": [judge]})
    (criterion,) = eval_definitions.get(platform, ME, found.evals[EVAL["id"]]).criteria
    assert isinstance(criterion, ScoreModel) and criterion.sampling_params is not None
    assert criterion.sampling_params.max_completions_tokens == 100
    assert "reasoning effort 'high'" in found.notes[0]


def test_python_that_lacks_a_package_is_taken_and_refused_only_when_it_is_to_be_run(
    platform: Platform,
) -> None:
    source = "import rapidfuzz\ndef grade(sample, item): return 1.0"
    criterion = {"type": "python", "name": "fuzzy", "source": source}
    found = take(platform, {**EVAL, "testing_criteria": [criterion]})
    definition = eval_definitions.get(platform, ME, found.evals[EVAL["id"]])
    assert "'fuzzy.source' imports 'rapidfuzz', which is not installed" in found.notes[0]
    with pytest.raises(InvalidInput, match="pip install rapidfuzz"):
        submit(platform, definition, rows(1), model=None)
    with pytest.raises(InvalidInput, match="rapidfuzz") as caught:
        eval_definitions.add(platform, ME, definition.config, definition.criteria)
    assert caught.value.param == "testing_criteria[0].source"


def test_what_the_clients_own_dump_writes_is_taken_like_the_apis_words(platform: Platform) -> None:
    """`model_dump` has other names for two fields, and null for whatever was not said."""
    kinds: tuple[tuple[Any, Any], ...] = (
        (EvalRetrieveResponse, {**EVAL, "testing_criteria": EVAL["testing_criteria"][:2]}),
        (RunRetrieveResponse, RUN),
        (OutputItemRetrieveResponse, {**output(0, True), "sample": {"output": [CALLED]}}),
    )
    dumped = [construct_type(value=one, type_=kind).model_dump() for kind, one in kinds]  # type: ignore[attr-defined]
    assert "schema_" in dumped[0]["data_source_config"]
    found = take(platform, *dumped)
    definition = eval_definitions.get(platform, ME, found.evals[EVAL["id"]])
    assert isinstance(definition.config, CustomData) and definition.config.include_sample_schema
    assert "input" in definition.config.item_schema["properties"]
    assert definition.labels == ["String check", "Judge"]
    run = eval_runs.get(platform, ME, definition.id, found.runs[RUN["id"]])
    check("GET", "/v1/evals/e/runs/r", 200, shown(RunShape.of(run, definition.labels, "http://a")))
    assert run.tally.models["gpt-4o-mini"].prompt_tokens == 30
    (first,), _ = eval_runs.list_outputs(platform, ME, run.eval_id, run.id, PageRequest())
    answered = shown(OutputShape.of(first))
    check("GET", "/v1/evals/e/runs/r/output_items/o", 200, answered)
    assert answered["sample"]["output"] == [{**CALLED, "content": ""}]


def define_criteria() -> list[Criterion]:
    return [StringCheck(name="a", input="a", reference="a", operation="eq")]


def shown(shape: Any) -> Any:
    return json.loads(msgspec.json.encode(shape))
