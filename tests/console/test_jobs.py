"""The pages of fine-tuning jobs: the list, the form, the plan, and one job from start to end."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from bessemer.app import files, fine_tuning, names, spending
from bessemer.app import jobs as run_jobs
from bessemer.app.fine_tuning_method import Dpo, DpoHyperparameters, Method, Reinforcement
from bessemer.app.fine_tuning_plans import Plans
from bessemer.app.paging import PageRequest
from bessemer.app.platform import Platform
from bessemer.console.copying import ApiCall
from bessemer.console.forms import Form
from bessemer.console.job_form import GRADER as EXAMPLE
from bessemer.console.job_form import body_of, request_of, values_of
from bessemer.console.pages import build
from bessemer.console.sessions import Sessions, offer_token, token_folder
from tests.console.conftest import URL
from tests.console.copied import House, house
from tests.console.fakes import FakeServing
from tests.console.test_copying import rendered
from tests.console.told_jobs import ToldJob, a_file, a_model, planning_command
from tests.console.told_runs import RENEWED
from tests.polling import until
from tests.tiny import world

__all__ = ["house"]  # a fixture

MEASURED = {
    "open_s": 4.0, "step_s": 0.5, "judged_row_s": 0.0, "needs_bytes": 1_500_000_000,
    "precision": "bf16", "threads": 1, "trainable_parameters": 4_884_480,
    "parameters": 139_399_488,
}  # fmt: skip


SAMPLED = MEASURED | {
    "answer_tokens": 41.3, "cached_share": 0.5,
    "at_most": {"step_s": 1.5, "judged_row_s": 0.0},
    "judged": {"answer_tokens": 35.0, "prompt_tokens": 20.0, "cached_share": 0.0},
}  # fmt: skip
# Everything that a shell or Python could read in another way.
GRADER = {
    "type": "python",
    "name": 'it\'s "right"',
    "source": "def grade(sample, item):\n    said = sample['output_text']\n"
    '    return float(said == "$HOME \\\\ `x`\\n" or "{{item}}" in said)\n',
}


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.write_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture
def planner(
    platform: Platform, serving: FakeServing, tmp_path: Path, tiny_folder: Path
) -> Iterator[TestClient]:
    """A client of a console whose plans are measured at once."""
    _real_model(platform, tiny_folder)
    plans = Plans(platform, planning_command(tmp_path, SAMPLED))
    app = build(platform, serving, Sessions(token_folder(platform.home)), plans=plans)
    with TestClient(app, base_url=URL, follow_redirects=False) as client:
        client.get(f"/login?token={offer_token(token_folder(platform.home))}")
        yield client


def _real_model(platform: Platform, folder: Path) -> None:
    copy = platform.artifacts.workspace()
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    stored = platform.artifacts.put(copy, kind="model", name="tiny")
    names.bind(platform, platform.local_principal(), "model", "tiny", stored.digest)


def filled(file_id: str, **more: str) -> dict[str, str]:
    return {"model": "tiny", "training_file": file_id, "method": "supervised", **more}


def planned(client: TestClient, form: dict[str, str]) -> tuple[str, str]:
    """The address of the plan, and its page once it is worked out."""
    answer = client.post("/fine-tuning/plans", data=form)
    assert answer.status_code == 303, answer.text
    address = answer.headers["location"]
    until(lambda: "hx-get" not in client.get(address).text, "the plan is there", 30)
    return address, html.unescape(client.get(address).text)


def test_an_empty_list_begins_with_a_file(client: TestClient) -> None:
    text = client.get("/fine-tuning").text
    assert "No job yet" in text and 'href="/files?purpose=fine-tune"' in text


def test_the_form_says_what_is_missing_first(client: TestClient, platform: Platform) -> None:
    assert "bessemer pull" in client.get("/fine-tuning/new").text
    a_model(platform)
    assert "There is no file to learn from" in client.get("/fine-tuning/new").text
    file_id = a_file(platform)
    text = client.get(f"/fine-tuning/new?training_file={file_id}").text
    assert f'<option value="{file_id}" selected>' in text and "<option>tiny</option>" in text


def test_an_old_file_that_is_asked_for_is_chosen_and_no_other(
    client: TestClient, platform: Platform
) -> None:
    a_model(platform)
    oldest, second = a_file(platform, name="oldest.jsonl"), a_file(platform)
    for _ in range(100):
        a_file(platform)
    assert oldest not in client.get("/fine-tuning/new").text
    asked = f"/fine-tuning/new?training_file={oldest}&validation_file={second}"
    text = client.get(asked).text
    assert re.findall(r'<option value="(file-\w+)" selected>', text) == [oldest, second]
    assert f'training_file="{oldest}"' in html.unescape(text)  # in what is copied
    assert "the page of an older one leads here" in text
    form = filled(oldest, n_epochs="many")
    assert (
        f'<option value="{oldest}" selected>' in client.post("/fine-tuning/plans", data=form).text
    )


@pytest.mark.parametrize("name", ["model", "training_file", "validation_file"])
def test_what_is_not_there_to_choose_is_said(
    client: TestClient, platform: Platform, name: str
) -> None:
    a_model(platform)
    a_file(platform)
    me = platform.local_principal()
    others = files.add_bytes(platform, me, "for-evals.jsonl", "evals", b"{}\n").id
    for value in ("gone", others):
        answer = client.get("/fine-tuning/new", params={name: value, "n_epochs": "7"})
        said = f"there is no {name.replace('_', ' ')} {value!r}; choose another"
        assert answer.status_code == 404 and said in html.unescape(answer.text)
        assert 'value="7"' in answer.text and "<code data-name" not in answer.text


DEVICE_CARD = """
currency = "eur"
[[rates]]
model = "*"
prompt = 0
completion = 0
device_hour = 3_600_000_000
"""


def wrong_grader(text: str) -> dict[str, str]:
    return {"method": "reinforcement", "grader": text}


SCORE_MODEL = json.dumps(
    {
        "type": "score_model", "name": "judge", "model": "tiny",
        "input": [{"role": "user", "content": "{{sample.output_text}}"}],
    }
)  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n_epochs": "many"}, "n epochs is 'many'"),
        ({"n_epochs": "99"}, "$.supervised.hyperparameters.n_epochs"),
        ({"seed": "-1"}, "the seed is -1"),
        ({"suffix": "a/b"}, "'suffix' is 'a/b'"),
        ({"method": "magic"}, "the method is 'magic'"),
        ({"method": "reinforcement"}, "a reinforcement job needs a grader"),
        (wrong_grader('{"type": "python",\n "name" 3}'), "no JSON: line 2: expected ':'"),
        (wrong_grader('{"type": "python"'), "no JSON: it ends before it is whole"),
        (wrong_grader('["python"]'), "has to be a JSON object: Expected `object`, got `array`"),
        (wrong_grader('{"a":' * 5000), "nested too deeply"),
        (wrong_grader('{"a":' * 500 + "1" + "}" * 500), "'method.reinforcement.grader.type' is"),
        (wrong_grader("{}"), "'method.reinforcement.grader.type' is 'None'; it takes string_check"),
        (wrong_grader(SCORE_MODEL), "is a score_model, which asks a model; no model can be asked"),
        (
            {"method": "reinforcement", "grader": EXAMPLE, "compute_multiplier": "11"},
            "$.reinforcement.hyperparameters.compute_multiplier",
        ),
        ({"model": "nobody"}, "the model 'nobody' cannot be fine-tuned"),
        ({"training_file": "file-nothing"}, "No such File object"),
        ({"training_file": ""}, "choose a training file"),
        ({"learning_rate_multiplier": "inf"}, "learning rate multiplier is 'inf'; leave it empty"),
        ({"learning_rate_multiplier": "1e999"}, "learning rate multiplier is '1e999'"),
    ],
)
def test_a_mistake_comes_back_with_the_form(
    client: TestClient, platform: Platform, wrong: dict[str, str], said: str
) -> None:
    a_model(platform)
    form = filled(a_file(platform), batch_size="7") | wrong
    answer = client.post("/fine-tuning/plans", data=form)
    assert answer.status_code in (400, 404)
    text = html.unescape(answer.text)
    assert said in text and 'name="batch_size" value="7"' in text
    assert "GET /v1/" not in text  # that is a next step for programs
    shown = text.partition('<textarea name="grader"')[2].partition("</textarea>")[0]
    attributes, _, grader = shown.partition(">")
    assert grader == wrong.get("grader", EXAMPLE)
    blamed = wrong.get("method") == "reinforcement" and "compute_multiplier" not in wrong
    assert ("aria-invalid" in attributes) == blamed


def test_the_plan_says_whether_it_fits_how_long_and_at_what_cost(
    planner: TestClient, platform: Platform
) -> None:
    file_id = a_file(platform, *world.chats(10))
    form = filled(file_id, n_epochs="2", batch_size="5", suffix="boxes", seed="7")
    address, text = planned(planner, form)
    for shown in (
        "It fits", "1.5 GB", "about 6 s", "4 steps of 0.50 s", "no price set", "10 lines",
        "4,884,480 of 139,399,488 weights, in bf16 by 1 thread",
    ):  # fmt: skip
        assert shown in text, shown
    # The API call that does the same is on the page, whole.
    assert '"n_epochs": 2' in text and '"suffix": "boxes"' in text
    again = planner.get(f"/fine-tuning/new?plan={address.rpartition('/')[2]}").text
    assert 'name="n_epochs" value="2"' in again and 'name="suffix" value="boxes"' in again
    job_page = planner.post(f"{address}/start").headers["location"]
    me = platform.local_principal()
    ((job,), _) = fine_tuning.list_jobs(platform, me, PageRequest())
    assert job_page == f"/fine-tuning/{job.id}" and (job.seed, job.training_file) == (7, file_id)
    assert planner.post(f"{address}/start").headers["location"] == job_page


def test_the_plan_of_a_reinforcement_job_says_what_its_answers_may_take(
    planner: TestClient, platform: Platform
) -> None:
    lines = [{"messages": chat["messages"][:1], "answer": "e"} for chat in world.chats(8)]
    form = filled(a_file(platform, *lines), method="reinforcement", grader=EXAMPLE, n_epochs="1")
    _, free = planned(planner, form)
    assert "no price set" in free and "with them time. <b>At most</b> is" in free
    spending.set_prices(platform, platform.local_principal(), DEVICE_CARD, "the card")
    address, text = planned(planner, form)
    for shown in (
        "It fits", "1.5 GB", "about 5 s", "at most 7 s; 2 steps of 0.50 s", "about 5.00 EUR",
        "at most 7.00 EUR", "64 answers", "to 8 prompts", "had 41 tokens on average, of 128",
        "longest prompt", "compute multiplier", '"reference": "{{item.answer}}"',
    ):  # fmt: skip
        assert shown in text, shown
    again = html.unescape(planner.get(f"/fine-tuning/new?plan={address.rpartition('/')[2]}").text)
    assert 'value="reinforcement" checked' in again and f">{EXAMPLE}</textarea>" in again
    planner.post(f"{address}/start")
    ((job,), _) = fine_tuning.list_jobs(platform, platform.local_principal(), PageRequest())
    assert job.method.reinforcement is not None
    assert job.method.reinforcement.grader == json.loads(EXAMPLE)


def test_a_price_of_device_time_becomes_the_cost(planner: TestClient, platform: Platform) -> None:
    spending.set_prices(platform, platform.local_principal(), DEVICE_CARD, "the card")
    form = filled(a_file(platform, *world.chats(10)), n_epochs="2", batch_size="5")
    _, text = planned(planner, form)
    assert "6.00 EUR" in text and "no price set" not in text


def test_a_broken_file_stops_at_the_plan_and_leads_to_its_lines(
    planner: TestClient, platform: Platform
) -> None:
    file_id = a_file(platform, *world.chats(2), {"messages": "<script>"})
    address, text = planned(planner, filled(file_id))
    assert "It cannot start" in text and "line 3: messages is a string" in text
    assert f'href="/files/{file_id}"' in text and f'action="{address}/start"' not in text
    assert "<script>alert" not in planner.get(address).text


def test_the_list_and_the_page_follow_a_job(client: TestClient, platform: Platform) -> None:
    job = ToldJob(platform, suffix="boxes")
    text = client.get(job.path).text
    assert "validating files" in text and "Created fine-tuning job" in text
    assert "data-reload" in text and RENEWED in text and 'id="chart"' not in text
    run = job.begin()
    run.teach(range(1, 21), 49)
    text = client.get(job.path).text
    for shown in ("20 of 49 steps", "left", "331", f"/console/runs/{run.id}/curves", "Step 20/49"):
        assert shown in text, shown
    for verb in ("pause", "cancel"):
        assert f'action="{job.path}/{verb}"' in text
    assert f'action="{job.path}/resume"' not in text
    listed = client.get("/fine-tuning").text
    assert job.name in listed and "20 of 49 steps" in listed and "is-running" in listed


def test_a_job_that_is_done_can_be_asked(client: TestClient, platform: Platform) -> None:
    job = ToldJob(platform, validation_file=a_file(platform))
    run = job.begin()
    run.teach(range(1, 50), 49)
    run.finish()
    job.keep(49, train_loss=1.25, valid_loss=1.5)
    job.end("succeeded", trained_tokens=5_000, result_file="file-results")
    text = client.get(job.path).text
    assert f'href="/chat?model={job.name.replace(":", "%3A")}"' in text
    assert f"{job.name}:ckpt-step-49" in text and "1.250" in text and "1.500" in text
    assert "5,000" in text and 'href="/files/file-results"' in text
    assert "hx-get" not in text and "successfully completed" in text
    for verb in ("pause", "cancel", "resume"):
        assert f'action="{job.path}/{verb}"' not in text


def test_nothing_is_called_validation_that_was_not_held_out(
    client: TestClient, platform: Platform
) -> None:
    for job, held_out in (
        (ToldJob(platform, suffix="a"), False),
        (ToldJob(platform, suffix="b", validation_file=a_file(platform)), True),
    ):
        run = job.begin()
        run.teach(range(1, 50), 49)
        run.finish()
        job.keep(49, train_loss=1.25)
        job.end("succeeded")
        text = client.get(job.path).text
        for word in ("<dt>Validation loss</dt>", "</i>validation</span>", ">validation loss</th>"):
            assert (word in text) == held_out, word
        listed = client.get("/fine-tuning").text.split(job.path)[1].split("</li>")[0]
        assert ("validation" in listed, "training loss" in listed) == (held_out, not held_out)


def test_a_list_names_the_fault_and_not_the_files_id(
    client: TestClient, platform: Platform
) -> None:
    file_id = a_file(platform, {"messages": []})
    job = ToldJob(platform, training_file=file_id)
    told = {"code": "x", "message": f"{file_id} has 1 faults:\n  line 1: empty", "param": None}
    job.end("failed", told)
    text = client.get("/fine-tuning").text
    assert "the training file has 1 faults" in text and "failed after" in text


def test_a_job_that_failed_leads_to_what_is_wrong(client: TestClient, platform: Platform) -> None:
    file_id = a_file(platform, {"messages": []})
    job = ToldJob(platform, training_file=file_id)
    message = "chats.jsonl has 1 faults:\n  line 1: <b>messages</b> is empty"
    job.end("failed", {"code": "invalid_file", "message": message, "param": "training_file"})
    text = client.get(job.path).text
    assert "line 1: &lt;b&gt;messages&lt;/b&gt; is empty" in text
    assert f'href="/files/{file_id}"' in text


def test_a_paused_job_offers_to_go_on_and_goes_on(client: TestClient, platform: Platform) -> None:
    job = ToldJob(platform)
    run = job.begin()
    job.change(wanted="pause")
    run.finish("cancelled")
    text = client.get(job.path).text
    assert "is-paused" in text and f'action="{job.path}/resume"' in text
    answer = client.post(f"{job.path}/resume")
    assert answer.headers["location"] == f"{job.path}?asked=resume"
    assert job.now.status == "queued"
    assert "go on from its last checkpoint" in client.get(answer.headers["location"]).text


def test_cancelling_a_job_that_waits_is_at_once(client: TestClient, platform: Platform) -> None:
    job = ToldJob(platform)
    assert client.post(f"{job.path}/cancel").status_code == 303
    assert job.now.status == "cancelled"
    again = client.post(f"{job.path}/cancel")
    assert again.status_code == 400 and "cannot be cancelled" in again.text


def test_a_reader_follows_and_steers_nothing(
    reader: TestClient, client: TestClient, platform: Platform
) -> None:
    job = ToldJob(platform)
    job.begin().teach(range(1, 5), 49)
    text = reader.get(job.path).text
    assert "4 of 49 steps" in text and f'action="{job.path}' not in text
    assert "/fine-tuning/new" not in reader.get("/fine-tuning").text
    assert reader.get("/fine-tuning/new").status_code == 403
    refused = reader.post("/fine-tuning/plans", data=filled(job.now.training_file))
    assert refused.status_code == 403
    for verb in ("pause", "cancel", "resume"):
        assert reader.post(f"{job.path}/{verb}").status_code == 403
    assert job.now.status == "running"


def test_another_projects_jobs_and_plans_are_not_there(
    planner: TestClient, neighbor: TestClient, platform: Platform
) -> None:
    job = ToldJob(platform)
    address, _ = planned(planner, filled(a_file(platform, *world.chats(2))))
    assert job.id not in neighbor.get("/fine-tuning").text
    for path in (job.path, address):
        assert neighbor.get(path).status_code == 404
    for path in (f"{job.path}/cancel", f"{job.path}/pause", f"{address}/start"):
        assert neighbor.post(path).status_code == 404
    assert neighbor.get(f"/fine-tuning/new?plan={address.rpartition('/')[2]}").status_code == 404


def test_what_is_copied_lists_reads_and_steers(house: House) -> None:
    job = ToldJob(house.platform)
    job.begin().teach(range(1, 3), 49)
    for ran in house.run(house.page("/fine-tuning").calls["List the jobs"]).values():
        assert [one["id"] for one in ran.json["data"]] == [job.id]
    calls = house.page(job.path).calls
    for ran in house.run(calls["Look at the job"]).values():
        assert (ran.json["id"], ran.json["status"]) == (job.id, "running")
    for ran in house.run(calls["List its checkpoints"]).values():
        assert ran.json["data"] == []
    for ran in house.run(calls["Read its events"]).values():
        assert ran.json["data"][0]["object"] == "fine_tuning.job.event"


@pytest.mark.parametrize("name", ["curl", "Python"])
@pytest.mark.parametrize("word", ["pause", "resume", "cancel"])
def test_what_is_copied_steers_a_job(house: House, word: str, name: str) -> None:
    if name == "curl" and shutil.which("curl") is None:
        pytest.skip("no curl on the PATH")
    job = ToldJob(house.platform)
    if word != "cancel":
        run = job.begin()
        run.teach(range(1, 3), 49)
        job.change(wanted="pause")
        run.finish("cancelled")  # as the run ends that was asked to pause
    if word == "pause":
        run_jobs.resume(house.platform, house.platform.local_principal(), run.id)
        job.change(wanted="run")
    text = house.page(job.path).calls[f"{word.capitalize()} it"][name]
    told = house.run({name: text})[name].json["status"]
    assert told == {"pause": "paused", "resume": "queued", "cancel": "cancelled"}[word]
    assert job.now.status == told


@pytest.mark.parametrize(
    "method",
    [
        Method(type="supervised"),
        Method(type="dpo", dpo=Dpo(DpoHyperparameters(beta=0.2))),
        Method(type="reinforcement", reinforcement=Reinforcement(grader=GRADER)),
    ],
    ids=["supervised", "dpo", "reinforcement"],
)
def test_the_plan_is_copied_as_the_call_that_starts_it(house: House, method: Method) -> None:
    a_model(house.platform)
    file_id = a_file(house.platform)
    request = fine_tuning.Request("tiny", file_id, method.checked(), suffix="s", seed=3)
    call = ApiCall(
        "Start this job", "POST", "/v1/fine_tuning/jobs", body=body_of(request),
        python="fine_tuning.jobs.create",
    )  # fmt: skip
    for ran in house.run(rendered(call, house.url)).values():
        assert (ran.json["model"], ran.json["seed"]) == ("tiny", 3)
        made = fine_tuning.get(house.platform, house.platform.local_principal(), ran.json["id"])
        assert made.method == method.checked()
    assert body_of(request._replace(method=Method(type="supervised").checked()))["method"] == {
        "type": "supervised"
    }


def test_the_form_is_copied_as_the_call_that_starts_the_job(house: House) -> None:
    """First as the server filled it in, then as it is posted at each change."""
    a_model(house.platform)
    oldest, newest = a_file(house.platform), a_file(house.platform, name="new.jsonl")
    for query, wanted in (("", newest), (f"?training_file={oldest}&seed=7", oldest)):
        calls = house.page(f"/fine-tuning/new{query}").calls
        for ran in house.run(calls["Start this job"]).values():
            assert (ran.json["model"], ran.json["training_file"]) == ("tiny", wanted)
            assert (ran.json["seed"] == 7) == bool(query)
    calls = house.page("/fine-tuning/new?method=reinforcement").calls
    assert '"string_check"' in calls["Start this job"]["Python"]
    form = filled(oldest, method="dpo", n_epochs="2", beta="0.5", seed="3")
    calls = house.page("/console/fine-tuning/copied", form).calls
    for ran in house.run(calls["Start this job"]).values():
        assert (ran.json["training_file"], ran.json["seed"]) == (oldest, 3)
        numbers = ran.json["method"]["dpo"]["hyperparameters"]
        assert (numbers["n_epochs"], numbers["beta"]) == (2, 0.5)


def test_what_makes_no_sense_is_not_copied(
    client: TestClient, reader: TestClient, platform: Platform
) -> None:
    a_model(platform)
    form = filled(a_file(platform), n_epochs="many<")
    answer = client.post("/console/fine-tuning/copied", data=form)
    assert answer.status_code == 200 and "<code" not in answer.text
    assert "n epochs is &#39;many&lt;&#39;" in answer.text
    right = {**form, "n_epochs": ""}
    deep = {"method": "reinforcement", "grader": '{"a":' * 500 + "1" + "}" * 500}
    assert "grader.type" in client.post("/console/fine-tuning/copied", data={**right, **deep}).text
    assert "<code data-name" not in client.get("/fine-tuning/new", params=deep).text
    page = client.get("/fine-tuning/new?n_epochs=many")
    assert (
        page.status_code == 200
        and "hx-post" not in page.text
        and "<code data-name" not in page.text
    )
    assert reader.post("/console/fine-tuning/copied", data=form).status_code == 403


@pytest.mark.parametrize(
    "own",
    [
        {"method": "dpo", "beta": "0.2"},
        {
            "method": "reinforcement", "grader": json.dumps(GRADER, indent=2), "eval_samples": "3",
            "eval_interval": "9", "compute_multiplier": "0.5",
        },
    ],
)  # fmt: skip
def test_a_form_says_again_what_was_asked(own: dict[str, str]) -> None:
    sent = {
        "model": "tiny", "training_file": "file-1", "validation_file": "file-2", "n_epochs": "2",
        "learning_rate_multiplier": "0.5", "seed": "3", **own,
    }  # fmt: skip
    request = request_of(Form({key: [value] for key, value in sent.items()}))
    assert values_of(request) == sent
    # What belongs to another method is still in the form, and asks for nothing.
    others = {"beta": "0.3", "grader": "{", "eval_samples": "x", **sent, "method": "supervised"}
    plain = request_of(Form({key: [value] for key, value in others.items()}))
    assert "beta" not in values_of(plain) and "grader" not in values_of(plain)
    assert request.method.section.hyperparameters.batch_size == "auto"
