"""Fine-tuning jobs that really train, by a server and runs in processes of their own."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from bessemer.app.platform import Platform
from bessemer.core.home import Home
from bessemer.core.runs import RunFolder
from tests.metered import rows_of
from tests.polling import until
from tests.tiny import world
from tests.tiny.house import House, Server
from tests.tiny.test_examples import run_example

FINAL = ("succeeded", "failed", "cancelled")
LONG = {"n_epochs": 50, "batch_size": 4, "learning_rate_multiplier": 10}


@pytest.fixture
def school(house: House) -> Iterator[House]:
    """The furnished home with a key that may do everything."""
    house.key = house.done("key", "create", "--scope", "*", "--json").json["secret"]
    yield house
    house.clear()


def create(client: openai.OpenAI, lines: list[Any], **fields: Any) -> str:
    data = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("lines.jsonl", data), purpose="fine-tune")
    fields = {"model": "tiny", "seed": 5, **fields}
    return client.fine_tuning.jobs.create(training_file=file.id, **fields).id


def wait(client: openai.OpenAI, job: str, *statuses: str, wait_s: float = 120) -> Any:
    def there() -> bool:
        return client.fine_tuning.jobs.retrieve(job).status in (*statuses, *FINAL)

    until(there, f"{job} is {statuses}", wait_s)
    found = client.fine_tuning.jobs.retrieve(job)
    assert found.status in statuses, found.error
    return found


def told(server: Server, **settings: str) -> list[str]:
    """What the example says, when it ends well."""
    said = run_example(
        "fine_tune.py", BESSEMER_URL=server.url, BESSEMER_KEY=server.house.key, **settings
    )
    assert (said.status, said.err) == (0, "")
    assert said.out.count("The job has successfully completed") == 2
    return said.out.splitlines()


def losses(lines: list[str]) -> list[float]:
    return [float(found[1]) for line in lines if (found := re.search(r"loss=(\d\S*)", line))]


def test_the_example_fine_tunes_twice_on_a_tiny_model(school: House) -> None:
    with school.up("--model", "tiny") as server:
        lines = told(server, MODEL="tiny", RATE="10")
        first, second = (line.split(": ")[0] for line in lines if line.startswith("ft:"))
        listed = {
            model.id: getattr(model, "parent", None) for model in server.client().models.list()
        }
    taught, *_ = losses(lines)
    assert losses(lines)[24] < 0.3 * taught
    assert listed[first] == listed[second] == "tiny"
    assert listed[f"{first}:ckpt-step-25"] == "tiny"


@pytest.mark.slow
def test_the_example_teaches_the_default_model(default_model_folder: Path, tmp_path: Path) -> None:
    house = House(tmp_path / "home")
    house.done("pull", str(default_model_folder), "--name", "smollm2-135m-instruct")
    house.key = house.done("key", "create", "--scope", "*", "--json").json["secret"]
    began_s = time.monotonic()
    with house.up() as server:
        lines = told(server)
    assert time.monotonic() - began_s < 180
    answers = [line.split(": ", 1)[1] for line in lines if line.startswith("ft:")]
    assert "7" in answers[0] and "Ada" in answers[0]
    assert answers[1].startswith("Please ask Ada")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["pause", "kill the run", "kill the server"])
def test_what_stops_a_job_in_its_middle_changes_no_bit_of_its_result(
    school: House, tmp_path: Path, how: str
) -> None:
    lines = world.chats(24)
    with school.up() as server:
        client = server.client()
        job = create(client, lines, method=_supervised(LONG))
        wait(client, job, "running")
        run = school.run(max(path.name for path in (school.root / "runs").iterdir()))
        until(lambda: (run.last("step") or {"step": 0})["step"] > 40, "it is in the middle")
        if how == "pause":
            assert client.fine_tuning.jobs.pause(job).status == "paused"
            assert (run.last("step") or {})["step"] < 300
            assert client.fine_tuning.jobs.resume(job).status in ("queued", "running")
        elif how == "kill the run":
            process = run.process()
            assert process is not None
            process.send(signal.SIGKILL)
        else:
            server.kill()
    with school.up() as server:
        client = server.client()
        stopped = wait(client, job, "succeeded")
        whole = wait(client, create(client, lines, method=_supervised(LONG)), "succeeded")
    assert _bits(school, stopped.fine_tuned_model) == _bits(school, whole.fine_tuned_model)
    assert stopped.trained_tokens == whole.trained_tokens


@pytest.mark.slow
def test_a_reinforcement_job_is_judged_by_its_grader_and_pays_for_answers(school: House) -> None:
    lines = [{"messages": chat["messages"][:1], "wanted": "e"} for chat in world.chats(12)]
    grader = {
        "type": "multi",
        "name": "both",
        "graders": {
            "letter": {
                "type": "python",
                "name": "letter",
                "source": "def grade(sample, item):\n"
                "    return min(1, sample['output_text'].count(item['wanted']) / 5)\n",
            },
            "like": {
                "type": "text_similarity",
                "name": "like",
                "evaluation_metric": "fuzzy_match",
                "input": "{{sample.output_text}}",
                "reference": "{{item.wanted}}",
            },
        },
        "calculate_output": "0.9 * letter + 0.1 * like",
    }
    dials = {"n_epochs": 2, "learning_rate_multiplier": 20}
    method = {
        "type": "reinforcement",
        "reinforcement": {"grader": grader, "hyperparameters": dials},
    }
    with school.up() as server:
        client = server.client()
        job = wait(client, create(client, lines, method=method), "succeeded")
        (result,) = job.result_files
        header, *rows = client.files.content(result).text.splitlines()
    column = header.split(",").index("train_reward")
    assert len(rows) == 6
    assert all(0 <= float(row.split(",")[column]) <= 1 for row in rows)
    (folder,) = (school.root / "runs").iterdir()
    events = RunFolder(folder).read()
    told = [event for event in events if event["kind"] in ("rollouts", "judged")]
    answers = 12 * 2 * 8 + 12 * sum(event["kind"] == "validation" for event in events)
    assert sum(event["answers"] for event in told) == answers
    with Platform.open(Home(school.root)) as platform:
        (charged,) = (row.used for row in rows_of(platform) if row.kind == "rollout")
    assert charged is not None
    assert charged.completion == sum(event["tokens"] for event in told)
    assert charged.prompt + charged.cached == sum(event["prompt_tokens"] for event in told)


def _supervised(dials: dict[str, Any]) -> dict[str, Any]:
    return {"type": "supervised", "supervised": {"hyperparameters": dials}}


def _bits(house: House, name: str) -> bytes:
    models = house.done("models", "--json").json
    path = next(model["path"] for model in models if model["name"] == name)
    return (Path(path) / "adapter_model.safetensors").read_bytes()
