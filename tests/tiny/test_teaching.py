"""Teach, measure, serve: the way from a file of chats to a model that got better. Slow."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.polling import until
from tests.tiny import world
from tests.tiny.house import RUN, House
from tests.tiny.test_examples import run_example

pytestmark = pytest.mark.slow

ONE_THREAD = ("--threads", "1")
HI: Any = [{"role": "user", "content": "Where does basice keep difogu?"}]
# Long enough to be met in the middle of, on any machine.
MANY_STEPS = ("--set", "steps=400", "--set", "checkpoints.every_s=1")


@pytest.fixture(scope="module")
def school(furnished: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The furnished home, where `taught` was made of `tiny` by the command line alone."""
    folder = tmp_path_factory.mktemp("school")
    house = furnished.copied_to(folder / "home")
    recipe = world.write_recipe(folder / "tiny.toml")
    said = house.done("train", str(recipe), "--name", "taught", *ONE_THREAD)
    assert said.out == "taught is ready: bessemer chat taught\n"
    yield house
    house.clear()


def test_training_makes_a_named_model_that_says_where_it_came_from(school: House) -> None:
    models = {model["name"]: model for model in school.done("models", "--json").json}
    assert sorted(models) == ["other", "taught", "taught-adapter", "tiny"]
    adapter = models["taught-adapter"]
    assert (adapter["kind"], adapter["parents"]) == ("adapter", [models["tiny"]["digest"]])
    taught, tiny = models["taught"], models["tiny"]
    assert taught["parents"] == [tiny["digest"]]
    assert taught["licence"] == tiny["licence"] == "CC0-1.0"
    assert taught["provenance"]["run_id"].startswith("run_")
    stored = {path.name for path in Path(taught["path"]).iterdir()}
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja"} <= stored


def test_training_teaches(school: House) -> None:
    (run,) = [run for run in school.done("runs", "--json").json if run["kind"] == "train"]
    assert run["state"] == "succeeded"
    assert run["result"]["after"] < 0.7 * run["result"]["before"]


def test_an_evaluation_says_better_where_it_was_taught(school: House) -> None:
    words = ("eval", "tiny", "taught", "--data", "boxes", "--items", "12", "--shots", "2")
    report = school.done(*words, *ONE_THREAD, "--json").json
    assert report["sentences"][0].startswith("Taught is better than base in held-out loss.")
    newest = school.done("runs", "--json").json[0]
    assert newest["kind"] == "eval"
    assert school.done("runs", newest["id"]).out.count("\n") > len(report["sentences"])


def test_an_evaluation_of_a_model_against_itself_cannot_tell(school: House) -> None:
    words = ("eval", "tiny", "tiny", "--data", "boxes", "--items", "8", "--shots", "0")
    said = school.done(*words, *ONE_THREAD)
    assert said.out.startswith("Cannot tell whether taught differs from base in held-out loss")


def test_what_was_taught_is_said_by_the_merged_model_and_by_its_adapter(school: House) -> None:
    with school.up("--model", "tiny", *ONE_THREAD) as server:
        client = server.client()
        said = [
            client.chat.completions.create(model=name, messages=HI, temperature=0, max_tokens=8)
            .choices[0]
            .message.content
            for name in ("taught", "taught-adapter", "tiny")
        ]
        assert server.engine("tiny").is_running()
        parents = {model.id: getattr(model, "parent", None) for model in client.models.list()}
    assert said[0] == said[1] != said[2]
    assert parents["taught-adapter"] == "tiny"
    words = ("chat", "taught-adapter", "-m", HI[0]["content"], "--temperature", "0", *ONE_THREAD)
    assert school.done(*words, "--max-tokens", "8").out.strip() == (said[0] or "").strip()


def test_a_dataset_without_test_chats_is_an_error_that_says_so(school: House) -> None:
    file = world.write_chats(school.root.parent / "one.jsonl", 1)
    school.done("data", "import", str(file))
    said = school.say("eval", "tiny", "--data", "one", *ONE_THREAD)
    assert said.status == 1
    assert "the test split is empty" in said.err
    assert "next: bessemer data import" in said.err


def test_the_terminal_chat_answers_by_seed(school: House) -> None:
    words = ("chat", "taught", "-m", HI[0]["content"], "--max-tokens", "8", "--seed", "3")
    answers = [school.done(*words, *ONE_THREAD, "--json").json for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0]["completion_tokens"] <= 8


def test_a_killed_run_says_so_and_is_resumed(house: House, recipe: Path) -> None:
    words = ("train", str(recipe), *MANY_STEPS, "--name", "taught", *ONE_THREAD)
    run_id = house.done(*words, "--detach", "--json").json["run_id"]
    run = house.run(run_id)
    until(lambda: run.last("checkpoint"), "a checkpoint is written", 120)
    process = run.process()
    assert process is not None
    process.send(signal.SIGKILL)
    until(lambda: run.state() == "dead", "the run is dead")
    assert f"bessemer train --resume {run_id}" in house.done("runs", run_id).out
    said = house.done("train", "--resume", run_id)
    assert said.out == "taught is ready: bessemer chat taught\n"
    resumed = run.last("resumed")
    assert resumed is not None
    assert resumed["step"] > 0
    assert house.done("runs", run_id, "--json").json["attempts"] == 2


def test_a_run_survives_kill_9_of_the_server_and_the_next_server_registers_its_model(
    house: House, recipe: Path
) -> None:
    with house.up("--model", "tiny") as server:
        server.wait_ready("tiny")
        words = ("train", str(recipe), *MANY_STEPS, "--name", "taught", "--detach", "--json")
        run_id = house.done(*words).json["run_id"]
        run = house.run(run_id)
        until(lambda: run.last("step"), "the server's run steps", 120)
        process = run.process()
        server.kill()
    until(lambda: not _engines(house), "the engine has followed its server")
    assert process is not None
    assert process.alive(), "the run was to be met in its middle"
    with house.up() as server:
        client = server.client()
        until(lambda: "taught" in [m.id for m in client.models.list()], "it is served", 120)
        answer = client.chat.completions.create(
            model="taught",
            messages=HI,
            max_tokens=8,
        )
        assert answer.choices[0].message.content
    found = house.done("runs", run_id, "--json").json
    assert (found["state"], found["attempts"]) == ("succeeded", 1)
    assert run.process() == process, "nobody started it a second time"
    assert house.processes() == []


def test_a_server_that_stops_leaves_its_run_going_and_cancel_stops_it(
    house: House, recipe: Path
) -> None:
    with house.up("--model", "tiny") as server:
        words = ("train", str(recipe), *MANY_STEPS, "--detach", "--json")
        run_id = house.done(*words).json["run_id"]
        run = house.run(run_id)
        until(lambda: run.last("step"), "the server's run steps", 120)
        assert server.stop() == 0
    (left,) = house.processes()
    assert RUN in left.cmdline()
    assert house.done("runs", run_id, "--cancel").out == f"{run_id} was asked to stop\n"
    until(lambda: run.state() == "cancelled", "it has stopped")
    until(lambda: house.processes() == [], "its process is gone")
    assert run.last("checkpoint") is not None


def test_watch_a_run_follows_one_to_its_end(house: House, recipe: Path) -> None:
    words = ("train", str(recipe), "--detach", "--json", *ONE_THREAD)
    run_id = house.done(*words).json["run_id"]
    said = run_example("watch_a_run.py", str(house.run(run_id).path))
    assert (said.status, said.err) == (0, "")
    assert "step 30  loss " in said.out
    assert "validation at step 30: loss " in said.out


def _engines(house: House) -> list[object]:
    return [process for process in house.processes() if RUN not in process.cmdline()]
