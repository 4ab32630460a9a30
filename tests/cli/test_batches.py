"""`bessemer files` and `bessemer batches`, without a server: what is asked waits for one."""

from __future__ import annotations

from pathlib import Path

from bessemer.app import batches
from bessemer.app.platform import Platform
from tests.app.batching import Echo, line, run
from tests.cli.calling import say


def test_a_file_is_added_listed_read_and_deleted(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(line("a"))
    file_id = say("files", "add", str(path), "--purpose", "batch").out.strip()
    (listed,) = say("files", "list", "--json").json
    assert (listed["id"], listed["filename"], listed["bytes"]) == (
        file_id,
        "in.jsonl",
        len(line("a")),
    )
    assert say("files", "list", "--purpose", "evals", "--json").json == []
    assert file_id in say("files", "list").out
    assert say("files", "get", file_id).out.encode() == line("a")
    assert say("files", "get", file_id, "--json").json == listed
    assert say("files", "get", file_id, "-o", str(tmp_path / "out")).status == 0
    assert (tmp_path / "out").read_bytes() == line("a")
    assert say("files", "delete", file_id).status == 0
    assert say("files", "get", file_id).status == 1
    wrong = say("files", "add", str(path), "--purpose", "fun")
    assert wrong.status == 1 and "choose from" in wrong.err
    gone = say("files", "add", str(tmp_path / "gone"), "--purpose", "batch")
    assert gone.status == 1 and "there is no file" in gone.err


def test_a_batch_is_begun_from_a_path_or_a_file_and_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(line("a"))
    made = say("batches", "create", str(path), "--json").json
    assert (made["status"], made["total"], made["endpoint"]) == (
        "validating", 0, "/v1/chat/completions",
    )  # fmt: skip
    again = say("batches", "create", made["input_file_id"])
    assert "bessemer up" in again.err
    listed = say("batches", "list", "--json").json
    assert [batch["id"] for batch in listed] == [again.out.strip(), made["id"]]
    assert made["id"] in say("batches", "list").out
    assert say("batches", "show", made["id"], "--json").json == listed[1]
    assert "validating" in say("batches", "show", made["id"]).out
    assert say("batches", "cancel", made["id"], "--json").json["status"] == "cancelling"
    assert say("batches", "show", "batch_none").status == 1
    refused = say("batches", "create", str(path), "--endpoint", "/v1/moderations")
    assert refused.status == 1 and "/v1/embeddings" in refused.err


def test_a_batch_with_faults_shows_all_of_them(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(line("a") + b"{\n" * 30 + line("a") + line("b", "/v1/embeddings"))
    made = say("batches", "create", str(path)).out.strip()
    echo = Echo()
    with Platform.open() as platform:
        run(platform, echo, batches.get(platform, platform.local_principal(), made))
    shown = say("batches", "show", made)
    told = [said for said in shown.out.splitlines() if said.startswith("line ")]
    assert [said.split(":")[0] for said in told] == [f"line {number}" for number in range(2, 34)]
    assert "that of line 1 already" in told[-2] and "'/v1/embeddings'" in told[-1]
    assert "failed" in shown.out and echo.asked == []
    errors = say("batches", "show", made, "--json").json["errors"]
    assert [error["line"] for error in errors] == [*range(2, 34)]
