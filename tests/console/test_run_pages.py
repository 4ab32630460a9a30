"""The pages of runs over real run folders."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from bessemer.app.fine_tuning_files import import_files
from bessemer.app.platform import Platform
from bessemer.app.training import submit_train
from bessemer.core.processes import ProcessId
from bessemer.core.runs import write_atomically
from bessemer.core.train_recipe import TrainRecipe
from tests.console.copied import House, house
from tests.console.told_jobs import CHAT, a_model
from tests.console.told_runs import RENEWED, ToldRun, eval_run, found, train_run

__all__ = ["house"]  # a fixture


def test_an_empty_list_says_how_to_begin(client: TestClient) -> None:
    assert "bessemer train recipes/teach.toml" in client.get("/runs").text


def test_what_is_copied_lists_reads_and_cancels(house: House) -> None:
    run = ToldRun(house.platform, "train", "waits", {})
    run.tell("plan", steps=49)
    (listed,) = house.run(house.page("/runs").calls["List the runs"]).values()
    assert [one["id"] for one in listed.json] == [run.id]
    calls = house.page(run.path).calls
    (told,) = house.run(calls["Look at the run"]).values()
    assert (told.json["id"], told.json["state"]) == (run.id, "queued")
    (said,) = house.run(calls["Read what it said"]).values()
    assert [json.loads(line)["kind"] for line in said.out.splitlines()][-1] == "plan"
    house.run(calls["Cancel it"])
    page = house.page(run.path)
    assert "is-cancelled" in page.text and "Cancel it" not in page.calls


def test_the_list_has_every_run_newest_first(client: TestClient, platform: Platform) -> None:
    first, second = train_run(platform, "first"), train_run(platform, "second")
    first.teach(range(1, 11), 49)
    first.finish()
    text = client.get("/runs").text
    assert text.index(second.id) < text.index(first.id)
    assert "is-succeeded" in text and "is-running" in text
    assert "10 steps in" in text


def test_a_running_run_shows_progress_figures_and_a_way_to_stop(
    client: TestClient, platform: Platform
) -> None:
    run = train_run(platform)
    run.teach(range(1, 21), 49)
    text = client.get(run.path).text
    for shown in ("20 of 49 steps", "left", "331", "42%", "of 412 GFLOP/s", "4,884,480", "bf16"):
        assert shown in text, shown
    assert f'action="{run.path}/cancel"' in text
    assert f'action="{run.path}/resume"' not in text
    assert 'hx-trigger="every 2s"' in text and RENEWED in text


def test_a_finished_run_is_not_asked_for_again(client: TestClient, platform: Platform) -> None:
    run = train_run(platform)
    run.finish()
    text = client.get(run.path).text
    assert "hx-get" not in text and RENEWED not in text
    assert "/chat?model=teach-1" in text


def test_a_failed_run_says_why_and_what_next(client: TestClient, platform: Platform) -> None:
    run = train_run(platform)
    error = {"message": "no space left: 12 of 540 MB", "next_step": "free 600 MB & resume"}
    run.finish("failed", error=error)
    text = client.get(run.path).text
    assert "no space left: 12 of 540 MB" in text
    assert "free 600 MB &amp; resume" in text
    assert f'action="{run.path}/resume"' in text


def test_a_run_whose_process_is_gone_is_dead(client: TestClient, platform: Platform) -> None:
    run = train_run(platform)
    write_atomically(run.folder.path / "process.json", b'{"pid": 1, "started": 1.0}')
    text = client.get(run.path).text
    assert "is-dead" in text and f'action="{run.path}/resume"' in text


def test_the_resolved_recipe_stands_before_the_written_one(
    client: TestClient, platform: Platform
) -> None:
    run = train_run(platform)
    assert "minutes = 2.5" in client.get(run.path).text
    (run.folder.path / "resolved.toml").write_text("steps = 49\n")
    text = client.get(run.path).text
    assert "steps = 49" in text and "minutes = 2.5" not in text


def test_what_a_model_says_is_text_and_never_markup(client: TestClient, platform: Platform) -> None:
    run = train_run(platform)
    run.tell("sample", step=3, text="<script>alert(1)</script>")
    run.tell("result", note="<img src=x>")
    run.folder.log.write_text("<b>log</b>")
    text = client.get(run.path).text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    for markup in ("<script>alert", "<img src=x", "<b>log"):
        assert markup not in text


def test_an_evaluation_shows_sentences_intervals_and_no_curve(
    client: TestClient, platform: Platform
) -> None:
    run = eval_run(platform)
    run.tell("progress", stage="taught: names", done=3, total=64, unit="questions", eta_s=20.0)
    assert "taught: names · 3 of 64 questions" in client.get(run.path).text
    run.report(found(["Taught is better than base."]))
    run.tell("result", sentences=["Taught is better than base."])
    run.finish()
    text = client.get(run.path).text
    assert "Taught is better than base." in text
    assert "-1.438 [-1.581, -1.312]" in text
    assert 'id="chart"' not in text
    assert "Taught is better than base." in client.get("/runs").text


def test_a_queued_run_waits_and_says_so(client: TestClient, platform: Platform) -> None:
    run = ToldRun(platform, "train", "later", {})
    assert "Waiting for its turn" in client.get(run.path).text


def test_a_run_of_another_version_still_has_a_page(client: TestClient, platform: Platform) -> None:
    run = ToldRun(platform, "distil", "odd", {"teacher": {"digest": "sha256:0"}, "n": [1]})
    run.start()
    run.tell("state", state="running", error="a bare string")
    run.tell("step", step="three", loss="nan", eta_s="soon")
    run.tell("validation")
    run.tell("plan", steps=None)
    run.tell("unheard-of", anything={"goes": 1})
    assert client.get(run.path).status_code == 200
    assert client.get(f"/console{run.path}/curves").json()["train"] == []


def test_curves_come_in_slices(client: TestClient, platform: Platform) -> None:
    run = train_run(platform)
    run.tell("validation", step=0, loss=3.94)
    run.teach(range(1, 4), 49)
    first = client.get(f"/console{run.path}/curves").json()
    assert [step for step, _ in first["train"]] == [1, 2, 3]
    assert first["validation"] == [[0, 3.94]]
    run.teach(range(4, 6), 49)
    second = client.get(f"/console{run.path}/curves?offset={first['offset']}").json()
    assert [step for step, _ in second["train"]] == [4, 5]
    assert second["validation"] == []


def test_pretraining_is_told_in_bits_per_byte(client: TestClient, platform: Platform) -> None:
    run = train_run(platform)
    run.tell("validation", step=10, loss=4.1, bits_per_byte=2.21)
    run.tell("sample", step=10, prompt="def ", text="main():")
    run.tell("result", steps=10, measure="bits_per_byte", before=5.875, after=2.21)
    text = client.get(run.path).text
    assert "2.210 <small>bits per byte</small>" in text
    assert "5.875 before, 2.210 after" in text
    assert '<span class="quiet-code">def </span>main():' in text
    assert "2.210 bits per byte" in client.get("/runs").text
    assert client.get(f"/console{run.path}/curves").json()["validation"] == [[10, 4.1]]


@pytest.mark.parametrize(
    ("objective", "unit"),
    [("sft", "nats per token"), ("dpo", "nats per pair"), ("grpo", "loss")],
)
def test_the_curve_says_what_its_loss_is_counted_in(
    client: TestClient, platform: Platform, objective: str, unit: str
) -> None:
    run = train_run(platform)
    run.tell("plan", steps=10, objective=objective)
    run.tell("step", step=1, loss=0.7)
    assert f'data-unit="{unit}"' in client.get(run.path).text


@pytest.mark.parametrize("held_out", [False, True])
def test_nothing_is_called_validation_that_was_not_held_out(
    client: TestClient, platform: Platform, tmp_path: Path, held_out: bool
) -> None:
    """As a fine-tuning job without a validation file: its first lines are what it measures."""
    me, lines = platform.local_principal(), tmp_path / "lines.jsonl"
    lines.write_text(json.dumps(CHAT) + "\n")
    a_model(platform)
    import_files(platform, me, "lines", "supervised", lines, lines if held_out else None)
    recipe = {
        "objective": "sft",
        "minutes": 1,
        "model": {"name": "tiny"},
        "data": {"name": "lines"},
    }
    run = submit_train(platform, me, TrainRecipe.model_validate(recipe), threads=1)
    with contextlib.closing(run.open_log()) as log:
        log.write("plan", steps=9, measure="loss")
        log.write("validation", step=0, loss=3.5, token_accuracy=0.25)
        log.write("result", measure="loss", before=3.5, after=2.5)
    text = client.get(f"/runs/{run.run_id}").text
    listed = client.get("/runs").text
    for name in ("<dt>Validation loss</dt>", "<dt>Validation token accuracy</dt>",
                 "<dt>validation loss</dt>", 'data-judged="validation"'):  # fmt: skip
        assert (name in text) == held_out, name
    for name in ("<dt>Loss on lines it learns</dt>", "<dt>Token accuracy on lines it learns</dt>",
                 "<dt>loss on lines it learns</dt>", 'data-judged="on lines it learns"',
                 "the first lines of the training file"):  # fmt: skip
        assert (name in text) != held_out, name
    assert ("validation loss 3.500" if held_out else "loss on lines it learns 3.500") in listed


@pytest.mark.parametrize("offset", ["-1", "x", "1e3", "٣"])
def test_an_offset_that_is_no_number_is_refused(
    client: TestClient, platform: Platform, offset: str
) -> None:
    run = train_run(platform)
    assert client.get(f"/console{run.path}/curves", params={"offset": offset}).status_code == 400


def test_a_run_that_is_not_there_is_a_page_that_says_so(client: TestClient) -> None:
    answer = client.get("/runs/run_nobody")
    assert answer.status_code == 404
    assert "run_nobody" in answer.text


def test_cancel_stops_the_runs_process_and_comes_back_to_its_page(
    client: TestClient, platform: Platform
) -> None:
    run = train_run(platform)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        facts = ProcessId.of(process.pid)._asdict()
        text = f'{{"pid": {facts["pid"]}, "started": {facts["started"]!r}}}'
        write_atomically(run.folder.path / "process.json", text.encode())
        answer = client.post(f"{run.path}/cancel")
        assert process.wait(timeout=10) == -signal.SIGTERM
    assert answer.status_code == 303
    assert answer.headers["location"] == f"{run.path}?asked=cancel"


def test_resume_queues_a_cancelled_run_again(client: TestClient, platform: Platform) -> None:
    run = train_run(platform)
    run.finish("cancelled")
    assert client.post(f"{run.path}/resume").status_code == 303
    text = client.get(f"{run.path}?asked=resume").text
    assert "is-queued" in text and "Asked to go on" in text


def test_a_button_that_comes_too_late_says_so(client: TestClient, platform: Platform) -> None:
    run = train_run(platform)
    run.finish()
    answer = client.post(f"{run.path}/cancel")
    assert answer.status_code == 409
    assert "succeeded already" in answer.text


def test_only_the_end_of_a_long_log_is_shown(client: TestClient, platform: Platform) -> None:
    run = train_run(platform)
    lines = [f"line {number:06}" for number in range(2_000)]
    run.folder.log.write_text("\n".join(lines))
    text = client.get(run.path).text
    assert "line 001999" in text and "line 000000" not in text


def test_a_grown_log_is_read_again(client: TestClient, platform: Platform) -> None:
    run = train_run(platform)
    run.teach(range(1, 3), 49)
    assert "2 of 49" in client.get("/runs").text
    run.teach(range(3, 4), 49)
    assert "3 of 49" in client.get("/runs").text
