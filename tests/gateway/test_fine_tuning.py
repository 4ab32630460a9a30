"""`/v1/fine_tuning/jobs` through the official client, on runs that only tell what a run tells."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from bessemer.app import files, fine_tuned_models, fine_tuning, fine_tuning_desk, jobs
from bessemer.app.adapters import find_adapter
from bessemer.app.spending import set_prices
from bessemer.core.runs import RunFolder
from tests.gateway.calling import CHAT_KEY, KEY, call, running
from tests.gateway.tuning_shop import (
    DENIED_KEY,
    JOBS,
    ME,
    RICH_KEY,
    Shop,
    shop,
    tiny_folder,
)
from tests.polling import until
from tests.specification import check
from tests.text.test_grader_objects import JUDGE, RIGHT
from tests.tiny import world
from tests.unreachable import away

__all__ = ["shop", "tiny_folder"]  # fixtures


@contextlib.contextmanager
def serving(shop: Shop) -> Iterator[openai.OpenAI]:
    """A server with its background, and the official client."""

    @contextlib.asynccontextmanager
    async def background() -> Any:
        await shop.supervisor.start()
        await shop.desk.start()
        yield
        await shop.desk.close()
        await shop.supervisor.close()

    with running(shop.app, lifespan=background()) as server:
        yield openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)


def test_the_official_client_trains_to_the_end(shop: Shop) -> None:
    with serving(shop) as client:
        data = "\n".join(map(json.dumps, world.chats(10))).encode()
        file = client.files.create(file=("chats.jsonl", data), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(
            model="tiny",
            training_file=file.id,
            validation_file=file.id,
            suffix="boxes",
            seed=7,
            metadata={"team": "blue"},
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
        )
        assert (job.status, job.fine_tuned_model) == ("validating_files", None)
        path = f"/fine_tuning/jobs/{job.id}/events?stream=true"
        told = [
            event.message
            for event in client.get(
                path,
                cast_to=openai.types.fine_tuning.FineTuningJobEvent,
                stream=True,
                stream_cls=openai.Stream[openai.types.fine_tuning.FineTuningJobEvent],
            )
        ]
        done = client.fine_tuning.jobs.retrieve(job.id)
        assert told[0] == f"Created fine-tuning job: {job.id}"
        assert told[-1] == "The job has successfully completed"
        assert "Step 5/5: training loss=0.8000" in told
        assert done.status == "succeeded"
        name = f"ft:tiny:p1:boxes:{job.id[-8:]}"
        assert done.fine_tuned_model == name
        assert (done.trained_tokens, done.seed, done.metadata) == (500, 7, {"team": "blue"})
        assert done.hyperparameters.n_epochs == 2
        assert done.hyperparameters.batch_size == 4
        listed = list(client.fine_tuning.jobs.list_events(job.id, limit=3))
        assert [event.message for event in listed] == told[::-1]
        assert [e.data["step"] for e in listed if e.type == "metrics"][::-1] == [1, 2, 3, 4, 5, 5]  # type: ignore[call-overload, index]
        (checkpoint,) = client.fine_tuning.jobs.checkpoints.list(job.id)
        assert checkpoint.fine_tuned_model_checkpoint == f"{name}:ckpt-step-5"
        assert checkpoint.metrics.train_loss == pytest.approx(0.8)
        assert checkpoint.metrics.valid_loss == 0.5
        for made in (name, checkpoint.fine_tuned_model_checkpoint):
            assert find_adapter(shop.platform, ME, made).base.name == "tiny"
        (result,) = done.result_files
        table = client.files.content(result).text.splitlines()
        assert table[0] == "step,train_loss,valid_loss"
        assert table[-1] == "5,0.8,0.5"
        assert client.models.delete(name).deleted
        with pytest.raises(openai.NotFoundError):
            client.models.delete(name)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "gpt-4o"}, "model"),
        ({"suffix": "a b"}, "suffix"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"hyperparameters": {"n_epochs": 51}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"batch_size": "big"}}, "hyperparameters.batch_size"),
        ({"hyperparameters": {"epochs": 1}}, "hyperparameters.epochs"),
        ({"method": {"type": "dpo"}, "hyperparameters": {}}, "hyperparameters"),
        ({"method": {"type": "dpo", "supervised": {}}}, "method.supervised"),
        ({"method": {"type": "reinforcement"}}, "method.reinforcement"),
        (
            {"method": {"type": "reinforcement", "reinforcement": {"grader": JUDGE}}},
            "method.reinforcement.grader",
        ),
        ({"integrations": [{"type": "wandb"}]}, "integrations"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_bad_request_names_its_field(shop: Shop, fields: dict[str, Any], param: str) -> None:
    body = {"model": "tiny", "training_file": shop.upload(world.chats(1)), **fields}
    answer = call(shop.app, JOBS, body)
    assert (answer.status, answer.error["param"]) == (400, param)
    assert call(shop.app, JOBS, method="GET").json()["data"] == []


def test_a_file_that_is_not_there_or_of_another_purpose_is_refused(shop: Shop) -> None:
    body = {"model": "tiny", "training_file": "file-none"}
    missing = call(shop.app, JOBS, body)
    assert (missing.status, missing.error["param"]) == (404, "training_file")
    body["training_file"] = shop.upload(world.chats(1), purpose="batch")
    other = call(shop.app, JOBS, body)
    assert (other.status, other.error["param"]) == (400, "training_file")


@pytest.mark.parametrize("param", ["training_file", "validation_file"])
def test_a_file_that_is_deleted_before_it_is_read_is_named(shop: Shop, param: str) -> None:
    gone = shop.upload(world.chats(4))
    job = shop.create(world.chats(4), **{param: gone})
    files.delete(shop.platform, ME, gone)
    error = shop.until(job, "failed")["error"]
    assert (error["code"], error["param"]) == (f"invalid_{param}", param)
    assert error["message"] == f"{gone} was deleted or expired before it was read"


def test_a_model_that_is_deleted_before_its_job_is_looked_at_is_named(shop: Shop) -> None:
    model = shop.until(shop.create(world.chats(4)), "succeeded")["fine_tuned_model"]
    job = shop.create(world.chats(4), model=model)
    fine_tuned_models.delete(shop.platform, ME, model)
    error = shop.until(job, "failed")["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")


def test_an_end_is_estimated_by_steps_since_it_goes_and_never_in_the_past(shop: Shop) -> None:
    shop.mark("hold")
    job = shop.create(world.chats(10), hyperparameters={"n_epochs": 2})
    shop.until(job, "running")
    run = shop.run_of(job)
    until(lambda: run.last("step") is not None, "a step is done")
    assert shop.get(job)["estimated_finish"] >= int(run.last("step")["t"])  # type: ignore[index]
    time.sleep(1)  # its process waits, and its last step gets older
    assert shop.get(job)["estimated_finish"] > int(run.last("step")["t"])  # type: ignore[index]
    shop.post(job, "pause")
    shop.post(job, "resume")
    assert shop.until(job, "running")["estimated_finish"] is None
    shop.post(job, "cancel")
    assert shop.get(job)["estimated_finish"] is None


def test_a_model_that_a_project_may_not_ask_it_may_not_train(shop: Shop) -> None:
    body = {"model": "tiny", "training_file": shop.upload(world.chats(2))}
    answer = call(shop.app, JOBS, body, key=DENIED_KEY)
    assert (answer.status, answer.error["param"]) == (400, "model")
    assert "cannot be fine-tuned: The model `tiny` does not exist" in answer.error["message"]


def test_a_job_that_has_no_price_is_refused_before_it_is_made(shop: Shop) -> None:
    card = 'currency = "usd"\n[[rates]]\nmodel = "*"\nprompt = 1\ncompletion = 2\n'
    body = {"model": "tiny", "training_file": shop.upload(world.chats(2))}
    set_prices(shop.platform, ME, card, "prices")
    answer = call(shop.app, JOBS, body)
    assert (answer.status, answer.error["param"]) == (400, "model")
    assert "(next: add device_hour or training to that rate" in answer.error["message"]
    set_prices(shop.platform, ME, card + "training = 0\n", "prices")
    assert call(shop.app, JOBS, body).status == 200


def test_another_project_sees_nothing_and_a_poor_key_is_refused(shop: Shop) -> None:
    job = shop.until(shop.create(world.chats(4)), "succeeded")
    paths = [("GET", f"/{job['id']}{part}") for part in ("", "/events", "/checkpoints")]
    paths += [("POST", f"/{job['id']}/{verb}") for verb in ("cancel", "pause", "resume")]
    for method, path in paths:
        assert call(shop.app, JOBS + path, method=method, key=RICH_KEY).status == 404, path
        assert call(shop.app, JOBS + path, method=method, key=CHAT_KEY).status == 403, path
        assert call(shop.app, JOBS + path, method=method, key=None).status == 401, path
    assert call(shop.app, JOBS, method="GET", key=RICH_KEY).json()["data"] == []
    model = f"/v1/models/{job['fine_tuned_model']}"
    assert call(shop.app, model, method="DELETE", key=RICH_KEY).status == 404
    assert call(shop.app, model, method="DELETE", key=CHAT_KEY).status == 403
    stays = call(shop.app, "/v1/models/tiny", method="DELETE")
    assert (stays.status, stays.error["param"]) == (400, "model")
    digest = find_adapter(shop.platform, ME, job["fine_tuned_model"]).artifact.digest
    assert call(shop.app, model, method="DELETE").json()["deleted"] is True
    assert shop.trail(job["fine_tuned_model"])[-1] == ("model.deleted", {"digest": digest})


def test_lists_turn_pages_and_filter_by_metadata(shop: Shop) -> None:
    marks: list[dict[str, str] | None] = [{"a": "x"}, {"a": "X"}, {"a": "x", 'b"': "1"}, None]
    ids = [shop.create(world.chats(1), metadata=mark)["id"] for mark in marks]
    with running(shop.app) as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)
        found = client.fine_tuning.jobs.list
        assert [job.id for job in found(limit=3)] == ids[::-1]
        assert [job.id for job in found(metadata={"a": "x"})] == [ids[2], ids[0]]
        assert [job.id for job in found(metadata={"a": "x", 'b"': "1"})] == [ids[2]]
        assert [job.id for job in found(metadata={"b": "1"})] == []
        assert [job.id for job in found(extra_query={"metadata": "null"})] == [ids[3]]


def test_a_stream_begins_behind_an_event_that_there_is(shop: Shop) -> None:
    job = shop.until(shop.create(world.chats(4)), "succeeded")
    events = f"{JOBS}/{job['id']}/events"
    newest_first = call(shop.app, events, method="GET").json()["data"]
    after = newest_first[3]["id"]
    streamed = call(shop.app, f"{events}?stream=true&after={after}", method="GET").events()
    assert streamed == [*newest_first[2::-1], "[DONE]"]
    for query, param in (("after=ftevent-x", "after"), ("limit=2", "limit")):
        refused = call(shop.app, f"{events}?stream=true&{query}", method="GET")
        assert (refused.status, refused.error["param"]) == (400, param)


def test_a_paused_job_goes_on_where_it_stopped(shop: Shop) -> None:
    hold = shop.mark("hold")
    job = shop.create(world.chats(10), hyperparameters={"n_epochs": 2})
    shop.until(job, "running")
    run = shop.run_of(job)
    until(lambda: len([e for e in run.read() if e["kind"] == "step"]) == 2, "two steps are done")
    assert shop.post(job, "resume").status == 400
    assert shop.post(job, "pause").json()["status"] == "paused"
    shop.work()
    assert shop.get(job)["status"] == "paused"
    hold.unlink()
    assert shop.post(job, "resume").json()["status"] == "queued"
    done = shop.until(job, "succeeded")
    steps = [event["step"] for event in run.read() if event["kind"] == "step"]
    assert steps == [1, 2, 3, 4, 5]
    assert done["trained_tokens"] == 500
    for verb in ("pause", "resume", "cancel"):
        refused = shop.post(job, verb)
        assert (refused.status, refused.error["param"]) == (400, "fine_tuning_job_id")
        assert "(next: GET /v1/fine_tuning/jobs/" in refused.error["message"]
    assert shop.trail(job["id"]) == [
        ("fine_tuning_job.created", None),
        ("fine_tuning_job.paused", {"status": "running"}),
        ("fine_tuning_job.resumed", {"status": "paused"}),
    ], "and what was refused is no change"


def test_a_job_is_cancelled_before_while_and_after_it_waits(shop: Shop) -> None:
    early = shop.create(world.chats(4))
    ended = shop.post(early, "cancel").json()
    assert ended["status"] == "cancelled"
    assert ended["created_at"] <= ended["finished_at"] <= time.time()
    shop.work()
    assert shop.get(early) == ended
    assert list(shop.platform.home.runs.iterdir()) == []
    shop.mark("hold")
    going = shop.create(world.chats(10), hyperparameters={"n_epochs": 2})
    waiting = shop.create(world.chats(4))
    shop.until(going, "running")
    assert shop.get(waiting)["status"] == "queued"
    for job in (waiting, going):
        ended = shop.post(job, "cancel").json()
        assert (ended["status"], ended["fine_tuned_model"]) == ("cancelled", None)
        assert ended["finished_at"] >= ended["created_at"]
        shop.work()
        assert shop.get(job) == ended
    assert shop.trail(going["id"])[1:] == [("fine_tuning_job.cancelled", {"status": "running"})]


def during(shop: Shop, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object]) -> None:
    """A round of the desk; `meanwhile` happens once, when the first file has been read."""
    read = fine_tuning_desk.import_files

    def read_slowly(*given: Any) -> Any:
        try:
            return read(*given)
        finally:
            monkeypatch.setattr(fine_tuning_desk, "import_files", read)
            meanwhile()

    monkeypatch.setattr(fine_tuning_desk, "import_files", read_slowly)
    shop.desk.round()


@pytest.mark.parametrize("lines", [world.chats(4), ["no chat"]])
def test_what_was_cancelled_while_its_files_were_read_stays_so(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, lines: list[Any]
) -> None:
    job, ended = shop.create(lines), {}
    during(shop, monkeypatch, lambda: ended.update(shop.post(job, "cancel").json()))
    assert ended["status"] == "cancelled"
    for _ in range(3):
        assert shop.get(job) == ended
        shop.work()
    assert list(shop.platform.home.runs.iterdir()) == []


def test_a_paused_job_ends_when_it_is_cancelled_and_not_when_it_was_paused(shop: Shop) -> None:
    shop.mark("hold")
    job = shop.create(world.chats(10), hyperparameters={"n_epochs": 2})
    shop.until(job, "running")
    paused = shop.post(job, "pause").json()
    assert (paused["status"], paused["finished_at"]) == ("paused", None)
    asked_s = int(time.time()) + 1
    until(lambda: time.time() >= asked_s, "a second has passed")
    ended = shop.post(job, "cancel").json()
    assert ended["status"] == "cancelled" and ended["finished_at"] >= asked_s
    shop.work()
    assert shop.get(job) == ended


def test_nothing_takes_a_cancel_back(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    hold = shop.mark("hold")
    job = shop.create(world.chats(10), hyperparameters={"n_epochs": 2})
    shop.until(job, "running")
    with monkeypatch.context() as patch:  # a step that takes longer than one waits for it
        patch.setattr(jobs, "cancel", lambda *_, **__: None)
        told = fine_tuning.cancel(shop.platform, ME, job["id"], wait_s=0.0)
        assert (told.status, told.finished_ms) == ("running", None)
        for verb in ("pause", "resume"):
            assert shop.post(job, verb).status == 400
        assert "is being cancelled" in shop.post(job, "pause").error["message"]
    assert shop.until(job, "cancelled")["status"] == "cancelled"
    hold.unlink()


def test_a_run_that_is_killed_goes_on_by_itself(shop: Shop) -> None:
    die = shop.mark("die")
    job = shop.create(world.chats(10), hyperparameters={"n_epochs": 2})
    shop.until(job, "queued", "running")
    run = shop.run_of(job)

    def dead() -> bool:
        asyncio.run(shop.supervisor.tick())  # the desk would queue it again before one sees it
        return run.state() == "dead"

    until(dead, "the run is dead")
    die.unlink()
    done = shop.until(job, "succeeded")
    told = call(shop.app, f"{JOBS}/{job['id']}/events", method="GET").json()["data"]
    assert "The run goes on from the checkpoint of step 2." in [e["message"] for e in told]
    assert done["trained_tokens"] == 500


def test_a_run_that_dies_again_and_again_fails_its_job(shop: Shop) -> None:
    shop.mark("die")
    job = shop.create(world.chats(10), hyperparameters={"n_epochs": 2})
    done = shop.until(job, "failed")
    assert done["error"]["code"] == "run_died"
    assert "died 3 times" in done["error"]["message"]


def test_a_run_that_fails_says_why(shop: Shop) -> None:
    shop.mark("fail")
    done = shop.until(shop.create(world.chats(10), hyperparameters={"n_epochs": 2}), "failed")
    assert done["error"] == {
        "code": "run_failed", "message": "the loss is NaN at step 3", "param": None,
    }  # fmt: skip


@pytest.mark.parametrize("step", ["before", "after"])
def test_a_server_that_is_killed_while_it_submits_submits_once(
    shop: Shop, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = shop.create(world.chats(4))
    submit: Callable[..., RunFolder] = jobs.submit

    def killed(*given: Any, **named: Any) -> RunFolder:
        if step == "after":
            submit(*given, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "submit", killed)
        with pytest.raises(KeyboardInterrupt):
            shop.desk.round()
    assert shop.get(job)["status"] == "validating_files"
    shop.until(job, "succeeded")
    assert len(list(shop.platform.home.runs.iterdir())) == 1


def test_a_database_that_is_away_while_files_are_read_fails_no_job(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = shop.create(world.chats(4))
    read = fine_tuning_desk.import_files

    def read_while_away(*given: Any) -> Any:
        with away(shop.platform.db):
            return read(*given)

    with monkeypatch.context() as patch:
        patch.setattr(fine_tuning_desk, "import_files", read_while_away)
        shop.desk.round()
    assert shop.get(job)["status"] == "validating_files"
    shop.until(job, "succeeded")


def test_a_job_on_top_of_a_fine_tuned_model_goes_on_with_its_adapter(shop: Shop) -> None:
    first = shop.until(shop.create(world.chats(4)), "succeeded")
    pair = {
        "input": {"messages": [{"role": "user", "content": "Where?"}]},
        "preferred_output": [{"role": "assistant", "content": "In the red box."}],
        "non_preferred_output": [{"role": "assistant", "content": "There."}],
    }
    made = first["fine_tuned_model"]
    second = shop.create([pair] * 5, model=made, method={"type": "dpo"}, suffix="two")
    done = shop.until(second, "succeeded")
    assert done["model"] == made
    assert done["fine_tuned_model"].startswith("ft:tiny:p1:two:")
    assert done["method"]["dpo"]["hyperparameters"]["beta"] == 0.1
    recipe = shop.run_of(second).recipe.read_text()
    assert f'adapter = "{find_adapter(shop.platform, ME, made).path}"' in recipe
    assert 'name = "tiny"' in recipe


def test_a_reinforcement_job_needs_the_fields_its_grader_reads(shop: Shop) -> None:
    lines = [{"messages": [{"role": "user", "content": "6 * 7?"}], "answer": "42"}] * 4
    method = {"type": "reinforcement", "reinforcement": {"grader": RIGHT}}
    done = shop.until(shop.create(lines, method=method), "succeeded")
    assert done["method"]["reinforcement"]["hyperparameters"]["eval_samples"] == 16
    assert 'kind = "grader"' in shop.run_of(done).recipe.read_text()
    lines[2] = {**lines[2], "answer": None}
    del lines[2]["answer"]
    failed = shop.until(shop.create(lines, method=method), "failed")
    assert "line 3: {{item.answer}} is not there" in failed["error"]["message"]


def test_every_body_is_as_the_specification_has_it(shop: Shop) -> None:
    lines = world.chats(4)
    job = shop.create(lines, validation_file=shop.upload(lines), metadata={"a": "b"})
    bad = shop.create([{"no": "chat"}])
    path = f"{JOBS}/{job['id']}"
    check("GET", path, 200, job)
    check("GET", JOBS, 200, call(shop.app, JOBS, method="GET").json())
    done = shop.until(job, "succeeded")
    check("GET", path, 200, done)
    check("GET", f"{JOBS}/{bad['id']}", 200, shop.until(bad, "failed"))
    for part in ("events", "checkpoints"):
        listed = call(shop.app, f"{path}/{part}", method="GET").json()
        assert listed["data"]
        check("GET", f"{path}/{part}", 200, listed)
    early = shop.create(lines)
    check("POST", f"{JOBS}/{early['id']}/cancel", 200, shop.post(early, "cancel").json())
    model = f"/v1/models/{done['fine_tuned_model']}"
    check("DELETE", model, 200, call(shop.app, model, method="DELETE").json())
