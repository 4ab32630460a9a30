"""`bessemer evals`: from an export to a run, its report and a comparison."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from bessemer.app.platform import Platform
from tests.app.evals_world import finish_all
from tests.app.test_eval_importing import EVAL, RUN, output
from tests.cli.calling import say
from tests.fakes import FakeResponder, FakeServing


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


def test_an_option_without_its_partner_is_refused(tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text('{"item": {}}\n')
    assert say("evals", "run", "eval_1").status == 2
    assert say("evals", "run", "eval_1", str(items), "--model", "m").status == 2
    assert say("evals", "run", "eval_1", str(items), "--prompt", "Hi").status == 2
    assert say("evals", "list").out.startswith("no evals yet")
