"""`--json` on every verb that reads: what comes out is JSON, and nothing but."""

from __future__ import annotations

from pathlib import Path

import pytest

from bessemer import __version__
from bessemer.app import jobs
from bessemer.app.platform import Platform
from tests.cli.calling import REPOSITORY, say
from tests.cli.commands import leaves

# They start a server, hand out a secret URL, or end something; there is nothing to read.
NOT_READING = {
    ("up",),
    ("demo",),
    ("login",),
    ("key", "revoke"),
    ("files", "delete"),
    ("project", "give"),
    ("project", "rename"),
    ("project", "archive"),
    ("people", "role"),
    ("people", "remove"),
    ("targets", "add"),
    ("targets", "remove"),
    ("prices", "set"),
    ("budget", "set"),
    ("budget", "lift"),
    ("budget", "forget"),
    ("limits", "set"),
    ("limits", "lift"),
    ("usage", "settle"),
    ("usage", "release"),
}
LISTS = ("models", "data list", "runs", "key list", "files list", "batches list")
GOOD = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]}\n'


def test_every_verb_that_reads_has_json() -> None:
    without = {
        leaf.words
        for leaf in leaves()
        if not any(param.name == "as_json" for param in leaf.command.params)
    }
    assert without == NOT_READING


@pytest.fixture
def run_id() -> str:
    """A run that has finished."""
    with Platform.open() as platform:
        run = jobs.submit(platform, platform.local_principal(), "train", "mine", "", {})
        log = run.open_log()
        log.write("state", state="running")
        log.write("plan", steps=2)
        log.write("step", step=2, loss=1.5)
        log.write("result", before=2.0, after=float("nan"))
        log.write("state", state="succeeded")
        log.close()
        return run.run_id


@pytest.mark.parametrize("verb", LISTS)
def test_an_empty_home_has_empty_lists(verb: str) -> None:
    words = verb.split()
    said = say(*words, "--json")
    assert (said.status, said.json, said.err) == (0, [], "")
    assert "no " in say(*words).out


def test_version() -> None:
    assert say("version", "--json").json == {"version": __version__}
    assert say("version").out == f"bessemer {__version__}\n"


def test_explain_gives_each_value_with_its_source_and_reason() -> None:
    recipe = str(REPOSITORY / "recipes" / "teach.toml")
    lines = {
        line["key"]: line for line in say("explain", recipe, "--set", "lora.rank=4", "--json").json
    }
    assert lines["lora.rank"]["value"] == "4"
    assert lines["lora.rank"]["source"] == "--set"
    assert lines["minutes"]["source"] == "recipe"
    assert lines["seed"]["source"] == "default"
    assert all(line["why"] for line in lines.values())


def test_doctor_tells_facts_and_verdicts(home: Path) -> None:
    facts = say("doctor", "--no-measure", "--json").json
    assert facts["cores"] >= 1
    assert facts["home"] == str(home)
    assert {verdict["works"] for verdict in facts["verdicts"]} <= {True, False}
    assert not home.exists(), "looking must not make a home"


def test_runs_and_one_run(run_id: str) -> None:
    (listed,) = say("runs", "--json").json
    shown = say("runs", run_id, "--json").json
    assert listed == shown
    assert shown["state"] == "succeeded"
    assert shown["step"]["loss"] == 1.5
    assert shown["result"]["after"] == "nan"
    assert "2/2" in say("runs").out


def test_the_events_of_a_run_are_json_lines(run_id: str) -> None:
    import json

    said = say("runs", run_id, "--events")
    kinds = [json.loads(line)["kind"] for line in said.out.splitlines()]
    assert kinds == ["state", "plan", "step", "result", "state"]


def test_following_a_finished_run_ends_at_once(run_id: str) -> None:
    assert say("runs", run_id, "--follow", "--json").json["state"] == "succeeded"


def test_a_key_is_made_listed_and_revoked() -> None:
    made = say("key", "create", "--name", "mine", "--json").json
    assert made["secret"].startswith("sk-bsm-")
    assert say("key", "revoke", made["id"]).out == f"{made['id']} (mine) is revoked\n"
    (listed,) = say("key", "list", "--json").json
    assert (listed["id"], listed["scopes"]) == (made["id"], made["scopes"])
    assert listed["revoked_ms"] is not None
    assert made["secret"] not in say("key", "list", "--json").out


def test_the_secret_of_a_key_is_alone_on_standard_output() -> None:
    said = say("key", "create")
    assert said.out.startswith("sk-bsm-")
    assert len(said.out.split()) == 1
    assert "not shown again" in said.err


def test_data_is_checked_imported_and_listed(tmp_path: Path) -> None:
    file = tmp_path / "hi.jsonl"
    file.write_text(GOOD)
    assert say("data", "check", str(file), "--json").json["chats"] == 1
    imported = say("data", "import", str(file), "--licence", "CC0-1.0", "--json").json
    assert imported["info"]["counts"]["train"] == 1
    (listed,) = say("data", "list", "--json").json
    assert (listed["name"], listed["licence"]) == ("hi", "CC0-1.0")
    assert listed["digest"] == imported["digest"]


def test_faults_are_json_too_and_the_status_says_that_there_are_any(tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(GOOD + "{}\n")
    said = say("data", "check", str(file), "--json")
    assert said.status == 1
    assert [fault["line"] for fault in said.json["faults"]] == [2]
