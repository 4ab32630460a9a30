"""`/v1/evals` through the official client: definitions, runs, results, and who may see them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from bessemer.app import files
from bessemer.app.platform import Platform
from bessemer.core.errors import ContextLengthExceeded
from bessemer.core.home import Home
from tests.fakes import FakeResponder
from tests.gateway import specification
from tests.gateway.evals_house import (
    CAPITALS,
    CONFIG,
    EQUAL,
    KEYS,
    ME,
    House,
    ended,
    given,
    house,
    items,
    sampled,
    wait_for,
)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with Platform.open(Home(tmp_path / "home")) as found:
        yield found


@pytest.fixture
def served(platform: Platform) -> Iterator[House]:
    """Two models, one that says Paris and one that says Rome, and a judge that says 0.75."""
    models = {
        "paris": FakeResponder(["Pa", "ris"]),
        "rome": FakeResponder(["Rome"]),
        "judge": FakeResponder(["0.75"]),
    }
    with house(platform, models) as found:
        yield found


def refused(call: Any) -> dict[str, Any]:
    with pytest.raises(openai.APIStatusError) as caught:
        call()
    found: dict[str, Any] = json.loads(caught.value.response.content)["error"]
    return {"status": caught.value.status_code, **found}


def test_a_definition_is_made_listed_renamed_and_deleted(served: House) -> None:
    client = served.client()
    made = client.evals.create(
        name="capitals",
        data_source_config=CONFIG,
        testing_criteria=[EQUAL, {**EQUAL, "operation": "ilike"}],
        metadata={"team": "geography"},
    )
    assert [criterion.name for criterion in made.testing_criteria] == ["equal", "equal"]
    assert [criterion.id for criterion in made.testing_criteria] == ["equal", "equal (2)"]
    assert made.data_source_config.schema_["properties"]["item"] == CONFIG["item_schema"]
    assert made.data_source_config.schema_["required"] == ["item", "sample"]
    assert client.evals.retrieve(made.id).to_dict() == made.to_dict()
    other = client.evals.create(
        data_source_config={"type": "logs", "metadata": {"use": "chat"}}, testing_criteria=[EQUAL]
    )
    changed = client.evals.update(made.id, name="cities", metadata={})
    assert (changed.name, changed.metadata) == ("cities", {})
    assert [one.id for one in client.evals.list(limit=1)] == [made.id, other.id]
    assert [one.id for one in client.evals.list(order="desc")] == [other.id, made.id]
    updated = client.evals.list(order_by="updated_at", limit=1)
    assert [one.id for one in updated] == [other.id, made.id]
    assert client.evals.delete(made.id).deleted
    assert refused(lambda: client.evals.retrieve(made.id))["status"] == 404


def test_a_run_samples_judges_and_reports(served: House) -> None:
    client = served.client()
    score = {
        "type": "score_model",
        "name": "judged",
        "model": "judge",
        "input": [{"role": "user", "content": "Is {{sample.output_text}} right?"}],
        "pass_threshold": 0.8,
    }
    similar = {
        "type": "text_similarity",
        "name": "similar",
        "input": "{{sample.output_text}}",
        "reference": "{{item.capital}}",
        "evaluation_metric": "fuzzy_match",
        "pass_threshold": 0.1,
    }
    made = client.evals.create(data_source_config=CONFIG, testing_criteria=[EQUAL, similar, score])
    answer = client.evals.runs.with_raw_response.create(
        made.id, data_source=sampled("paris"), metadata={"a": "b"}
    )
    assert answer.status_code == 201
    run = ended(client, answer.parse())
    assert (run.status, run.model, run.name, run.metadata) == (
        "completed", "paris", "paris", {"a": "b"},
    )  # fmt: skip
    counts = run.result_counts
    assert (counts.total, counts.passed, counts.failed, counts.errored) == (4, 0, 4, 0)
    by_criterion = {
        one.testing_criteria: (one.passed, one.failed) for one in run.per_testing_criteria_results
    }
    assert by_criterion == {"equal": (1, 3), "similar": (3, 1), "judged": (0, 4)}
    usage = {one.model_name: one for one in run.per_model_usage}
    assert (usage["paris"].invocation_count, usage["paris"].completion_tokens) == (4, 8)
    assert (usage["judge"].invocation_count, usage["judge"].total_tokens) == (4, 32)
    assert run.report_url == f"{served.url}/evals/{made.id}/runs/{run.id}"
    report = run.report
    assert report["complete"] and report["missing"] == 0
    equal = report["criteria"][0]["pass_rate"]
    # Wilson for 1 of 4, by hand: (1 + z2/2 -+ z sqrt(3/4 + z2/4)) / (4 + z2), z2 = 3.8415.
    assert (equal["value"], round(equal["low"], 4), round(equal["high"], 4)) == (
        0.25, 0.0456, 0.6994,
    )  # fmt: skip
    assert report["criteria"][2]["mean_score"] == 0.75
    assert [one.id for one in client.evals.runs.list(made.id)] == [run.id]


def test_output_items_tell_answer_results_and_usage(served: House) -> None:
    client = served.client()
    made = client.evals.create(data_source_config=CONFIG, testing_criteria=[EQUAL])
    source = sampled("paris", sampling_params={"temperature": 0.5, "max_completion_tokens": 9})
    run = ended(client, client.evals.runs.create(made.id, data_source=source))
    listed = client.evals.runs.output_items.list(run.id, eval_id=made.id)
    outputs = {one.datasource_item_id: one for one in listed}
    assert sorted(outputs) == [0, 1, 2, 3]
    first = outputs[0]
    assert (first.status, first.datasource_item) == ("pass", items()[0]["item"])
    assert first.results[0].name == "equal" and first.results[0].score == 1.0
    assert first.sample.input[0].content == "Which city is the capital of France?"
    assert first.sample.output[0].content == "Paris"
    assert (first.sample.temperature, first.sample.max_completion_tokens) == (0.5, 9)
    assert (first.sample.seed, first.sample.usage.total_tokens) == (42, 9)
    found = client.evals.runs.output_items.retrieve(first.id, eval_id=made.id, run_id=run.id)
    assert found.to_dict() == first.to_dict()
    passed = client.evals.runs.output_items.list(run.id, eval_id=made.id, status="pass", limit=1)
    assert [one.id for one in passed] == [first.id]
    failed = client.evals.runs.output_items.list(run.id, eval_id=made.id, status="fail", limit=1)
    assert len(list(failed)) == 3, "pages go on"


def test_samples_that_are_there_are_judged_without_a_model(served: House) -> None:
    client = served.client()
    made = client.evals.create(data_source_config=CONFIG, testing_criteria=[EQUAL])
    run = ended(client, client.evals.runs.create(made.id, data_source=given("Paris", "Milan")))
    assert (run.result_counts.passed, run.result_counts.failed) == (1, 1)
    assert (run.model, run.per_model_usage) == ("", [])
    assert len(list(client.evals.runs.output_items.list(run.id, eval_id=made.id))) == 2


def test_items_come_from_a_file(served: House, platform: Platform) -> None:
    lines = b"\n".join(json.dumps(row).encode() for row in items()) + b"\n\n"
    file = files.add_bytes(platform, ME, "capitals.jsonl", "evals", lines)
    client = served.client()
    made = client.evals.create(data_source_config=CONFIG, testing_criteria=[EQUAL])
    source = {**sampled("rome"), "source": {"type": "file_id", "id": file.id}}
    run = ended(client, client.evals.runs.create(made.id, data_source=source))
    assert (run.result_counts.total, run.result_counts.passed) == (4, 1)


def test_responses_sample_too_and_an_item_may_hold_its_messages(served: House) -> None:
    client = served.client()
    criterion = {**EQUAL, "reference": "Rome"}
    made = client.evals.create(
        data_source_config={"type": "custom", "item_schema": {}, "include_sample_schema": True},
        testing_criteria=[criterion],
    )
    rows = [
        {"item": {"said": [{"role": "developer", "content": "Be short."}]}},
        {"item": {"said": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]}},
        {"item": {"said": "no messages"}},
    ]
    source = {
        **sampled("rome", rows),
        "type": "responses",
        "input_messages": {"type": "item_reference", "item_reference": "item.said"},
        "sampling_params": {"text": {"format": {"type": "text"}}},
    }
    run = ended(client, client.evals.runs.create(made.id, data_source=source))
    assert (run.result_counts.passed, run.result_counts.errored) == (2, 1)
    wrong = client.evals.runs.output_items.list(run.id, eval_id=made.id, status="error")  # type: ignore[arg-type]
    assert "item.said is no list of messages" in next(iter(wrong)).sample.error.message
    assert not run.report["complete"]
    assert run.report["sentence"].startswith("Partial (1 of 3 items could not be judged): 100.0%")


def test_two_runs_are_compared_item_by_item_in_plain_words(served: House) -> None:
    client = served.client()
    made = client.evals.create(data_source_config=CONFIG, testing_criteria=[EQUAL])
    rows = items(*[(f"land {n}", "Paris") for n in range(30)], ("Italy", "Rome"))
    runs = [
        ended(client, client.evals.runs.create(made.id, data_source=sampled(model, rows)))
        for model in ("rome", "paris")
    ]
    path = f"/evals/{made.id}/runs/{runs[1].id}/comparison"
    found = client.get(f"{path}?with={runs[0].id}", cast_to=object)
    assert isinstance(found, dict)
    assert (found["baseline"], found["candidate"]) == (runs[0].id, runs[1].id)
    whole, equal = found["comparisons"]
    assert (whole["criterion"], equal["criterion"]) == ("all criteria", "equal")
    assert (equal["verdict"], equal["gained"], equal["lost"]) == ("better", 30, 1)
    assert equal["sentence"].startswith("paris is better than rome in equal. 96.8% pass")
    assert found["changed_count"] == 31 and len(found["changed"]) == 31
    back = client.get(
        f"/evals/{made.id}/runs/{runs[0].id}/comparison?with={runs[1].id}", cast_to=object
    )
    assert isinstance(back, dict) and back["comparisons"][1]["verdict"] == "worse"
    assert refused(lambda: client.get(path, cast_to=object))["param"] == "with"
    assert refused(lambda: client.get(f"{path}?with={runs[1].id}", cast_to=object))["status"] == 400


def test_a_run_is_canceled_and_says_that_it_is_partial(platform: Platform) -> None:
    slow = FakeResponder(["Paris"], hold_after=0)
    with house(platform, {"slow": slow}) as served:
        client = served.client()
        made = client.evals.create(data_source_config=CONFIG, testing_criteria=[EQUAL])
        run = client.evals.runs.create(made.id, data_source=sampled("slow"))
        wait_for(lambda: slow.opened, lambda opened: opened == 4)
        found = client.evals.runs.cancel(run.id, eval_id=made.id)
        assert (found.status, found.result_counts.total) == ("canceled", 4)
        assert found.report["sentence"] == (
            "Partial (the run slow is canceled; 4 of 4 items have no output):"
            " nothing was judged yet."
        )
        wait_for(lambda: slow.closed, lambda closed: closed == 4)
        again = refused(lambda: client.evals.runs.cancel(run.id, eval_id=made.id))
        assert (again["status"], again["param"]) == (409, "run_id")
        listed = client.evals.runs.list(made.id, status="canceled")
        assert [one.id for one in listed] == [run.id]
        assert client.evals.runs.delete(run.id, eval_id=made.id).deleted
        assert list(client.evals.runs.list(made.id)) == []


def test_what_ends_every_item_ends_the_run_and_what_ends_one_is_its_error(
    platform: Platform,
) -> None:
    models = {"gone": FakeResponder(), "small": FakeResponder(error=ContextLengthExceeded("9 > 8"))}
    with house(platform, models, runs=False) as served:
        client = served.client()
        made = client.evals.create(data_source_config=CONFIG, testing_criteria=[EQUAL])
        gone = client.evals.runs.create(made.id, data_source=sampled("gone"))
        small = client.evals.runs.create(made.id, data_source=sampled("small"))
    del models["gone"]
    with house(platform, models) as served:
        client = served.client()
        failed = ended(client, gone)
        assert (failed.status, failed.error.code) == ("failed", "model_not_found")
        assert failed.report["sentence"].startswith("Partial (the run gone is failed: The model")
        errored = ended(client, small)
        assert (errored.status, errored.result_counts.errored) == ("completed", 4)
        output = next(iter(client.evals.runs.output_items.list(small.id, eval_id=made.id)))
        assert (output.status, output.sample.error.code) == ("error", "context_length_exceeded")


@pytest.mark.parametrize(
    ("config", "criterion", "param"),
    [
        ({"type": "custom", "item_schema": {"type": "nonsense"}}, EQUAL, "item_schema"),
        ({"type": "custom", "item_schema": {"$ref": "http://a.test/x"}}, EQUAL, "item_schema"),
        ({"type": "custom"}, EQUAL, "item_schema"),
        ({"type": "files"}, EQUAL, "data_source_config.type"),
        (CONFIG, {**EQUAL, "input": "{{sample..x}}"}, "testing_criteria[0].input"),
        (CONFIG, {**EQUAL, "input": "{{row.x}}"}, "testing_criteria[0].input"),
        (CONFIG, {**EQUAL, "operation": "matches"}, "operation"),
        (CONFIG, {**EQUAL, "color": "red"}, "color"),
        (CONFIG, {"type": "python", "name": "p", "source": "def ("}, "source"),
        (CONFIG, {"type": "python", "name": "p", "source": "def judge(a, b): ..."}, "source"),
        (
            CONFIG,
            {"type": "label_model", "name": "l", "model": "judge", "labels": ["a"],
             "passing_labels": ["b"], "input": [{"role": "user", "content": "?"}]},
            "passing_labels",
        ),
        (
            CONFIG,
            {"type": "score_model", "name": "s", "model": "judge", "range": [1, 0],
             "input": [{"role": "user", "content": "?"}]},
            "range",
        ),
        (
            CONFIG,
            {"type": "score_model", "name": "s", "model": "judge",
             "input": [{"role": "user", "content": {"type": "input_image", "image_url": "x"}}]},
            "input[0].content",
        ),
    ],
)  # fmt: skip
def test_a_wrong_definition_names_its_field(
    served: House, config: Any, criterion: Any, param: str
) -> None:
    create = served.client().evals.create
    found = refused(lambda: create(data_source_config=config, testing_criteria=[criterion]))
    assert found["status"] == 400 and param in found["param"], found


def test_a_wrong_line_is_named_before_the_run_begins(served: House, platform: Platform) -> None:
    client = served.client()
    made = client.evals.create(data_source_config=CONFIG, testing_criteria=[EQUAL])
    rows = [*items(), {"item": {"country": "Peru"}}]
    found = refused(lambda: client.evals.runs.create(made.id, data_source=sampled("paris", rows)))
    assert found["message"].startswith("line 5: the item does not follow the schema: 'capital' is")
    broken = files.add_bytes(platform, ME, "b.jsonl", "evals", b'{"item": {}}\n\n{"itm": 1}\n')
    loose = client.evals.create(
        data_source_config={"type": "custom", "item_schema": {}}, testing_criteria=[EQUAL]
    )
    source = {**sampled("paris"), "source": {"type": "file_id", "id": broken.id}}
    found = refused(lambda: client.evals.runs.create(loose.id, data_source=source))
    assert found["message"].startswith("line 3: b.jsonl: Object")
    found = refused(
        lambda: client.evals.runs.create(
            made.id,
            data_source={"type": "jsonl", "source": {"type": "file_content", "content": items()}},
        )
    )
    assert found["message"].startswith("line 1: it has no 'sample', which the criterion 'equal'")
    assert list(client.evals.runs.list(made.id)) == []


def test_the_model_behind_a_metric_can_be_pulled_by_what_its_absence_says(served: House) -> None:
    client = served.client()
    alike = {
        "type": "text_similarity", "name": "c", "evaluation_metric": "cosine",
        "input": "{{sample.output_text}}", "reference": "Paris", "pass_threshold": 0.5,
    }  # fmt: skip
    made = client.evals.create(data_source_config=CONFIG, testing_criteria=[alike])
    found = refused(lambda: client.evals.runs.create(made.id, data_source=sampled("paris")))
    assert found["status"] == 404
    assert "bessemer pull all-minilm-l6-v2 brings one in" in found["message"]


@pytest.mark.parametrize(
    ("source", "status", "word"),
    [
        ({**sampled("none")}, 404, "none"),
        ({**sampled("paris"), "model": None}, 400, "data_source.model"),
        ({**sampled("paris"), "input_messages": None}, 400, "data_source.input_messages"),
        (sampled("paris", []), 400, "no item"),
        (sampled("paris", sampling_params={"reasoning_effort": "high"}), 400, "reasoning_effort"),
        (sampled("paris", sampling_params={"color": 1}), 400, "color"),
        (sampled("paris", sampling_params={"tools": [{"type": "web_search"}]}), 400,
         "data_source.sampling_params.tools[0].type"),
        ({**sampled("paris"), "source": {"type": "file_id", "id": "file-1"}}, 404, "file-1"),
        (given("Paris") | {"model": "paris"}, 400, "model"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused_by_name(
    served: House, source: Any, status: int, word: str
) -> None:
    client = served.client()
    made = client.evals.create(data_source_config=CONFIG, testing_criteria=[EQUAL])
    found = refused(lambda: client.evals.runs.create(made.id, data_source=source))
    assert found["status"] == status and word in found["message"], found


def test_others_see_nothing_and_poor_keys_may_nothing(served: House) -> None:
    mine = served.client()
    made = mine.evals.create(data_source_config=CONFIG, testing_criteria=[EQUAL])
    run = ended(mine, mine.evals.runs.create(made.id, data_source=given("Paris")))
    output = next(iter(mine.evals.runs.output_items.list(run.id, eval_id=made.id)))

    def calls(client: openai.OpenAI) -> list[tuple[str, Any]]:
        runs = client.evals.runs
        return [
            ("read", lambda: client.evals.retrieve(made.id)),
            ("read", lambda: runs.list(made.id)),
            ("read", lambda: runs.retrieve(run.id, eval_id=made.id)),
            ("read", lambda: runs.output_items.list(run.id, eval_id=made.id)),
            (
                "read",
                lambda: runs.output_items.retrieve(output.id, eval_id=made.id, run_id=run.id),
            ),
            (
                "read",
                lambda: client.get(
                    f"/evals/{made.id}/runs/{run.id}/comparison?with=evalrun_1", cast_to=object
                ),
            ),
            ("write", lambda: client.evals.update(made.id, name="x")),
            ("write", lambda: runs.create(made.id, data_source=given("Paris"))),
            ("write", lambda: runs.cancel(run.id, eval_id=made.id)),
            ("write", lambda: runs.delete(run.id, eval_id=made.id)),
            ("write", lambda: client.evals.delete(made.id)),
        ]

    for _, call in calls(served.client("theirs")):
        assert refused(call)["status"] == 404
    assert list(served.client("theirs").evals.list()) == []
    for _, call in calls(served.client("chatter")):
        assert refused(call)["status"] == 403
    for kind, call in calls(served.client("reader")):
        if kind == "write":
            assert refused(call)["status"] == 403
    for kind, call in calls(served.client("writer")):
        if kind == "read":
            assert refused(call)["status"] == 403
    writer = served.client("writer").evals
    assert served.client("reader").evals.retrieve(made.id).id == made.id
    other = writer.create(data_source_config=CONFIG, testing_criteria=[EQUAL])
    judged = writer.runs.create(other.id, data_source=given("Paris"))
    assert judged.status == "queued", "judging what is there needs no model"
    sampling = lambda: writer.runs.create(other.id, data_source=sampled("paris"))  # noqa: E731
    assert refused(sampling)["status"] == 403, "sampling needs the scope chat"
    assert refused(lambda: served.client("none").evals.list())["status"] == 401
    assert KEYS["writer"].key_id == "key_4"


def test_unknown_queries_are_refused(served: House) -> None:
    client = served.client()
    for query in ({"color": "red"}, {"order_by": "name"}, {"after": "eval_1"}):
        found = refused(lambda query=query: client.evals.list(extra_query=query))
        assert found["param"] == next(iter(query))


def test_what_no_answer_could_say_is_refused_or_called_as_the_specification_does(
    served: House,
) -> None:
    client = served.client()
    logs: Any = {"type": "logs", "metadata": {"batch": 1}}
    found = refused(lambda: client.evals.create(data_source_config=logs, testing_criteria=[EQUAL]))
    assert (found["status"], found["param"]) == (400, "data_source_config.metadata")
    said: Any = [{"role": "user", "content": [{"type": "text", "text": "{{item.country}}?"}]}]
    judge: Any = {"type": "score_model", "name": "j", "model": "judge", "input": said}
    made = client.evals.create(data_source_config=CONFIG, testing_criteria=[judge])
    specification.check("Eval", made.to_dict(mode="json"))


def test_messages_as_the_client_dumps_them_are_taken(served: House) -> None:
    """Of the specification's fields, those that no prompt shows."""
    client = served.client()
    part = {"type": "input_text", "text": "{{item.country}}?", "prompt_cache_breakpoint": None}
    said: Any = [
        {"role": "user", "content": part, "type": "message"},
        {"role": "assistant", "content": "Hm.", "phase": "commentary"},
        {"role": "user", "content": [part], "phase": None},
    ]
    judge = {"type": "label_model", "name": "j", "model": "judge", "input": said[:1],
             "labels": ["0.75", "1"], "passing_labels": ["0.75"]}  # fmt: skip
    made = client.evals.create(data_source_config=CONFIG, testing_criteria=[judge])  # type: ignore[list-item]
    source: Any = sampled("paris", input_messages={"type": "template", "template": said})
    run = ended(client, client.evals.runs.create(made.id, data_source=source))
    assert run.result_counts.passed == len(CAPITALS)
    first = next(iter(client.evals.runs.output_items.list(run.id, eval_id=made.id)))
    asked = f"{first.datasource_item['country']}?"
    assert [one.content for one in first.sample.input] == [asked, "Hm.", asked]
