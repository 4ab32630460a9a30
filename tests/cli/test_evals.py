"""`bessemer evals`: from an export to a run, its report and a comparison."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec

from bessemer.app import eval_definitions, eval_submission, stored_completions
from bessemer.app.eval_definitions import LogsData
from bessemer.app.platform import Platform
from bessemer.gateway.eval_sampling import DataSource, plan_of
from bessemer.text.criteria import Criterion
from tests.app.evals_world import finish_all
from tests.app.test_eval_importing import EVAL, RUN, output
from tests.cli.calling import say
from tests.fakes import FakeResponder, FakeServing

OLD = [output(n, n > 0) for n in range(2)]


def do(run_id: str, says: str) -> None:
    """What a server does."""
    with Platform.open() as platform:
        serving = FakeServing({"m": FakeResponder([says]), "o3-mini": FakeResponder(["good"])})
        principal = platform.local_principal()
        asyncio.run(finish_all(platform, serving, run_id, principal))


def test_an_export_is_imported_run_again_and_compared(tmp_path: Path) -> None:
    exported = tmp_path / "export.jsonl"
    objects = [EVAL, RUN, *(output(n, n > 0) for n in range(3))]
    exported.write_text("\n".join(map(json.dumps, objects)))
    said = say("evals", "import", str(exported))
    assert said.out.splitlines()[-1] == "1 evals, 1 runs and 3 results taken"
    assert "note: " in said.err and "telepathy" in said.err
    assert say("evals", "import", str(exported), "--json").json["outputs"] == 0
    (listed,) = say("evals", "list", "--json").json
    assert listed["metadata"]["openai_id"] == EVAL["id"]
    shown = say("evals", "show", listed["id"], "--json").json
    (old,) = shown["runs"]
    assert old["report"]["complete"]
    assert "66.7% (2 of 3)" in say("evals", "show", listed["id"], old["id"]).out

    again = say("evals", "run", listed["id"], "--like", old["id"], "--model", "m", "--json")
    assert again.status == 0 and "bessemer up" in again.err
    do(again.json["id"], "b")
    done = say("evals", "show", listed["id"], again.json["id"], "--json").json
    assert (done["state"], done["report"]["pass_rate"]["passed"]) == ("completed", 1)

    items = tmp_path / "items.jsonl"
    lines = [{"item": {"input": f"headline {n}", "label": "b"}} for n in range(3)]
    items.write_text("\n".join(map(json.dumps, lines)))
    asked = say(
        "evals", "run", listed["id"], str(items), "--model", "m", "--system", "Be short.",
        "--prompt", "{{item.input}}", "--name", "mine", "--json",
    )  # fmt: skip
    do(asked.json["id"], "b")
    compared = say("evals", "compare", listed["id"], old["id"], asked.json["id"])
    assert compared.out.splitlines()[0].startswith(
        "Cannot tell whether mine differs from mini in all criteria: 3 items are too few"
    )
    assert "1 items came out differently" in compared.err


def test_a_run_over_a_file_that_stayed_at_openai_is_done_again_by_its_results(
    tmp_path: Path,
) -> None:
    exported = tmp_path / "export.jsonl"
    said = [{"role": "assistant", "content": "b"}]
    results = [{**one, "sample": {**one["sample"], "output": said}} for one in (OLD[1], OLD[0])]
    asked = {**RUN["data_source"], "source": {"type": "file_id", "id": "file-abc"}}
    asked["sampling_params"] = {"reasoning_effort": "low", "max_completions_tokens": 5}
    over_file = {**RUN, "data_source": asked}
    logs = {"type": "stored_completions", "model": None}
    source = {"type": "completions", "source": logs}
    over_logs = {**RUN, "id": "evalrun_logs", "data_source": source}
    of_logs = [{**one, "id": f"x{n}", "run_id": "evalrun_logs"} for n, one in enumerate(results)]
    objects = [EVAL, over_file, over_logs, *results, *of_logs]
    exported.write_text("\n".join(map(json.dumps, objects)))
    taken = say("evals", "import", str(exported), "--json").json
    (eval_id,), runs = taken["evals"].values(), taken["runs"]

    again = say("evals", "run", eval_id, "--like", runs[RUN["id"]], "--model", "m", "--json")
    assert "2 of 3 items" in again.err and "without its reasoning effort 'low'" in again.err
    do(again.json["id"], "b")
    done = say("evals", "show", eval_id, again.json["id"], "--json").json
    assert (done["state"], done["report"]["total"]) == ("completed", 2)
    assert done["report"]["pass_rate"]["passed"] == 2

    judged = say("evals", "run", eval_id, "--like", runs["evalrun_logs"], "--json")
    do(judged.json["id"], "never asked")
    done = say("evals", "show", eval_id, judged.json["id"], "--json").json
    assert (done["state"], done["model"]) == ("completed", "")
    assert done["report"]["pass_rate"]["passed"] == 2

    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps({**over_file, "id": "evalrun_bare"}))
    bare_id = say("evals", "import", str(bare), "--json").json["runs"]["evalrun_bare"]
    refused = say("evals", "run", eval_id, "--like", bare_id, "--model", "m")
    assert refused.status == 1 and "its source stayed at OpenAI" in refused.err


def test_stored_answers_that_were_judged_are_given_anew_by_a_model() -> None:
    said = {"message": {"role": "assistant", "content": "Yo."}, "finish_reason": "stop", "index": 0}
    answer = {"id": "chatcmpl-1", "model": "tiny", "created": 1, "choices": [said]}
    stored: Any = {"type": "completions", "source": {"type": "stored_completions"}}
    greets = {
        "type": "string_check", "name": "greets", "operation": "eq",
        "input": "{{sample.output_text}}", "reference": "Hello.",
    }  # fmt: skip
    with Platform.open() as platform:
        me = platform.local_principal()
        asked = [{"role": "user", "content": "Hi"}]
        stored_completions.add(
            platform, me, {}, msgspec.json.encode(asked), msgspec.json.encode(answer)
        )
        criteria = msgspec.convert([greets], list[Criterion])
        eval_id = eval_definitions.add(platform, me, LogsData(), criteria).id
        plan, sent = plan_of(msgspec.convert(stored, DataSource))
        judged = eval_submission.submit(platform, me, None, eval_id, plan, sent)
    again = say("evals", "run", eval_id, "--like", judged.id, "--model", "m", "--json")
    assert (again.status, again.json["model"]) == (0, "m")
    do(again.json["id"], "Hello.")
    done = say("evals", "show", eval_id, again.json["id"], "--json").json
    assert (done["state"], done["report"]["pass_rate"]["passed"]) == ("completed", 1)


def test_an_option_without_its_partner_is_refused(tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text('{"item": {}}\n')
    assert say("evals", "run", "eval_1").status == 2
    assert say("evals", "run", "eval_1", str(items), "--model", "m").status == 2
    assert say("evals", "run", "eval_1", str(items), "--prompt", "Hi").status == 2
    of_that_run = say("evals", "run", "eval_1", "--like", "evalrun_1", "--prompt", "Hi")
    assert of_that_run.status == 2 and "--prompt" in of_that_run.err
    assert say("evals", "list").out.startswith("no evals yet")
