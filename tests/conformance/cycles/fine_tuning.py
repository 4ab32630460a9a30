"""Fine-tuning jobs that train, what they leave, and graders."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conformance.cycle import Desk, cycle, every, gone, ids, until
from tests.tiny.world import chats

STEPS = 12


@cycle(
    "POST /fine_tuning/jobs",
    "GET /fine_tuning/jobs",
    "GET /fine_tuning/jobs/{fine_tuning_job_id}",
    "GET /fine_tuning/jobs/{fine_tuning_job_id}/events",
    "GET /fine_tuning/jobs/{fine_tuning_job_id}/checkpoints",
    "DELETE /models/{model}",
)
async def fine_tuning(desk: Desk) -> None:
    jobs = desk.client.fine_tuning.jobs
    made = await _job(desk, epochs=STEPS)
    done = await until(
        lambda: jobs.retrieve(made.id),
        lambda found: found.status in ("succeeded", "failed", "cancelled"),
    )
    assert done.status == "succeeded", done.error
    assert done.trained_tokens > 0
    assert made.id in await ids(jobs.list(limit=1))
    told = [event.message for event in await every(jobs.list_events(made.id, limit=5))]
    assert sum(message.startswith("Step ") for message in told) == STEPS, told
    checkpoints = await every(jobs.checkpoints.list(made.id))
    assert checkpoints and checkpoints[0].step_number == STEPS
    taught = done.fine_tuned_model
    answer = await desk.client.chat.completions.create(
        model=taught, messages=[{"role": "user", "content": "Hi"}], max_tokens=2
    )
    assert answer.model == taught
    await desk.client.models.delete(taught)
    await gone(desk.client.models.retrieve(taught))


@cycle(
    "POST /fine_tuning/jobs/{fine_tuning_job_id}/pause",
    "POST /fine_tuning/jobs/{fine_tuning_job_id}/resume",
    "POST /fine_tuning/jobs/{fine_tuning_job_id}/cancel",
)
async def fine_tuning_that_is_stopped(desk: Desk) -> None:
    jobs = desk.client.fine_tuning.jobs
    made = await _job(desk, epochs=50, batch_size=1)

    async def becomes(*statuses: str) -> None:
        await until(lambda: jobs.retrieve(made.id), lambda found: found.status in statuses)

    await becomes("queued", "running")
    await jobs.pause(made.id)
    await becomes("paused")
    await jobs.resume(made.id)
    await becomes("queued", "running")
    await jobs.cancel(made.id)
    await becomes("cancelled")


@cycle("POST /fine_tuning/alpha/graders/run", "POST /fine_tuning/alpha/graders/validate")
async def graders(desk: Desk) -> None:
    here = desk.client.fine_tuning.alpha.graders
    grader: Any = {
        "type": "text_similarity",
        "name": "like",
        "input": "{{sample.output_text}}",
        "reference": "{{item.answer}}",
        "evaluation_metric": "fuzzy_match",
    }
    assert (await here.validate(grader=grader)).grader.name == "like"
    for said, reward in (("the red box", 1.0), ("no", 0.0)):
        item = {"answer": "the red box"}
        done = await here.run(grader=grader, model_sample=said, item=item)
        assert done.reward == pytest.approx(reward, abs=0.35)


async def _job(desk: Desk, epochs: int, batch_size: int = 10) -> Any:
    data = "\n".join(map(json.dumps, chats(10))).encode()
    file = await desk.client.files.create(file=("chats.jsonl", data), purpose="fine-tune")
    return await desk.client.fine_tuning.jobs.create(
        model=desk.model,
        training_file=file.id,
        seed=1,
        suffix=desk.word,
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": epochs, "batch_size": batch_size}},
        },
    )
